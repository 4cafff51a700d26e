"""A judge's votes on two edits shown side by side, and the same votes with the edits in each other's place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from rewardedit_jax.evaluation.report import Row, sound_share
from rewardedit_jax.evaluation.reward_models.json_records import listed

FIRST, SECOND = DECIDED = "[[A>B]]", "[[B>A]]"  # A is the edit that is shown first
UNKNOWN = "Unknown"  # a verdict that is none


@dataclass(frozen=True)
class Vote:
    """One comparison, both verdicts in the judge's words."""

    key: str  # the same in both orders
    human: str
    judged: str

    @property
    def right(self) -> bool:
        return self.human == self.judged


AnyVote = TypeVar("AnyVote", bound=Vote)


def turned(votes: Sequence[AnyVote | None], swapped: Sequence[AnyVote | None], file: Path) -> Sequence[AnyVote | None]:
    """Votes on the same edits shown in the other order, put back into the order of `votes`.

    Args:
      votes, swapped: None where the judge gave no answer. Which comparison that was is not known, so it may be any that
        was answered in the other order only.
      file: of `swapped`, for errors.
    Raises:
      ValueError: if they are not of the same items, or the human votes have not changed sides with the edits.
    """
    back = {
        vote.key: replace(vote, human=_mirrored(vote.human), judged=_mirrored(vote.judged))
        for vote in filter(None, swapped)
    }
    known = dict.fromkeys(vote.key for vote in filter(None, votes))
    lacking, more = [key for key in known if key not in back], [key for key in back if key not in known]
    if len(lacking) > swapped.count(None) or len(more) > votes.count(None):
        strange = [*lacking, *more]
        raise ValueError(f"{file}: {len(strange)} votes are in one order only: {listed(strange)}.")
    if len(swapped) != len(votes):
        raise ValueError(f"{file}: there are {len(swapped)} votes in this order and {len(votes)} in the other.")
    rest = iter(more)
    found = [back.get(vote.key if vote else next(rest, "")) for vote in votes]
    unlike = [a.key for a, b in zip(votes, found, strict=True) if a and b and a.human != b.human]
    if unlike:
        raise ValueError(
            f"{file}: {len(unlike)} human votes are not those of the other order with left and right exchanged: "
            f"{listed(unlike)}."
        )
    return found


def _mirrored(verdict: str) -> str:
    return {FIRST: SECOND, SECOND: FIRST}.get(verdict, verdict)  # others look the same from both sides


def share_of_orders(orders: Sequence[Sequence[Vote | None]], right: Callable[[Vote], bool]) -> Float[np.ndarray, " n"]:
    """How much of each vote is right, every order having the same part in it; no answer is wrong."""
    return np.mean([[vote is not None and right(vote) for vote in order] for order in orders], axis=0)


def same_answer(votes: Sequence[Vote | None], other_order: Sequence[Vote | None], what: str, seed: int) -> Row:
    """How often a judge says the same when the edits change places; who says nothing does not say the same."""
    both = zip(votes, other_order, strict=True)
    same = [bool(a and b and a.judged == b.judged != UNKNOWN) for a, b in both]
    return sound_share("same answer in both orders", np.array(same), what, seed)
