"""Conversations of SmartEdit (arXiv:2312.06739): instructions → token ids, with the places of the image and the reply.

    SYSTEM USER: <request> ASSISTANT: <reply></s>

The request quotes the instruction behind `<im_start> <img_0> <im_end>`, where features of the source image take the
place of <img_0>. The reply ends with all image tokens, <img_0> to <img_31> in published models. A trained model always
gives this reply, so it is given here, and the states of its image tokens follow from one pass; a reply of the model's
own may take its place (`find_replies`). Newlines are deleted without a space in their place; all other white space
stays, as in SmartEdit's code.
"""

from collections.abc import Callable, Sequence
from itertools import count, takewhile
from typing import Any, NamedTuple

import flax.struct
import numpy as np
from jaxtyping import Int32

from rewardedit_jax.data.llama_tokenizer import END, END_ID, UNKNOWN, LlamaTokenizer

NO_TARGET = -100  # marks ids without a loss
# Functional: published weights were trained with this sentence.
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant can generate <img>. The "
    "assistant needs to conduct the image to image translation task based on given image and text information. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions."
)
_WRAPPERS = ("<img>", "<im_start>", "<im_end>")
_PLACEHOLDER = "<img_0>"  # in the request; the first of the reply's tokens as well
_CAPTION, _IMAGE = "[cap]", " [img]."  # what a template leaves open
_REMEDY = "convert the published model again with launch/convert.py"


class TemplatePair(NamedTuple):
    """A request with one "[cap]" and a reply with one " [img]."."""

    request: str
    reply: str


# Number 29 of the thirty that training and inference of SmartEdit draw from.
PAIR = TemplatePair(
    "Please generate a visual that represents the former picture and message [cap].",
    "Certainly, I can generate the visual you're looking for [img].",
)


@flax.struct.dataclass
class Conversations:
    """Conversations as the language model reads them, the image not yet in its place. A row may be padded behind."""

    ids: Any  # int32[b, l], zeros behind `lengths`
    lengths: Any  # int32[b]: ids of the row, with <s> and </s>
    image_at: Any  # int32[b]: index of the placeholder that features of the image replace
    reply_from: Any  # int32[b]: index of the reply's first id; from there on, training predicts every id
    reply_at: Any  # int32[b, k]: indices of the reply's image tokens, whose states are the keys of the Q-Former
    editing: Any  # bool[b]: False where the instruction was emptied


def read_conversations(
    tokenizer: LlamaTokenizer,
    instructions: Sequence[str],
    length: int,
    report_cut: Callable[[str, int], None],
    *,
    pair: TemplatePair = PAIR,
    empty_overlong: bool = False,
) -> Conversations:
    """The conversations about some instructions, in `length` ids each.

    An instruction that is too long is reported, with the number of ids that do not fit. It loses its end, never the
    reply or the placeholder.

    Args:
      empty_overlong: an instruction that is too long is emptied and its row marked as no edit, as in SmartEdit's
        training on InstructPix2Pix.
    Raises:
      ValueError: an instruction contains an added token or <unk>, or is not valid Unicode; a template lacks its slot;
        the tokenizer lacks tokens; `length` does not hold the empty conversation.
    """
    images = image_tokens(tokenizer)
    _check_pair(tokenizer, pair)

    def encode(instruction: str) -> _Row:
        prompt, reply = conversation(instruction, images, pair)
        return _Row(tokenizer.encode(prompt + reply), len(tokenizer.encode(prompt)))

    rows = []
    for instruction in instructions:
        _check_text(tokenizer, instruction.replace("\n", ""), "the instruction")  # a newline may split a token
        row = encode(instruction)
        if (excess := len(row.ids) - length) > 0:
            report_cut(instruction, excess)
            row = _empty(encode, length) if empty_overlong else _shorten(encode, instruction, length)
        rows.append(row)
    return _arrays(rows, [tokenizer.added[token] for token in images], length)


def image_tokens(tokenizer: LlamaTokenizer) -> tuple[str, ...]:
    """The image tokens that a tokenizer has, <img_0> first. ValueError if it lacks tokens of conversations."""
    if missing := [token for token in (*_WRAPPERS, _PLACEHOLDER) if token not in tokenizer.added]:
        raise ValueError(f"the language model's tokenizer lacks {', '.join(missing)}: {_REMEDY}.")
    return tuple(takewhile(tokenizer.added.__contains__, map("<img_{}>".format, count())))


def conversation(instruction: str, images: Sequence[str], pair: TemplatePair = PAIR) -> tuple[str, str]:
    """The prompt, up to "ASSISTANT:", and what follows, from the space on. Their join is to be encoded as one text.

    Args:
      images: the image tokens of the reply.
    """
    start, end = _WRAPPERS[1:]
    request = pair.request.replace(_CAPTION, f'"{start} {_PLACEHOLDER} {end}{instruction}"')
    reply = pair.reply.replace(_IMAGE, "".join(f" {token}" for token in images))
    prompt, rest = f"{_SYSTEM} USER: {request} ASSISTANT:", f" {reply}{END}"
    return prompt.replace("\n", ""), rest.replace("\n", "")


def language_targets(conversations: Conversations) -> Int32[np.ndarray, "b l"]:
    """The ids of the replies with their end token, and NO_TARGET elsewhere; not yet moved by one.

    SmartEdit's code takes the first " ASSISTANT: " for the beginning of the reply, one within an instruction too. Here
    an instruction is never a target.
    """
    at = np.arange(conversations.ids.shape[1])
    reply = (at >= conversations.reply_from[:, None]) & (at < conversations.lengths[:, None])
    return np.where(reply, conversations.ids, np.int32(NO_TARGET))


def find_replies(
    ids: Int32[np.ndarray, "b l"], reply_from: Int32[np.ndarray, " b"], images: Sequence[int]
) -> list[Int32[np.ndarray, " k"] | None]:
    """For rows that a model has completed, the indices of the reply's image tokens; None if it is no picture's.

    A reply, which ends at its first </s>, has to have every image token once, in their order. SmartEdit's code asserts
    that there are as many, in any order.

    Args:
      images: ids of the image tokens, in order.
    """
    found = []
    for row, first in zip(ids.tolist(), reply_from.tolist(), strict=True):
        reply = row[first : row.index(END_ID, first)] if END_ID in row[first:] else row[first:]
        at = [i for i, token in enumerate(reply, first) if token in images]
        found.append(np.asarray(at, np.int32) if [row[i] for i in at] == list(images) else None)
    return found


class _Row(NamedTuple):
    ids: list[int]
    reply_from: int
    editing: bool = True


def _empty(encode: Callable[[str], _Row], length: int) -> _Row:
    """The conversation without an instruction, which is no edit."""
    row = encode("")
    if len(row.ids) > length:
        raise ValueError(f"length={length}: expected {len(row.ids)} or more, the ids of an empty conversation.")
    return row._replace(editing=False)


def _shorten(encode: Callable[[str], _Row], instruction: str, length: int) -> _Row:
    """The conversation with the beginning of an instruction, as much as fits."""
    # By bisection: the first `kept` characters fit. By characters, as not every script has spaces between words.
    kept, beyond, row = 0, len(instruction), _empty(encode, length)._replace(editing=True)
    while beyond - kept > 1:
        middle = (kept + beyond) // 2
        if len((shorter := encode(instruction[:middle])).ids) <= length:
            kept, row = middle, shorter
        else:
            beyond = middle
    return row


def _arrays(rows: Sequence[_Row], images: Sequence[int], length: int) -> Conversations:
    ids = np.zeros((len(rows), length), np.int32)
    for padded, row in zip(ids, rows, strict=True):
        padded[: len(row.ids)] = row.ids
    # The first image token of a row is the placeholder and the others are the reply's: no other text contains one.
    at = np.nonzero(np.isin(ids, images))[1].reshape(len(rows), 1 + len(images)).astype(np.int32)
    return Conversations(
        ids=ids,
        lengths=np.asarray([len(row.ids) for row in rows], np.int32),
        image_at=at[:, 0],
        reply_from=np.asarray([row.reply_from for row in rows], np.int32),
        reply_at=at[:, 1:],
        editing=np.asarray([row.editing for row in rows], bool),
    )


def _check_pair(tokenizer: LlamaTokenizer, pair: TemplatePair) -> None:
    for name, slot in (("request", _CAPTION), ("reply", _IMAGE)):
        text = getattr(pair, name)
        _check_text(tokenizer, text, f"the template's {name}")
        if text.count(slot) != 1:
            raise ValueError(f"the template's {name} {text!r} has {text.count(slot)} {slot!r}: expected 1.")


def _check_text(tokenizer: LlamaTokenizer, text: str, name: str) -> None:
    """Raises ValueError for a text that would change the conversation around it."""
    # An image token would be a second image or one more key. <unk> has the id of the padding, which training masks.
    if found := [token for token in (UNKNOWN, *tokenizer.added) if token in text]:
        raise ValueError(f"{name} contains {', '.join(found)}, a token of the conversation: remove it from {text!r}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} {text!r} is not valid Unicode ({error}): type it again.") from error
