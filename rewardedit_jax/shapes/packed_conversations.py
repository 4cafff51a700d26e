"""Several conversations about one picture in one row, which the language model reads as if each were alone.

All conversations of SmartEdit begin alike, and most of what is read is the picture. A row has both once; a prompt
attends to them and to itself, and its positions go on from theirs. Axes: b rows, l tokens, p of them behind the image,
k image tokens of a reply, n prompts of which the first m are instructions.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rewardedit_jax.data.llama_tokenizer import END, LlamaTokenizer
from rewardedit_jax.data.smartedit_prompts import NO_TARGET, conversation, image_tokens
from rewardedit_jax.models.decoder import causal_mask
from rewardedit_jax.models.llava import Llava, splice

_IMAGE_END = "<im_end>"  # the last of the tokens that all conversations share
NO_KIND = -1


class Prompt(NamedTuple):
    """What follows the image in a conversation."""

    ids: tuple[int, ...]
    reply_from: int  # index of the first id that is predicted
    kind: int  # for evaluation


@flax.struct.dataclass
class PackedRows:
    """Rows of prompts, instructions first."""

    ids: Any  # int32[b, l], zeros behind the last prompt
    positions: Any  # int32[b, l]: within the conversation, the image counted as one token
    segments: Any  # int32[b, l]: 0 for what all prompts share, the number of the prompt from 1 on, -1 for padding
    targets: Any  # int32[b, p]: the ids of replies, NO_TARGET elsewhere
    image_at: Any  # int32[b]: index of the image's placeholder
    reply_at: Any  # int32[b, m, k]: indices of the image tokens in the replies to the instructions
    kinds: Any  # int32[b, n]: of the prompts; NO_KIND behind the last


@lru_cache(maxsize=2**16)  # the world has some ten thousand prompts, and each comes again and again
def make_prompt(tokenizer: LlamaTokenizer, text: str, answer: str | None = None, kind: int = NO_KIND) -> Prompt:
    """The prompt of a question with its answer, or without one that of an instruction."""
    prompt, reply = conversation(text, image_tokens(tokenizer))
    # Every part between added tokens is encoded by itself, so that what comes before does not matter.
    prompt = _IMAGE_END + prompt.partition(_IMAGE_END)[2]
    behind, reply = tokenizer.encode(prompt), reply if answer is None else f" {answer}{END}"
    whole = tokenizer.encode(prompt + reply)
    return Prompt(tuple(whole[2:]), len(behind) - 2, kind)  # without <s> and <im_end>


def shared_ids(tokenizer: LlamaTokenizer) -> list[int]:
    """The ids of what all conversations begin with: up to the token behind the image."""
    ids = tokenizer.encode(conversation("", image_tokens(tokenizer))[0])
    return ids[: ids.index(tokenizer.added[_IMAGE_END]) + 1]


def pack(tokenizer: LlamaTokenizer, rows: Sequence[Sequence[Prompt]], length: int, most: int) -> PackedRows:
    """The prompts of each row one after the other, as many as fit into `length` ids.

    Args:
      rows: of each row m instructions first, which have to fit.
      length: p.
      most: n; more prompts than that are left out.
    """
    begin, count = shared_ids(tokenizer), len(rows)
    images = [tokenizer.added[token] for token in image_tokens(tokenizer)]
    ids, positions, segments = (np.full((count, len(begin) + length), fill, np.int32) for fill in (0, 0, -1))
    ids[:, : len(begin)], positions[:, : len(begin)], segments[:, : len(begin)] = begin, np.arange(len(begin)), 0
    targets = np.full((count, length), NO_TARGET, np.int32)
    kinds = np.full((count, most), NO_KIND, np.int32)
    for row, prompts in enumerate(rows):
        at = 0
        for number, prompt in enumerate(_that_fit(prompts, length)[:most]):
            place = slice(len(begin) + at, len(begin) + at + len(prompt.ids))
            ids[row, place], segments[row, place] = prompt.ids, number + 1
            positions[row, place] = len(begin) + np.arange(len(prompt.ids))
            targets[row, at + prompt.reply_from : at + len(prompt.ids)] = prompt.ids[prompt.reply_from :]
            kinds[row, number], at = prompt.kind, at + len(prompt.ids)
    # Only replies to instructions have image tokens.
    reply_at = np.nonzero(np.isin(ids, images) & (segments > 0))[1].reshape(count, -1, len(images)).astype(np.int32)
    image_at = np.full(count, begin.index(images[0]), np.int32)
    return PackedRows(ids, positions, segments, targets, image_at, reply_at, kinds)


def _that_fit(prompts: Sequence[Prompt], length: int) -> list[Prompt]:
    """The prompts without those for which too little room is left."""
    kept = []
    for prompt in prompts:
        if len(prompt.ids) <= length:
            kept.append(prompt)
            length -= len(prompt.ids)
    return kept


def read_packed(llava: Llava, rows: PackedRows, features: Float[Array, "b v c"]) -> Float[Array, "b s d"]:
    """The hidden states of rows, s = l - 1 + v; for `llava.apply(..., method=read_packed)`."""
    count, at = features.shape[1], rows.image_at[:, None]
    x = splice(llava.decoder.embed(rows.ids), llava.mm_projector(features), rows.image_at)
    # What is behind the image moves on by its features, less the token whose place they take.
    moved = jnp.where(rows.positions > at, rows.positions + count - 1, rows.positions)
    inside = jnp.arange(count) + at
    positions = splice(moved[..., None], inside[..., None], rows.image_at)[..., 0]
    segments = splice(rows.segments[..., None], jnp.zeros_like(inside)[..., None], rows.image_at)[..., 0]
    return llava.decoder(x, positions, causal_mask(segments))
