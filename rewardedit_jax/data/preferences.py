"""Judged pairs of edits: the record type, what can be told of pairs without their images, and pairs from a list file.

The file is EditReward's training list, a JSON list with one object per pair (other keys are passed over):

    {"prompt": "make it snow", "path_src": "1.png", "path1": "1_a.png", "path2": "1_b.png",
     "model1_dim1_score": 4, "model1_dim2_score": 3, "model2_dim1_score": 2, "model2_dim2_score": 3}

`path1` is the preferred edit; dim1 is following, dim2 is quality, 1..4, and all four may be missing. A pair whose
ratings have equal sums, or with `"tie_case": true`, is a tie. One that is there in both orders (disentangled) is one
pair here: `scoring.ties` decides what rows it becomes. Other sources of pairs: `preferences_parquet`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from absl import logging
from jaxtyping import UInt8

from rewardedit_jax.data.bad_records import BadRecords, counted, indented, settle
from rewardedit_jax.data.images import read_image

Ratings = tuple[int | float, int | float]  # following and quality, 1..4
_EXPECTED = """[{"prompt": "make it snow", "path_src": "1.png", "path1": "1_a.png", "path2": "1_b.png",
  "model1_dim1_score": 4, "model1_dim2_score": 3, "model2_dim1_score": 2, "model2_dim2_score": 3}, ...]
path1 is the preferred edit, unless both are rated alike or "tie_case" is true; all four scores may be missing."""
_PATHS = ("path_src", "path1", "path2")
_SCORES = tuple(f"model{side}_dim{dim}_score" for side in (1, 2) for dim in (1, 2))
# EditReward's validation list has these in every pair: they say which edit is preferred, and rate nothing.
_PLACEHOLDER = {"model1_dim1_score": 4, "model2_dim1_score": 2}


@dataclass(frozen=True)
class PreferenceLabel:
    """A pair of edits a, b of one source and what was said of it, without its images."""

    key: str  # unique within its source
    instruction: str
    names: tuple[str, str, str]  # of source, a, b: equal names are equal images
    preferred: Literal["a", "b", "tie"]
    ratings_a: Ratings | None
    ratings_b: Ratings | None


@dataclass(frozen=True, eq=False)
class Preference(PreferenceLabel):
    """A judged pair with its images, RGB; the three sizes may differ."""

    source: UInt8[np.ndarray, "h w 3"]
    edited_a: UInt8[np.ndarray, "h2 w2 3"]
    edited_b: UInt8[np.ndarray, "h3 w3 3"]


@runtime_checkable
class PreferenceSource(Protocol):
    """Random access to judged pairs; `labels[i]` is what is known of pair i without reading its images."""

    labels: Sequence[PreferenceLabel]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Preference: ...


def contradictions(labels: Iterable[PreferenceLabel]) -> list[tuple[str, ...]]:
    """The keys of labels of the same pair (instruction and images) that cannot all be right, a tuple per pair."""
    by_pair = defaultdict(list)
    for label in labels:
        source, a, b = label.names
        by_pair[label.instruction, source, frozenset((a, b))].append(label)
    groups = [group for group in by_pair.values() if not frozenset.intersection(*map(_verdicts, group))]
    return [tuple(label.key for label in group) for group in groups]


def _verdicts(label: PreferenceLabel) -> frozenset[str | None]:
    """What it may mean: the name of the better edit, None for a tie."""
    if label.preferred == "tie":
        return frozenset({None})
    winner = label.names[1 if label.preferred == "a" else 2]
    # A preference between edits rated equal may be one of the two rows of a disentangled tie.
    return frozenset({winner, None} if rated_equal(label) else {winner})


def rated_equal(label: PreferenceLabel) -> bool:
    """Whether both edits have the same overall rating, following + quality; False where ratings are missing."""
    return label.ratings_a is not None and _rating_gap(label) == 0


def _rating_gap(label: PreferenceLabel) -> float:
    """Overall rating of a above that of b; means of several raters are equal where only their rounding differs."""
    gap = sum(label.ratings_a) - sum(label.ratings_b)
    return 0.0 if abs(gap) < 1e-6 else gap


def against_ratings(labels: Iterable[PreferenceLabel]) -> list[str]:
    """The keys of labels whose preferred edit has the lower overall rating."""
    lower = {"a": -1, "b": 1, "tie": None}
    return [j.key for j in labels if j.ratings_a and np.sign(_rating_gap(j)) == lower[j.preferred]]


def warn_contradictions(labels: Sequence[PreferenceLabel], where: str) -> None:
    """Logs `contradictions` and `against_ratings`. They stay: people may well disagree, and both have been asked."""
    if groups := contradictions(labels):
        heading = f"{where}: {counted(len(groups), 'pair')} with contradictory labels, all kept:"
        logging.warning("%s", indented(heading, [", ".join(keys) for keys in groups]))
    if keys := against_ratings(labels):
        heading = f"{where}: {counted(len(keys), 'pair')} whose preferred edit is rated lower, all kept as preferred:"
        logging.warning("%s", indented(heading, keys))


def missing_images(labels: Iterable[PreferenceLabel], root: str | Path) -> dict[str, list[str]]:
    """Key → those of its names that are no file under `root`; only keys that miss one."""
    found = {label.key: [n for n in label.names if not (Path(root) / n).is_file()] for label in labels}
    return {key: names for key, names in found.items() if names}


class PreferenceFile:
    """The pairs of a list file, in its order; images are read at access. Keys are "number in the file:path1"."""

    def __init__(self, path: str | Path, root: str | Path | None = None, *, skip_bad: bool = False):
        """Reads the file and looks for the images; contradictory pairs are told by the log, and kept.

        Args:
          root: what image paths are relative to; the folder of the file if None.
        Raises:
          FileNotFoundError: if the file is missing.
          BadRecords: listing every malformed pair, or every pair with missing images, unless `skip_bad`, which leaves
            them out and logs their number. A file that is there but unreadable shows at access (`scoring.pairs`).
        """
        self.root = Path(path).parent if root is None else Path(root)
        labels = read_labels(path, skip_bad=skip_bad)
        missing = missing_images(labels, self.root)
        told = [f"{key}: no image {', '.join(names)}" for key, names in missing.items()]
        settle(told, f"{path}, images under {self.root}", skip_bad)
        self.labels = [label for label in labels if label.key not in missing]
        warn_contradictions(self.labels, str(path))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Preference:
        """Raises `ImageError`, naming the file, if an image cannot be read."""
        label = self.labels[index]
        images = (np.asarray(read_image(self.root / name)) for name in label.names)
        return Preference(**vars(label), **dict(zip(("source", "edited_a", "edited_b"), images, strict=True)))


def read_labels(path: str | Path, *, skip_bad: bool = False) -> list[PreferenceLabel]:
    """The pairs of a list file, whether or not their images are there.

    Raises:
      FileNotFoundError: if the file is missing.
      BadRecords: if it is no JSON list, or listing every malformed pair, unless `skip_bad`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}; expected:\n{_EXPECTED}")
    try:
        entries = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise BadRecords(f"{path} is not JSON in UTF-8: {error}") from error
    if not isinstance(entries, list):
        raise BadRecords(f"{path}: expected a list of pairs, got {type(entries).__name__}.")
    faults = [_fault(entry) for entry in entries]
    told = [f"pair {i} ({_called(i, entries[i])}): {fault}" for i, fault in enumerate(faults) if fault]
    settle(told, str(path), skip_bad)
    good = (_label(i, entry) for i, (entry, fault) in enumerate(zip(entries, faults, strict=True)) if not fault)
    return _ties_once(good)


def _ties_once(labels: Iterable[PreferenceLabel]) -> list[PreferenceLabel]:
    """Without the second of two ties that are the same pair in opposite orders."""
    kept, open_ties = [], Counter()
    for label in labels:
        source, a, b = label.names
        turned = label.instruction, source, b, a
        if label.preferred == "tie" and open_ties[turned]:
            open_ties[turned] -= 1
            continue
        open_ties[label.instruction, source, a, b] += label.preferred == "tie"
        kept.append(label)
    return kept


def _called(number: int, entry: Any) -> str:
    """The key of an entry, or the start of one that has none."""
    has_key = isinstance(entry, dict) and isinstance(entry.get("path1"), str)
    return _key(number, entry) if has_key else str(entry)[:60]


def _fault(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "not a JSON object"
    if lacking := [key for key in ("prompt", *_PATHS) if not isinstance(entry.get(key), str)]:
        return f"no text under {', '.join(lacking)}"
    if not entry["prompt"].strip():
        return "blank prompt"
    if not isinstance(entry.get("tie_case"), bool | None):
        return f"tie_case is {entry['tie_case']!r}, not true or false"
    scores = {key: entry.get(key) for key in _SCORES}
    is_placeholder = {key: score for key, score in scores.items() if score is not None} == _PLACEHOLDER
    return None if is_placeholder else rating_fault(scores)


def rating_fault(ratings: Mapping[str, Any]) -> str | None:
    """What is wrong with the four ratings of a pair, None if nothing: they are numbers in 1..4, or all missing."""
    missing = [key for key, rating in ratings.items() if rating is None]
    if wrong := [key for key, rating in ratings.items() if rating is not None and not _is_rating(rating)]:
        return f"{', '.join(wrong)} is no number in 1..4"
    return f"rated in part, without {', '.join(missing)}" if 0 < len(missing) < len(ratings) else None


def _is_rating(value: Any) -> bool:
    """Whether it is a number in 1..4, as raters give; means of several raters included."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 4


def _key(number: int, entry: dict[str, Any]) -> str:
    return f"{number}:{entry['path1']}"


def _label(number: int, entry: dict[str, Any]) -> PreferenceLabel:
    scores = [entry.get(key) for key in _SCORES]
    rated = all(score is not None for score in scores)
    a, b = (tuple(map(float, scores[:2])), tuple(map(float, scores[2:]))) if rated else (None, None)
    names = tuple(entry[key] for key in _PATHS)
    label = PreferenceLabel(_key(number, entry), entry["prompt"], names, "a", a, b)
    tied = entry.get("tie_case") is True or rated_equal(label)
    return replace(label, preferred="tie") if tied else label
