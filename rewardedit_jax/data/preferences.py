"""Pairs of edits with preferences: from a list file, and from EditReward-Data in parquet.

The list file is EditReward's training list (EditReward, arXiv:2509.26346), a JSON list with one object per pair:

    {"prompt": "make it snow", "path_src": "1.png", "path1": "1_a.png", "path2": "1_b.png",
     "model1_dim1_score": 4, "model1_dim2_score": 3, "model2_dim1_score": 2, "model2_dim2_score": 3}

`path1` is the preferred edit; dim1 is following, dim2 is quality, 1..4, and all four may be missing. Other keys are
ignored. A pair whose ratings have equal sums, or with `"tie_case": true`, is a tie. A tie that is listed in both orders
(disentangled, section 3.3) is one pair here: `scoring.pairs` makes rows of it.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from rewardedit_jax.data.encoded import EncodedPreference, StoredPreferences
from rewardedit_jax.data.images import image_bytes
from rewardedit_jax.data.json_files import read_list, validate
from rewardedit_jax.data.parquet import ParquetRows, embedded_bytes
from rewardedit_jax.data.paths import inside
from rewardedit_jax.data.records import (
    PreferenceLabel,
    Rating,
    Ratings,
    raise_or_log,
    rated_equal,
    warn_contradictions,
)

_PREFERRED = {"leftvote": "a", "rightvote": "b", "tie": "tie"}
_IMAGES = ("source_img", "left_output_image", "right_output_image")  # source, a, b, as in `PreferenceLabel.names`


class _Pair(msgspec.Struct):
    """A pair whose fields `..._score` are the following and quality of a, then those of b."""

    def scores(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in self.__struct_fields__ if name.endswith("_score")}

    def check(self, instruction: str) -> None:
        """Raises ValueError, which msgspec turns into a `ValidationError`, if the pair cannot be learned from."""
        if not instruction.strip():
            raise ValueError("blank instruction")
        missing = [name for name, score in self.scores().items() if score is None]
        # All four or none: objectives with ratings need both perspectives of both edits.
        if 0 < len(missing) < 4:
            raise ValueError(f"rated in part, without {', '.join(missing)}")

    def ratings(self) -> tuple[Ratings | None, Ratings | None]:
        """The ratings of a and of b; None for both where there are none."""
        following_a, quality_a, following_b, quality_b = self.scores().values()
        return (None, None) if following_a is None else ((following_a, quality_a), (following_b, quality_b))


class _ListedPair(_Pair):
    """An object of the list file."""

    prompt: str
    path_src: str
    path1: str
    path2: str
    model1_dim1_score: Rating | None = None
    model1_dim2_score: Rating | None = None
    model2_dim1_score: Rating | None = None
    model2_dim2_score: Rating | None = None
    tie_case: bool | None = None

    def __post_init__(self):
        # All pairs of EditReward's validation list have this 4 and 2. They mark the preferred edit and are not ratings.
        if tuple(self.scores().values()) == (4, None, 2, None):
            self.model1_dim1_score = self.model2_dim1_score = None
        self.check(self.prompt)

    def label(self, number: int) -> PreferenceLabel:
        names = self.path_src, self.path1, self.path2
        # A tie is listed with one edit first too; its equal ratings show that it is a tie.
        label = PreferenceLabel(f"{number}:{self.path1}", self.prompt, names, "a", *self.ratings())
        return replace(label, preferred="tie") if self.tie_case or rated_equal(label) else label


class _Row(_Pair):
    """The columns of EditReward-Data without the images."""

    key: str
    unique_key: str
    instruction: str
    left_img_rel: str
    right_img_rel: str
    vote_type: str
    left_instruction_following_score: Rating | None
    left_quality_aesthetic_score: Rating | None
    right_instruction_following_score: Rating | None
    right_quality_aesthetic_score: Rating | None

    def __post_init__(self):
        if self.vote_type not in _PREFERRED:
            raise ValueError(f"vote_type={self.vote_type!r}: expected one of {', '.join(_PREFERRED)}")
        self.check(self.instruction)

    def label(self, key: str) -> PreferenceLabel:
        # The columns have no path of the source image, but rows with one `key` have the same.
        names = self.key, self.left_img_rel, self.right_img_rel
        return PreferenceLabel(key, self.instruction, names, _PREFERRED[self.vote_type], *self.ratings())


_COLUMNS = _Row.__struct_fields__
_PARQUET = f"""expected:
  <root>/
    *.parquet   columns {", ".join(_COLUMNS[:5])},
                vote_type ({" | ".join(_PREFERRED)}),
                {", ".join(_COLUMNS[6:])} (1..4, or all four null),
                {", ".join(_IMAGES)} (each {{bytes, path}})
Hugging Face hub: TIGER-Lab/EditReward-Data."""


class PreferenceFile(StoredPreferences):
    """The pairs of a list file, in its order. A `PreferenceSource`; keys are "number in the file:path1"."""

    def __init__(
        self,
        path: str | Path,
        root: str | Path | None = None,
        *,
        skip_bad: bool = False,
        allow_outside: bool = False,
    ):
        """Reads the file and looks for the images, which are read at access. Contradictory pairs are logged and kept.

        Args:
          root: the folder that image paths are relative to; the folder of the file if None.
          allow_outside: whether images may lie outside `root` (`paths.inside`).
        Raises:
          BadRecords: listing every malformed pair, or every pair without its images, unless `skip_bad` leaves them out.
        """
        self.root, self._allow_outside = Path(path).parent if root is None else Path(root), allow_outside
        labels, malformed = _read_labels(path, skip_bad)
        # A stat per image at the start saves a run that would end at the first missing folder.
        missing = missing_images(labels, self.root, allow_outside=allow_outside)
        faults = [f"{key}: no image {', '.join(names)}" for key, names in missing.items()]
        self.faults = malformed + raise_or_log(faults, f"{path}, images under {self.root}", skip_bad)
        self.labels = [label for label in labels if label.key not in missing]
        warn_contradictions(self.labels, str(path))

    def encoded(self, index: int) -> EncodedPreference:
        label = self.labels[index]
        files = [inside(self.root, name, allow_outside=self._allow_outside) for name in label.names]
        return EncodedPreference(label, *map(image_bytes, files), tuple(map(str, files)))


def read_labels(path: str | Path, *, skip_bad: bool = False) -> list[PreferenceLabel]:
    """The pairs of a list file, whether or not their images exist. Malformed ones are `BadRecords`, or left out."""
    return _read_labels(path, skip_bad)[0]


def _read_labels(path: str | Path, skip_bad: bool) -> tuple[list[PreferenceLabel], list[str]]:
    """The pairs, and what `raise_or_log` says of the malformed ones."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}; expected{__doc__.partition('object per pair')[2]}")
    entries, faults = read_list(path, _ListedPair)
    left_out = raise_or_log(faults, str(path), skip_bad)
    return _without_turned_ties(entry.value.label(entry.number) for entry in entries), left_out


def missing_images(
    labels: Iterable[PreferenceLabel], root: str | Path, *, allow_outside: bool = False
) -> dict[str, list[str]]:
    """Key → its image names that are not files, or the reason if they lie outside `root`; only keys with such names."""

    def fault(name: str) -> str | None:
        try:
            # Not Path.is_file(): it raises OSError for a name that is too long.
            return None if os.path.isfile(inside(root, name, allow_outside=allow_outside)) else name
        except ValueError as error:
            return str(error)

    missing = {label.key: list(filter(None, map(fault, label.names))) for label in labels}
    return {key: names for key, names in missing.items() if names}


def _without_turned_ties(labels: Iterable[PreferenceLabel]) -> list[PreferenceLabel]:
    """The labels without the second of two ties that are the same pair in opposite orders."""
    kept, unmatched = [], Counter()  # of ties whose opposite has not appeared yet
    for label in labels:
        source, a, b = label.names
        turned = label.instruction, source, b, a
        if label.preferred == "tie" and unmatched[turned]:
            # Counted, not a set: a pair that was labelled twice is listed four times, and stays twice.
            unmatched[turned] -= 1
            continue
        unmatched[label.instruction, source, a, b] += label.preferred == "tie"
        kept.append(label)
    return kept


class PreferenceParquet(StoredPreferences):
    """EditReward-Data as on the Hugging Face hub, 170,772 rows, 87 GB, CC BY-NC 4.0. A `PreferenceSource`.

    The rows keep their order: a is the left edit, b the right. Keys are "row of all:unique_key". Rows are fast to read
    in order and slow when shuffled (`parquet`).
    """

    def __init__(self, files: str | Path | Sequence[str | Path], *, skip_bad: bool = False):
        """Reads all columns but the images, of every file. Contradictory pairs are logged and kept.

        Raises:
          FileNotFoundError, BadRecords: as `ParquetRows`.
          BadRecords: listing every malformed row (such as a vote or a rating that does not exist, a blank instruction,
            some but not all ratings), unless `skip_bad` leaves them out.
        """
        self._rows = ParquetRows(files, (*_COLUMNS, *_IMAGES), _PARQUET)
        # Without the images, which are nearly all of the 87 GB.
        named = [(f"{i}:{row['unique_key']}", row) for i, row in enumerate(self._rows.only(_COLUMNS))]
        entries, faults = validate(named, _Row)
        self.faults = raise_or_log(faults, str(files), skip_bad)
        self._numbers = [entry.number for entry in entries]  # row of each label: bad rows are left out of `labels`
        self.labels = [entry.value.label(entry.name) for entry in entries]
        warn_contradictions(self.labels, str(files))

    def encoded(self, index: int) -> EncodedPreference:
        label, number = self.labels[index], self._numbers[index]
        row, place = self._rows[number], f"{label.key} ({self._rows.name(number)})"
        names = tuple(f"{column} of {place}" for column in _IMAGES)
        images = (embedded_bytes(row[column], name) for column, name in zip(_IMAGES, names, strict=True))
        return EncodedPreference(label, *images, names)
