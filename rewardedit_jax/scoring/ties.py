"""Labelled pairs → ordered rows to learn from, and the treatments of ties.

EditReward (arXiv:2509.26346), section 3.3 and eq. 6, splits a tie whose perspectives cross — one edit follows the
instruction better, the other has the better quality — into two rows of opposite order. Only the aggregated score is
ranked, so that the two rows together act as the soft label 1/2: they pull the two scores together, without a signal for
which edit is better in which perspective (`objectives.per_perspective` has that).

Ratings with equal sums leave two cases: the perspectives cross, or both are equal. The latter is a full tie, which the
paper does not treat. A tie vote without ratings, or against them, counts as full: no perspectives are known to cross.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rewardedit_jax.data.records import PreferenceLabel

Kind = Literal["strict", "crossing", "full"]


class Row(NamedTuple):
    """A row to learn from: pair `index`, with its edit `preferred` first."""

    index: int
    preferred: Literal["a", "b"]
    tied: bool = False  # neither edit is preferred: the order has no meaning


def kind(label: PreferenceLabel) -> Kind:
    """`strict` where one edit is preferred, else whether the perspectives of the tie cross."""
    if label.preferred != "tie":
        return "strict"
    if label.ratings_a is None or label.ratings_b is None:
        return "full"
    following, quality = (a - b for a, b in zip(label.ratings_a, label.ratings_b, strict=True))
    # Opposite signs: each edit is better in one perspective.
    return "crossing" if following * quality < 0 else "full"


def disentangle(labels: Sequence[PreferenceLabel], full_ties: str = "drop") -> list[Row]:
    """One row per preferred edit, two per crossing tie (eq. 6), none ("drop") or two ("both orders") per full tie."""
    if full_ties not in ("drop", "both orders"):
        raise ValueError(f"full_ties={full_ties!r}: expected 'drop' or 'both orders'.")
    # The edits that come first in the rows of a tie; a strict pair has one row, its preferred edit first.
    sides = {"crossing": ("a", "b"), "full": ("a", "b") if full_ties == "both orders" else ()}
    return [
        Row(index, side) for index, label in enumerate(labels) for side in sides.get(kind(label), (label.preferred,))
    ]


def one_row_each(labels: Sequence[PreferenceLabel]) -> list[Row]:
    """One row per pair, ties marked as `tied`, for objectives with a term for ties (`btt`, `per_perspective`)."""
    orders = {"a": ("a", False), "b": ("b", False), "tie": ("a", True)}
    return [Row(index, *orders[label.preferred]) for index, label in enumerate(labels)]


def strict_only(labels: Sequence[PreferenceLabel]) -> list[Row]:
    """One row per preferred edit; ties are left out."""
    return [row for row in one_row_each(labels) if not row.tied]
