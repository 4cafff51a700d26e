"""MagicBrush: edits by people, in sessions of one to three turns (Zhang et al., NeurIPS 2023, arXiv:2306.10012)."""

from pathlib import Path
from typing import Annotated

import msgspec

from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.data.json_files import validate
from rewardedit_jax.data.parquet import ParquetRows, embedded_bytes
from rewardedit_jax.data.records import Instruction, raise_or_log

_IMAGES = ("source_img", "target_img")
_LAYOUT = """expected:
  <root>/
    data/train-*.parquet   columns img_id, turn_index, instruction, source_img and target_img (each {bytes, path})
    data/dev-*.parquet     the same columns
Hugging Face hub: osunlp/MagicBrush."""


class _Turn(msgspec.Struct):
    """The columns without the images."""

    img_id: str  # of the session
    turn_index: Annotated[int, msgspec.Meta(ge=1)]
    instruction: Instruction


class MagicBrush(StoredEdits):
    """The turns of one split: sessions in the order of the files, and the turns of a session one after the other.

    The source of a turn is the edited image of the turn before. `extra` has "session" and "turn" (from 1). Keys are
    "row of all:session/turn".
    """

    def __init__(self, root: str | Path, *, split: str = "train", skip_bad: bool = False):
        """Reads all columns but the images.

        Args:
          root: a directory, or one file, which is read whatever its split.
        Raises:
          FileNotFoundError, BadRecords: as `ParquetRows`.
          BadRecords: listing every malformed row, unless `skip_bad` leaves them out.
        """
        columns = _Turn.__struct_fields__
        self._rows = ParquetRows(root, (*columns, *_IMAGES), _LAYOUT, f"{split}-*.parquet")
        named = ((self._rows.name(number), row) for number, row in enumerate(self._rows.only(columns)))
        entries, faults = validate(named, _Turn)
        self.faults = raise_or_log(faults, str(root), skip_bad)
        first: dict[str, int] = {}  # row of each session
        for entry in entries:
            first.setdefault(entry.value.img_id, entry.number)
        self._turns = sorted(entries, key=lambda entry: (first[entry.value.img_id], entry.value.turn_index))

    def __len__(self) -> int:
        return len(self._turns)

    def instructions(self) -> list[str]:
        """All instructions."""
        return [entry.value.instruction for entry in self._turns]

    def keys(self) -> list[str]:
        return [f"{number}:{turn.img_id}/{turn.turn_index}" for number, _, turn in self._turns]

    def fingerprint_texts(self) -> list[str]:
        return [*self.keys(), *self.instructions()]

    def encoded(self, index: int) -> EncodedEdit:
        number, place, turn = self._turns[index]
        row, names = self._rows[number], tuple(f"{column} of {place}" for column in _IMAGES)
        images = (embedded_bytes(row[column], name) for column, name in zip(_IMAGES, names, strict=True))
        key, extra = f"{number}:{turn.img_id}/{turn.turn_index}", {"session": turn.img_id, "turn": turn.turn_index}
        return EncodedEdit(key, turn.instruction, *images, extra=extra, names=names)
