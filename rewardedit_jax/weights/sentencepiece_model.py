"""Pieces and merges of a SentencePiece model (`tokenizer.model`) of LLaMA's kind, read without that package.

The file is a protocol buffer, the message ModelProto of google/sentencepiece, src/sentencepiece_model.proto. Its fields
are read from the wire format: the package would be needed for this file alone, and transformers 5 does not read it
without the package. Only byte-pair encoding with byte fallback, and texts that are not normalised, are supported.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rewardedit_jax.weights.faults import AGAIN, WeightFileError, impostor

# Field numbers of ModelProto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
# Values of SentencePiece.Type.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
# (part, field number, name, default of the format, what LLaMA has): with other values, texts have other pieces.
_SETTINGS = (
    (_TRAINER, 3, "model_type", 1, 2),  # 1: unigram, 2: byte-pair encoding
    (_TRAINER, 24, "treat_whitespace_as_suffix", 0, 0),
    (_TRAINER, 35, "byte_fallback", 0, 1),
    (_NORMALIZER, 2, "precompiled_charsmap", b"", b""),
    (_NORMALIZER, 3, "add_dummy_prefix", 1, 1),
    (_NORMALIZER, 4, "remove_extra_whitespaces", 1, 0),
    (_NORMALIZER, 5, "escape_whitespaces", 1, 1),
)


class BytePairs(NamedTuple):
    """The vocabulary of byte-pair encoding, and the pairs that it joins, best first."""

    vocabulary: Mapping[str, int]
    merges: list[tuple[str, str]]


class _Piece(NamedTuple):
    text: str
    score: float
    type: int


def read_sentencepiece(file: Path) -> BytePairs:
    """The vocabulary of a model file and the merges that give SentencePiece's encoding.

    Raises:
      WeightFileError: the file is not a SentencePiece model, is damaged, or has other settings than LLaMA's.
    """
    try:
        pieces, parts = _parse(file.read_bytes())
    except (OSError, IndexError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        # Bytes of another format fail in any of these ways.
        reason = impostor(file) or f"it is not a SentencePiece model ({error}). {AGAIN}"
        raise WeightFileError(f"cannot read {file}: {reason}") from error
    for part, number, name, default, expected in _SETTINGS:
        if (found := parts[part].get(number, default)) != expected:
            raise WeightFileError(f"{file}: {name}={found!r}: expected {expected!r}, as in LLaMA's tokenizer.model.")
    if others := [p.text for p in pieces if p.type not in (_NORMAL, _UNKNOWN, _CONTROL, _BYTE)]:
        raise WeightFileError(f"{file}: user-defined or unused pieces, such as {others[0]!r}, are not supported.")
    return BytePairs({piece.text: i for i, piece in enumerate(pieces)}, _merges(pieces))


def _merges(pieces: list[_Piece]) -> list[tuple[str, str]]:
    """All pairs of pieces that form a piece.

    SentencePiece joins the neighbours that form the piece of the highest score, the leftmost of equals. Merges in the
    order of the scores do the same, unless pairs overlap that form pieces of one score. That occurs in runs of spaces:
    in LLaMA's file all their pieces have the lowest score. A run grows from its left end, hence ties in the order of
    the left part's length, longest first, then of the right part's.
    """
    normal = {piece.text: piece.score for piece in pieces if piece.type == _NORMAL}
    splits = (
        (-score, -at, at - len(text), text[:at], text[at:])
        for text, score in normal.items()
        for at in range(1, len(text))
        if text[:at] in normal and text[at:] in normal
    )
    return [(left, right) for *_, left, right in sorted(splits, key=lambda split: split[:3])]


def _parse(data: bytes) -> tuple[list[_Piece], dict[int, dict]]:
    """The pieces, and the settings of trainer and normalizer by field number."""
    pieces, parts = [], {_TRAINER: {}, _NORMALIZER: {}}
    for number, value in _fields(data):
        if number == _PIECES:
            fields = dict(_fields(value))
            (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
            pieces.append(_Piece(fields[1].decode("utf-8"), score, fields.get(3, _NORMAL)))
        elif number in parts:
            parts[number] = dict(_fields(value))
    return pieces, parts


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message in protobuf's wire format: a varint as int, the other types as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(message, at)
        elif wire_type in (1, 2, 5):
            size, at = _varint(message, at) if wire_type == 2 else ({1: 8, 5: 4}[wire_type], at)
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"wire type {wire_type}")
        if at > len(message):
            raise ValueError("it ends within a field")
        yield number, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
