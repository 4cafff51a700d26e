"""Records and data sources: edits with rewards, pairs of edits with preferences, and the errors about bad records."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
from absl import logging
from jaxtyping import Float, UInt8

from rewardedit_jax.listing import count_noun, list_lines
from rewardedit_jax.reward import BEST, WORST

# In files: checked by `json_files.validate`. True and NaN are not numbers there.
Score = Annotated[float, msgspec.Meta(ge=WORST, le=BEST)]
Instruction = Annotated[str, msgspec.Meta(pattern=r"\S")]  # not blank
Rating = Annotated[float, msgspec.Meta(ge=1, le=4)]
Ratings = tuple[int | float, int | float]  # following and quality; means of several raters need not be whole

# Ratings that are means over raters differ by rounding where they are equal.
_EQUAL = 1e-6


@dataclass(frozen=True, eq=False)
class EditRecord:
    """An edit and, if it was judged, its reward by perspective: following, preserving, quality."""

    key: str  # unique within its source
    instruction: str
    source: UInt8[np.ndarray, "h w 3"]  # RGB, the image before the edit
    edited: UInt8[np.ndarray, "h2 w2 3"]  # RGB, the image after the edit; it need not follow the instruction
    scores: Float[np.ndarray, "3"] | None  # float32, 0..5, one per perspective
    feedback: tuple[str, str, str] | None  # one text per perspective; "None" where nothing failed


@runtime_checkable
class Source(Protocol):
    """Random access to edits. Reading a bad record raises `ImageError` or `BadRecords`; `order` decides what follows.

    Sources hold no mutable state: worker threads read from one source at the same time.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EditRecord: ...


@runtime_checkable
class InstructionSource(Source, Protocol):
    """A source that knows its instructions without reading images."""

    def instructions(self) -> Sequence[Any]:
        """The instructions as they are stored: all, or a sample where reading all takes long."""


def evenly_spaced(length: int, most: int = 2000) -> range:
    """Numbers of records, for a look at a sample where a look at all would take long."""
    return range(0, length, max(1, -(-length // most)))


@dataclass(frozen=True)
class PreferenceLabel:
    """The label of a pair of edits a, b of one source image, without its images."""

    key: str  # unique within its source
    instruction: str
    names: tuple[str, str, str]  # of the source image, a and b: equal names are equal images
    preferred: Literal["a", "b", "tie"]
    ratings_a: Ratings | None
    ratings_b: Ratings | None


@dataclass(frozen=True, eq=False)
class Preference(PreferenceLabel):
    """A labelled pair of edits with its images, RGB; the three sizes may differ."""

    source: UInt8[np.ndarray, "h w 3"]
    edited_a: UInt8[np.ndarray, "h2 w2 3"]
    edited_b: UInt8[np.ndarray, "h3 w3 3"]


@runtime_checkable
class PreferenceSource(Protocol):
    """Random access to pairs of edits, with the errors of `Source`; `labels[i]` is the label of pair i."""

    labels: Sequence[PreferenceLabel]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Preference: ...


class BadRecords(ValueError):
    """Records that do not have the expected layout; the message lists them."""


def raise_or_log(faults: Sequence[str], where: str, skip_bad: bool) -> list[str]:
    """Raises `BadRecords` with all faults of an index, one line each, or logs them if the caller leaves them out.

    Args:
      where: the index, as the message names it.
    Returns:
      The faults, each with the name of the index.
    """
    if not faults:
        return []
    message = list_lines(f"{where}: {count_noun(len(faults), 'bad record')}", faults)
    if not skip_bad:
        raise BadRecords(f"{message}\nSet skip_bad=True to leave them out.")
    logging.warning("%s\nThey are left out (skip_bad=True).", message)
    return [f"{where}: {fault}" for fault in faults]


def contradictions(labels: Iterable[PreferenceLabel]) -> list[tuple[str, ...]]:
    """The keys of labels that contradict each other, one tuple per pair of edits (same instruction and images)."""
    by_pair = defaultdict(list)
    for label in labels:
        source, a, b = label.names
        # A set: the same two edits in the other order are the same pair.
        by_pair[label.instruction, source, frozenset((a, b))].append(label)
    groups = [group for group in by_pair.values() if not frozenset.intersection(*map(_verdicts, group))]
    return [tuple(label.key for label in group) for group in groups]


def _verdicts(label: PreferenceLabel) -> frozenset[str | None]:
    """The verdicts that a label permits: the name of the better edit, None for a tie."""
    if label.preferred == "tie":
        return frozenset({None})
    winner = label.names[1 if label.preferred == "a" else 2]
    # A preference between edits with equal ratings may be one of the two rows of a disentangled tie.
    return frozenset({winner, None} if rated_equal(label) else {winner})


def rated_equal(label: PreferenceLabel) -> bool:
    """Whether both edits have the same overall rating, following + quality; False where ratings are missing."""
    return label.ratings_a is not None and _rating_gap(label) == 0


def _rating_gap(label: PreferenceLabel) -> float:
    """The overall rating of a minus that of b; exactly 0 if they differ by rounding only."""
    gap = sum(label.ratings_a) - sum(label.ratings_b)
    return 0.0 if abs(gap) < _EQUAL else gap


def against_ratings(labels: Iterable[PreferenceLabel]) -> list[str]:
    """The keys of labels whose preferred edit has the lower overall rating."""
    # The sign of the gap that contradicts the preference; no gap contradicts a tie.
    contrary = {"a": -1, "b": 1, "tie": None}
    rated = (label for label in labels if label.ratings_a)
    return [label.key for label in rated if np.sign(_rating_gap(label)) == contrary[label.preferred]]


def warn_contradictions(labels: Sequence[PreferenceLabel], where: str) -> None:
    """Logs `contradictions` and `against_ratings`. The labels are kept: several raters may disagree."""
    for fault, pairs in (
        ("with contradictory labels, all kept", [", ".join(keys) for keys in contradictions(labels)]),
        ("whose preferred edit is rated lower, all kept as preferred", against_ratings(labels)),
    ):
        if pairs:
            logging.warning("%s", list_lines(f"{where}: {count_noun(len(pairs), 'pair')} {fault}:", pairs))
