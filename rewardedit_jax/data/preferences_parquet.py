"""EditReward-Data as the Hugging Face hub has it: parquet with the images inside, one row per judged pair.

Read by row group (`parquet_rows`): good in order, slow when shuffled. 170,772 rows, 87 GB, CC BY-NC 4.0.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardedit_jax.data.bad_records import settle
from rewardedit_jax.data.parquet_rows import ParquetRows, embedded_image
from rewardedit_jax.data.preferences import Preference, PreferenceLabel, rating_fault, warn_contradictions

_PREFERRED = {"leftvote": "a", "rightvote": "b", "tie": "tie"}
_IMAGES = ("source_img", "left_output_image", "right_output_image")
_TEXTS = ("key", "unique_key", "instruction", "left_img_rel", "right_img_rel")
_SCORES = tuple(
    f"{side}_{score}_score" for side in ("left", "right") for score in ("instruction_following", "quality_aesthetic")
)
_EXPECTED = f"""expected:
  <root>/
    *.parquet   columns {", ".join(_TEXTS)}, vote_type ({" | ".join(_PREFERRED)}),
                {", ".join(_SCORES)} (1..4, or all four null),
                {", ".join(_IMAGES)} (each {{bytes, path}})
Hugging Face hub: TIGER-Lab/EditReward-Data."""


class PreferenceParquet:
    """The rows of EditReward-Data, in order: a is the left edit, b the right. Keys are "row of all:unique_key"."""

    def __init__(self, files: str | Path | Sequence[str | Path], *, skip_bad: bool = False):
        """Reads all columns but the images, of every file; contradictory pairs are told by the log, and kept.

        Raises:
          FileNotFoundError: if the directory, its parquet files or a named file are missing.
          BadRecords: naming a file that is not parquet or lacks a column; listing every row with an unknown vote, a
            missing text, a blank instruction, a rating outside 1..4 or only some of the four, unless `skip_bad`, which
            leaves them out and logs their number. An image that is missing or unreadable shows at access
            (`scoring.pairs`).
        """
        self._rows = ParquetRows(files, (*_TEXTS, "vote_type", *_SCORES, *_IMAGES), _EXPECTED)
        told = self._rows.only((*_TEXTS, "vote_type", *_SCORES))
        faults = [_fault(row) for row in told]
        settle([f"{_key(i, told[i])}: {fault}" for i, fault in enumerate(faults) if fault], str(files), skip_bad)
        self._kept = [i for i, fault in enumerate(faults) if not fault]
        self.labels = [_label(i, told[i]) for i in self._kept]
        warn_contradictions(self.labels, str(files))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Preference:
        """Raises `BadRecords` or `ImageError`, naming column, key and file, if an image is missing or unreadable."""
        label, number = self.labels[index], self._kept[index]
        row, name = self._rows[number], f"{label.key} ({self._rows.name(number)})"
        images = (embedded_image(row[column], f"{column} of {name}") for column in _IMAGES)
        return Preference(**vars(label), **dict(zip(("source", "edited_a", "edited_b"), images, strict=True)))


def _fault(row: dict[str, Any]) -> str | None:
    if lacking := [column for column in _TEXTS if not isinstance(row[column], str)]:
        return f"no text under {', '.join(lacking)}"
    if not row["instruction"].strip():
        return "blank instruction"
    if row["vote_type"] not in _PREFERRED:
        return f"unknown vote_type {row['vote_type']!r}, known are {', '.join(_PREFERRED)}"
    return rating_fault({column: row[column] for column in _SCORES})


def _key(number: int, row: dict[str, Any]) -> str:
    return f"{number}:{row['unique_key']}"


def _label(number: int, row: dict[str, Any]) -> PreferenceLabel:
    scores = [row[column] for column in _SCORES]
    a, b = (None, None) if None in scores else (tuple(scores[:2]), tuple(scores[2:]))
    # The source has no path of its own among the columns; rows of one key share it.
    names = (row["key"], row["left_img_rel"], row["right_img_rel"])
    return PreferenceLabel(_key(number, row), row["instruction"], names, _PREFERRED[row["vote_type"]], a, b)
