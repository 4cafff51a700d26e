"""A tokenizer of LLaMA's kind, small enough to make in every test: SentencePiece's file is written field by field."""

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from rewardedit_jax.data.smartedit_prompts import conversation
from rewardedit_jax.shapes.tokenizers import learn_merges

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SETTINGS = ({3: 2, 35: 1}, {4: 0})  # trainer: byte-pair encoding, byte fallback; normalizer: extra spaces are kept
# LLaMA's pieces of spaces in the order of their ids; all have the same, lowest score.
SPACES = (2, 4, 8, 5, 16, 6, 12, 13, 10, 14, 3, 9, 7, 11, 15)

Piece = tuple[str, float, int]  # text, score, type


def toy_pieces(spaces: Sequence[int] = SPACES) -> list[Piece]:
    """Special tokens, bytes, spaces, learnt pieces by their scores and characters, in LLaMA's order."""
    text = re.sub("<[^>]*>", " ", "".join(conversation("make the lamp blue", ())))
    words = sorted({f"▁{word}" for word in text.split()})
    learnt = dict.fromkeys("".join(pair) for pair in learn_merges([list(word) for word in words]))
    characters = sorted({character for word in words for character in word})
    runs = [("▁" * size, -1e9, NORMAL) for size in spaces]
    scored = [(piece, -float(rank), NORMAL) for rank, piece in enumerate([*learnt, *characters])]
    special = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    return [*special, *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)), *runs, *scored]


def added_tokens(pieces: Sequence[Piece], images: int = 4) -> dict[str, int]:
    """SmartEdit's tokens behind the pieces."""
    tokens = ["<img>", "<im_start>", "<im_end>", *(f"<img_{k}>" for k in range(images))]
    return {token: len(pieces) + i for i, token in enumerate(tokens)}


def write_model(file: Path, pieces: Sequence[Piece], settings: Sequence[dict[int, int | bytes]] = SETTINGS) -> Path:
    """A tokenizer.model with these pieces and these fields of the trainer and the normalizer."""
    messages = [
        _field(1, text.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _field(3, kind)
        for text, score, kind in pieces
    ]
    parts = [b"".join(_field(*field) for field in part.items()) for part in settings]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        b"".join(
            [*(_field(1, message) for message in messages), *(_field(2 + i, part) for i, part in enumerate(parts))]
        )
    )
    return file


def write_toy_tokenizer(directory: Path, images: int = 4) -> Path:
    """A folder with tokenizer.model and added_tokens.json."""
    pieces = toy_pieces()
    write_model(directory / "tokenizer.model", pieces)
    (directory / "added_tokens.json").write_text(json.dumps(added_tokens(pieces, images)), "utf-8")
    return directory


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])
