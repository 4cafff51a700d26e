"""Judged pairs → ordered rows to learn from; what becomes of ties.

EditReward's paper (section 3.3) splits a tie whose perspectives cross — one edit follows the instruction better, the
other has the better quality — into two rows of opposite order. Only the aggregated score is ranked, so that the two
rows together are the soft label 1/2: they draw the two scores together, and tell the heads nothing of which is better
at what (`objectives.per_perspective` does).

Equal sums of two ratings leave two cases: either the perspectives cross, or both are equal, a full tie, of which the
paper says nothing. A tie vote without ratings, or against them, counts as full: no perspectives are known to cross.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rewardedit_jax.data.preferences import PreferenceLabel

Kind = Literal["strict", "crossing", "full"]


class Row(NamedTuple):
    """One row to learn from: pair `index` with its edit `preferred` first."""

    index: int
    preferred: Literal["a", "b"]
    tied: bool = False  # the order means nothing


def kind(label: PreferenceLabel) -> Kind:
    """Whether one edit won, or how the two tie."""
    if label.preferred != "tie":
        return "strict"
    if label.ratings_a is None or label.ratings_b is None:
        return "full"
    following, quality = (a - b for a, b in zip(label.ratings_a, label.ratings_b, strict=True))
    return "crossing" if following * quality < 0 else "full"


def disentangle(labels: Sequence[PreferenceLabel], full_ties: str = "drop") -> list[Row]:
    """A row per winner, two per crossing tie, and per full tie none ("drop") or two ("both orders"); in their order."""
    if full_ties not in ("drop", "both orders"):
        raise ValueError(f"unknown full_ties {full_ties!r}; choose one of drop, both orders.")
    sides = {"crossing": ("a", "b"), "full": ("a", "b") if full_ties == "both orders" else ()}
    return [
        Row(index, side) for index, label in enumerate(labels) for side in sides.get(kind(label), (label.preferred,))
    ]


def one_row_each(labels: Sequence[PreferenceLabel]) -> list[Row]:
    """A row per pair, ties marked as such: for objectives with a term for ties (`btt`, `per_perspective`)."""
    orders = {"a": ("a", False), "b": ("b", False), "tie": ("a", True)}
    return [Row(index, *orders[label.preferred]) for index, label in enumerate(labels)]


def strict_only(labels: Sequence[PreferenceLabel]) -> list[Row]:
    """A row per winner; ties are left out."""
    return [row for row in one_row_each(labels) if not row.tied]
