"""The tokenizer of SmartEdit's language model: LLaMA's pieces and added tokens, as its training used them.

The rule is that of the class `LlamaTokenizer` of transformers 4.28, with which SmartEdit was trained. Classes of later
versions give other ids:

- A text is split at every added token and at <unk>, <s> and </s>.
- White space on both sides of an added token is dropped; beside <unk>, <s> and </s> it stays.
- Every remaining part is encoded by itself, so each begins with the prefix "▁" of SentencePiece; an empty one has no
  ids. Spaces within a part are kept, all of them.
- The first id is that of <s>.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from tokenizers import AddedToken, Tokenizer, models, normalizers, processors

from rewardedit_jax.weights.faults import AGAIN, WeightFileError
from rewardedit_jax.weights.files import read_json, write_json
from rewardedit_jax.weights.sentencepiece_model import BytePairs, read_sentencepiece

UNKNOWN, START, END = _SPECIAL = "<unk>", "<s>", "</s>"  # ids 0, 1 and 2; 0 is the padding too
END_ID = _SPECIAL.index(END)
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
TEXT_LENGTH = 256  # ids of a conversation in SmartEdit's training, before the features of the image come in
_SPACE = "▁"  # SentencePiece's character for a space
_JSON, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_MODEL, _ADDED = "tokenizer.model", "added_tokens.json"


@dataclass(frozen=True, eq=False)
class LlamaTokenizer:
    """A tokenizer of LLaMA with added tokens. It is thread-safe."""

    backend: Tokenizer
    added: Mapping[str, int]  # token → id, without <unk>, <s> and </s>
    length: int = TEXT_LENGTH  # ids of a text, padding included

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, those of added tokens included."""
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids, that of <s> first; no end token, which a text spells out as "</s>".

        White space is Unicode's property White_Space. The published class strips U+001C to U+001F too.
        """
        return self.backend.encode(text).ids

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, with which transformers gives equal ids."""
        # Not LlamaTokenizer: the class of this name in transformers 5 ignores the settings in tokenizer.json.
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"}
        tokens = {"unk_token": UNKNOWN, "bos_token": START, "eos_token": END, "pad_token": UNKNOWN}
        settings |= {"model_max_length": self.length, "clean_up_tokenization_spaces": False}
        write_json({**settings, **tokens}, Path(directory, _CONFIG))
        self.backend.save(str(Path(directory, _JSON)))

    def digest(self) -> str:
        """16 hexadecimal digits, equal for tokenizers that give equal ids, and as many."""
        return hashlib.sha256(repr((self.backend.to_str(), self.length)).encode()).hexdigest()[:16]


class _Model(msgspec.Struct):
    """The part of tokenizer.json that holds the pieces."""

    type: str
    vocab: dict[str, int]
    merges: list[str | list[str]]  # "left right", or since tokenizers 0.20 [left, right]
    byte_fallback: bool = False


class _Added(msgspec.Struct):
    id: int
    content: str


class _Settings(msgspec.Struct):
    model_max_length: Annotated[int, msgspec.Meta(ge=1)] = TEXT_LENGTH


class _TokenizerFile(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []


def load_language_tokenizer(directory: str | Path, added: Sequence[str] | None = None) -> LlamaTokenizer:
    """The tokenizer in a folder with tokenizer.json, or with tokenizer.model and, for added tokens, added_tokens.json.

    Only pieces, merges and added tokens are read: the rule above takes the place of other settings.

    Args:
      added: tokens in place of those that the folder adds, in the order of their ids.
    Raises:
      FileNotFoundError: the folder has neither file.
      WeightFileError: a file is damaged, or is the tokenizer of another kind of model.
    """
    directory = Path(directory)
    length = TEXT_LENGTH  # in a folder of LLaVA, model_max_length counts features of the image too
    if (file := directory / _JSON).is_file():
        pairs, own = _read_json(file)
        if (settings := directory / _CONFIG).is_file():
            length = read_json(settings, _Settings).model_max_length
    elif (file := directory / _MODEL).is_file():
        pairs, listed = read_sentencepiece(file), directory / _ADDED
        own = read_json(listed, dict[str, int]) if listed.is_file() else {}
    else:
        raise FileNotFoundError(f"{directory} lacks {_JSON} (or, instead, {_MODEL} and {_ADDED}): copy it there.")
    if added is None:
        ids = {token: own[token] for token in sorted(own, key=own.__getitem__)}
    else:
        ids = {token: len(pairs.vocabulary) + i for i, token in enumerate(added)}
    return LlamaTokenizer(_backend(pairs, ids, file), ids, length)


def _read_json(file: Path) -> tuple[BytePairs, dict[str, int]]:
    """The pieces and added tokens in a tokenizer.json."""
    content = read_json(file, _TokenizerFile)
    model = content.model
    if model.type != "BPE" or not model.byte_fallback:
        raise WeightFileError(
            f"{file}: model.type={model.type!r}, byte_fallback={model.byte_fallback}: expected 'BPE' with byte "
            "fallback, the tokenizer of the first LLaMA."
        )
    # No piece contains a space: SentencePiece writes ▁ for it.
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model.merges]
    added = {token.content: token.id for token in content.added_tokens if token.content not in _SPECIAL}
    return BytePairs(model.vocab, pairs), added


def _backend(pairs: BytePairs, added: Mapping[str, int], file: Path) -> Tokenizer:
    """The rule above, in the terms of `tokenizers`."""
    tokenizer = Tokenizer(_model(pairs, file))
    # Not the pre-tokenizer Metaspace: it adds no prefix to a text that begins with a space.
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, lstrip=True, rstrip=True) for token in added])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 1)])
    if gaps := [token for token, i in added.items() if tokenizer.token_to_id(token) != i]:
        raise WeightFileError(
            f"{file}: added tokens {', '.join(gaps)}: expected ids from {len(pairs.vocabulary)} on, without a gap."
        )
    return tokenizer


def _model(pairs: BytePairs, file: Path) -> models.BPE:
    """Byte-pair encoding; characters that are no piece are encoded as bytes."""
    if missing := [piece for piece in (*_SPECIAL, *_BYTES) if piece not in pairs.vocabulary]:
        raise WeightFileError(f"{file} lacks the pieces {', '.join(missing[:4])}: expected LLaMA's. {AGAIN}")
    if (ids := [pairs.vocabulary[piece] for piece in _SPECIAL]) != [0, 1, 2]:
        raise WeightFileError(f"{file}: ids {ids} for {', '.join(_SPECIAL)}: expected 0, 1 and 2.")
    try:
        return models.BPE(pairs.vocabulary, pairs.merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    except Exception as error:  # tokenizers has no other type
        raise WeightFileError(f"{file}: {error}. {AGAIN}") from error
