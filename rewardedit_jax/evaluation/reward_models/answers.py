"""Stored answers of a judge: votes on two edits, in one order or in both, and answers that are lost.

An answer is lost if nothing is stored, if no verdict can be read from it, or if the judge refused. Lost answers stay in
the denominators. The reports list them by kind, with the coverage: the share of answers with a verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from rewardedit_jax.evaluation.report import Note, Row, sound_share
from rewardedit_jax.judging.answers import is_refusal
from rewardedit_jax.listing import MAX_NAMES, list_names

MISSING, UNREADABLE, REFUSED = KINDS = ("missing", "unreadable", "refused")


def lost_kind(*stored: Any) -> str:
    """The kind of an answer without a verdict, from what is stored of it: the verdict, the judge's text."""
    texts = [str(value) for value in stored if value not in (None, [], [None]) and str(value).strip()]
    if any(map(is_refusal, texts)):
        return REFUSED
    return UNREADABLE if texts else MISSING


def note_lost(lost: Mapping[str, str], total: int, what: str, counted: str, suffix: str = "") -> Note:
    """Note about the coverage of `total` answers, and about the lost ones by kind.

    Args:
      lost: name of each lost answer → its kind.
      what: the answers, a plural noun such as "votes".
      counted: how both protocols count a lost answer, such as "wrong in both protocols".
      suffix: of the entries in the JSON file.
    """
    by_kind = {kind: [name for name, found in lost.items() if found == kind] for kind in KINDS}
    coverage = (total - len(lost)) / total
    notes = [f"Coverage: {100 * coverage:.2f} %, {total - len(lost)} of {total} {what} have a readable answer."]
    if lost:
        kinds = (f"{len(of)} {kind} ({list_names(of)})" if of else f"0 {kind}" for kind, of in by_kind.items())
        notes.append(f"Lost answers, {counted}: {'; '.join(kinds)}.")
    values = {
        f"coverage{suffix}": coverage,
        f"lost{suffix}": {kind: {"count": len(names), "first": names[:MAX_NAMES]} for kind, names in by_kind.items()},
    }
    return notes, values


# Votes on two edits, A and B. A is the edit that is shown first.

FIRST, SECOND = DECIDED = "[[A>B]]", "[[B>A]]"
TIE = "[[A=B]]"  # of either kind
TIES = (TIE, "[[A=B=Good]]", "[[A=B=Bad]]")
NOT_STORED = ""  # a human vote that the file does not have
_MIRRORED = {FIRST: SECOND, SECOND: FIRST}  # a tie is its own mirror image


@dataclass(frozen=True)
class Vote:
    """One comparison of two edits by people and by a judge, both in the judge's words."""

    key: str  # identifies the comparison in both orders
    human: str
    judged: str  # or the kind of a lost answer, one of `KINDS`

    @property
    def right(self) -> bool:
        return self.human == self.judged

    @property
    def right_as_published(self) -> bool:
        """The leaderboard takes a tie of unknown kind for either kind."""
        return self.right or (self.judged == TIE and self.human in TIES)


AnyVote = TypeVar("AnyVote", bound=Vote)
Votes = Sequence[AnyVote | None]  # None: nothing is stored, not even what was compared


def align_swapped(votes: Votes[AnyVote], swapped: Votes[AnyVote], file: Path) -> Votes[AnyVote]:
    """The swapped votes in the order of `votes`, with their verdicts mirrored back.

    A vote that is not stored may be any comparison that is in the other order only.

    Args:
      file: file of `swapped`, for errors: both orders need the same comparisons, with human votes that change sides.
    """
    mirrored = {
        vote.key: replace(
            vote, human=_MIRRORED.get(vote.human, vote.human), judged=_MIRRORED.get(vote.judged, vote.judged)
        )
        for vote in filter(None, swapped)
    }
    known = dict.fromkeys(vote.key for vote in filter(None, votes))
    only_here, only_swapped = [k for k in known if k not in mirrored], [k for k in mirrored if k not in known]
    if len(only_here) > swapped.count(None) or len(only_swapped) > votes.count(None):
        unmatched = [*only_here, *only_swapped]
        raise ValueError(f"{file}: {len(unmatched)} comparisons are in one order only: {list_names(unmatched)}")
    if len(swapped) != len(votes):
        raise ValueError(f"{file}: {len(swapped)} votes in this order and {len(votes)} in the other; expected the same")
    unassigned = iter(only_swapped)
    found = [mirrored.get(vote.key if vote else next(unassigned, "")) for vote in votes]
    # Human votes that stay on their side show that the file was not made with exchanged edits.
    both = [(a, b) for a, b in zip(votes, found, strict=True) if a and b and NOT_STORED not in (a.human, b.human)]
    if unlike := [a.key for a, b in both if a.human != b.human]:
        raise ValueError(f"{file}: {len(unlike)} human votes do not change sides with the edits: {list_names(unlike)}")
    return found


def mean_over_orders(orders: Sequence[Votes[Vote]], right: Callable[[Vote], bool]) -> Float[np.ndarray, " n"]:
    """The share of orders in which each comparison is right; a failed answer is wrong."""
    return np.mean([[vote is not None and right(vote) for vote in order] for order in orders], axis=0)


def same_answer(votes: Votes[Vote], other_order: Votes[Vote], what: str, seed: int) -> Row:
    """The share of comparisons that a judge answers alike in both orders: its position bias (EditReward, A.8)."""
    # Two lost answers do not count as agreement.
    same = [bool(a and b and a.judged == b.judged in TIES + DECIDED) for a, b in zip(votes, other_order, strict=True)]
    return sound_share("same answer in both orders", np.array(same), what, seed)


def right_by_position(
    votes: Votes[Vote], other_order: Votes[Vote] | None
) -> tuple[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]], ...]:
    """(right, counted) of each comparison where people prefer the edit that is shown first, then second (A.8, table 8).

    Args:
      other_order: from `align_swapped`; then a comparison counts in both positions. Else only in the one that it has.
    """
    orders = [(votes, (FIRST, SECOND)), *([(other_order, (SECOND, FIRST))] if other_order is not None else [])]
    found = []
    for position in range(2):
        # In the exchanged order, the edit that people prefer has changed its side, and its vote was mirrored back.
        shown = [
            [vote if vote and vote.human == sides[position] else None for vote in order] for order, sides in orders
        ]
        counted, right = (np.array([[bool(vote) and test(vote) for vote in order] for order in shown]).sum(0)
                          for test in (lambda vote: True, lambda vote: vote.right))  # fmt: skip
        found.append((right, counted))
    return tuple(found)


def notes_lost(orders: Sequence[Votes[Vote]], what: str, counted: str) -> list[Note]:
    """Notes about the lost answers of each order of the edits."""
    suffixes, notes = ("", "_swapped"), []
    for order, suffix in zip(orders, suffixes, strict=False):
        named = [(f"answer {i}", MISSING) if vote is None else (vote.key, vote.judged) for i, vote in enumerate(order)]
        lost = {name: kind for name, kind in named if kind in KINDS}
        notes.append(note_lost(lost, len(order), what + (", edits exchanged," if suffix else ""), counted, suffix))
    return notes
