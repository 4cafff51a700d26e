"""Which edits are kept and why the others are not: a pure function of facts and scores, the same for the same input.

Edits are dropped in this order: unreadable, unchanged, contradictory, without what the rule needs, duplicates; of the
others, those that the rule ranks below the number to keep. Each edit has the first reason that holds.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from rewardedit_jax.curation.duplicates import find_duplicates, group_numbers
from rewardedit_jax.curation.rules import RULES, SCORED, Ratings

Flags = Bool[np.ndarray, " n"]


class Reason(IntEnum):
    """Why an edit is kept or dropped."""

    KEPT = 0
    UNREADABLE = 1
    UNCHANGED = 2
    CONTRADICTORY = 3
    NOT_SCORED = 4
    NOT_JUDGED = 5
    EXACT_DUPLICATE = 6
    NEAR_DUPLICATE = 7
    BELOW_THRESHOLD = 8
    TIED_AT_THRESHOLD = 9  # its value is the threshold; edits with this value and smaller keys filled the number

    @property
    def text(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Edits:
    """The facts of `n` edits as arrays (`facts.Facts`). Rows of unreadable edits hold zeros."""

    keys: Sequence[str]
    unreadable: Flags
    request: UInt64[np.ndarray, " n"]
    digests: UInt64[np.ndarray, "n 4"]
    hashes: UInt64[np.ndarray, "n 2 4"]
    difference: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Settings:
    """How edits are selected."""

    rule: str  # of `RULES`
    keep: int | float  # a share 0..1 of all edits as a float, or a number of edits as an integer
    near: int  # bits of 256 that the hashes of near duplicates differ in at most; -1: exact duplicates only
    unchanged: float  # 0..255, `facts.cell_difference` below which an edit is unchanged; 0: none is
    contradiction: float  # judged scores of one edit that differ by more are contradictory

    def number(self, edits: int) -> int:
        """How many of so many edits are kept at most; one at least."""
        return self.keep if isinstance(self.keep, int) else max(1, int(self.keep * edits + 0.5))


@dataclass(frozen=True)
class Selection:
    """What happens to each of `n` edits."""

    reasons: Int[np.ndarray, " n"]  # of `Reason`
    values: Float[np.ndarray, " n"]  # of the rule; NaN where it has none
    duplicate_of: Int[np.ndarray, " n"]  # number of the edit that stays in its place; -1: not a duplicate
    groups: Sequence[Hashable]  # value of the quota's field; None without quotas
    thresholds: dict[Hashable, float] = field(default_factory=dict)  # group → value of the last edit that is kept
    wanted: dict[Hashable, int] = field(default_factory=dict)  # group → number to keep

    def kept(self) -> list[int]:
        return np.flatnonzero(self.reasons == Reason.KEPT).tolist()


def select(edits: Edits, ratings: Ratings, settings: Settings, groups: Sequence[Hashable]) -> Selection:
    """The decision about each edit.

    Args:
      groups: value of the quota's field for each edit. The number to keep is divided among groups by their readable
        edits. A group with fewer candidates keeps all of them, and no other group gets what it lacks.
    """
    values = RULES[settings.rule](ratings)
    reasons = np.full(len(edits), Reason.KEPT, np.int8)

    def drop(which: Flags, reason: Reason) -> None:
        reasons[which & (reasons == Reason.KEPT)] = reason

    drop(edits.unreadable, Reason.UNREADABLE)
    drop(edits.difference < settings.unchanged, Reason.UNCHANGED)
    drop(contradictory(edits, ratings.judged, settings.contradiction), Reason.CONTRADICTORY)
    drop(np.isnan(values), Reason.NOT_SCORED if settings.rule in SCORED else Reason.NOT_JUDGED)
    order = best_first(values, edits.keys)
    order = order[reasons[order] == Reason.KEPT]
    found = find_duplicates(order, edits.request, edits.digests, edits.hashes, settings.near)
    drop(found.exact >= 0, Reason.EXACT_DUPLICATE)
    drop(found.near >= 0, Reason.NEAR_DUPLICATE)
    selection = Selection(reasons, values, np.maximum(found.exact, found.near), groups)
    _keep_best(selection, order[reasons[order] == Reason.KEPT], edits, settings.number(len(edits)))
    return selection


def best_first(values: Float[np.ndarray, " n"], keys: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The numbers of the edits by value, highest first; equal values by key, so that the order is the same always."""
    by_key = np.array(sorted(range(len(keys)), key=keys.__getitem__), int)
    return by_key[np.argsort(-values[by_key], kind="stable")]


def contradictory(edits: Edits, judged: Float[np.ndarray, "n 3"], most: float) -> Flags:
    """Whether an edit was judged more than once (equal files and instruction), with scores that differ by more."""
    rows = np.flatnonzero(~np.isnan(judged).any(axis=1) & ~edits.unreadable)
    group = group_numbers(np.column_stack([edits.request, edits.digests])[rows])
    low, high = (np.full((len(rows), 3), start) for start in (np.inf, -np.inf))
    np.minimum.at(low, group, judged[rows])
    np.maximum.at(high, group, judged[rows])
    flags = np.zeros(len(edits), bool)
    # All of them: nothing says which judgement is right.
    flags[rows] = (high - low).max(axis=1, initial=0)[group] > most
    return flags


def _keep_best(selection: Selection, candidates: Int[np.ndarray, " m"], edits: Edits, number: int) -> None:
    """Write thresholds and numbers of the groups, and the reasons of the `candidates`, best first, beyond them."""
    sizes, ranked = {}, {}
    for edit, group in enumerate(selection.groups):
        sizes[group] = sizes.get(group, 0) + (not edits.unreadable[edit])
    for edit in candidates.tolist():
        ranked.setdefault(selection.groups[edit], []).append(edit)
    selection.wanted.update(apportion(number, sizes))
    for group, members in ranked.items():
        best, others = np.split(np.array(members), [selection.wanted[group]])
        if len(best):
            selection.thresholds[group] = threshold = float(selection.values[best[-1]])
            tied = selection.values[others] == threshold
            selection.reasons[others] = np.where(tied, Reason.TIED_AT_THRESHOLD, Reason.BELOW_THRESHOLD)
        else:
            selection.reasons[others] = Reason.BELOW_THRESHOLD


def apportion(number: int, sizes: dict[Hashable, int]) -> dict[Hashable, int]:
    """The number divided in proportion to sizes; what rounding leaves goes to the largest remainders (Hamilton)."""
    total = sum(sizes.values())
    exact = {group: number * size / total if total else 0.0 for group, size in sizes.items()}
    shares = {group: int(share) for group, share in exact.items()}
    left = min(number, total) - sum(shares.values())
    by_remainder = sorted(exact, key=lambda group: (shares[group] - exact[group], str(group)))
    for group in by_remainder[: max(left, 0)]:
        shares[group] += 1
    return shares
