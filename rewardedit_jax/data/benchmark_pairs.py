"""EditReward-Bench as pairs of edits with preferences (EditReward, arXiv:2509.26346, section 2.2).

One row is a pair, also of groups of three and four edits. `evaluation.reward_models.editreward_pairs` reads the same
files as groups.
"""

import re
from pathlib import Path
from typing import Literal

import msgspec

from rewardedit_jax.data.encoded import EncodedPreference, StoredPreferences
from rewardedit_jax.data.json_files import validate
from rewardedit_jax.data.parquet import ParquetRows, embedded_bytes
from rewardedit_jax.data.records import Instruction, PreferenceLabel, Rating, raise_or_log, warn_contradictions

_IMAGES = ("source_image", "candidate_1", "candidate_2")


class _Row(msgspec.Struct):
    """The columns without the images."""

    id: str
    dataset: Literal["2pair", "3pair", "4pair"]
    instruction: Instruction
    comparison_type: str  # "AvsC": candidate_1 is edit A of its group, candidate_2 edit C
    ranking: str
    model_1: str
    model_2: str
    instruction_following_1: Rating | None = None
    visual_quality_1: Rating | None = None
    instruction_following_2: Rating | None = None
    visual_quality_2: Rating | None = None

    def __post_init__(self):
        letters = re.fullmatch(r"([A-D])vs(?!\1)([A-D])", self.comparison_type)
        if not letters:
            raise ValueError(f"comparison_type={self.comparison_type!r}: expected two of A to D, such as 'AvsC'")
        first, second = letters.groups()
        verdicts = {f"{first}>{second}": "a", f"{second}>{first}": "b", f"{first}={second}": "tie"}
        if self.ranking not in verdicts:
            raise ValueError(f"ranking={self.ranking!r}: expected one of {', '.join(verdicts)}")
        if 0 < self._ratings().count(None) < 4:
            raise ValueError("rated in part: expected all four ratings or none")

    def label(self, number: int) -> PreferenceLabel:
        first, _, second = self.comparison_type.partition("vs")
        preferred = {f"{first}>{second}": "a", f"{second}>{first}": "b"}.get(self.ranking, "tie")
        # The columns have no names of images. In an id of groups of two, the models tell the edits apart; in larger
        # groups, the letters do.
        group = f"{self.dataset} {self.id.partition('_')[0]}"
        edits = (self.model_1, self.model_2) if self.dataset == "2pair" else (first, second)
        if self.model_1 == self.model_2:
            edits = (f"{self.model_1} {first}", f"{self.model_2} {second}")
        names = group, *(f"{group} {edit}" for edit in edits)
        ratings = self._ratings()
        rated = (None, None) if None in ratings else (ratings[:2], ratings[2:])
        return PreferenceLabel(f"{number}:{self.id}", self.instruction, names, preferred, *rated)

    def _ratings(self) -> tuple[float | None, ...]:
        """Following and quality of a, then of b."""
        a = self.instruction_following_1, self.visual_quality_1
        return *a, self.instruction_following_2, self.visual_quality_2


_COLUMNS = _Row.__struct_fields__
_LAYOUT = f"""expected:
  <root>/
    2pair/, 3pair/, 4pair/ with *.parquet
        columns {", ".join(_COLUMNS[:7])},
        {", ".join(_COLUMNS[7:])} (1..4, or all four null),
        {", ".join(_IMAGES)} (each {{bytes, path}})
Hugging Face hub: TIGER-Lab/EditReward-Bench."""


class BenchmarkPairs(StoredPreferences):
    """The rows in the order of the files: a is candidate_1. Keys are "row of all:id"."""

    def __init__(self, root: str | Path, *, skip_bad: bool = False):
        """Reads all columns but the images. Contradictory pairs are logged and kept.

        Raises:
          FileNotFoundError, BadRecords: as `ParquetRows`.
          BadRecords: listing every malformed row, unless `skip_bad` leaves them out.
        """
        self._rows = ParquetRows(root, (*_COLUMNS, *_IMAGES), _LAYOUT)
        named = ((self._rows.name(number), row) for number, row in enumerate(self._rows.only(_COLUMNS)))
        self._entries, faults = validate(named, _Row)
        self.faults = raise_or_log(faults, str(root), skip_bad)
        self.labels = [entry.value.label(entry.number) for entry in self._entries]
        warn_contradictions(self.labels, str(root))

    def encoded(self, index: int) -> EncodedPreference:
        number, place, _ = self._entries[index]
        row, names = self._rows[number], tuple(f"{column} of {place}" for column in _IMAGES)
        images = (embedded_bytes(row[column], name) for column, name in zip(_IMAGES, names, strict=True))
        return EncodedPreference(self.labels[index], *images, names)
