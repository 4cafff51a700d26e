"""Agreement on pairs: what humans preferred against the margin by which a scorer did.

Throughout, `human` is 1 where humans found the first edit better, -1 the second, 0 neither; `margin` is the score of
the first less that of the second. A margin within a threshold is a tie that the scorer calls.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Human = Int[np.ndarray, " n"]
Margin = Float[np.ndarray, " n"]

NEVER = -1.0  # the threshold that calls no ties
_FOLDS = 5


def right(human: Human, margin: Margin, threshold: float) -> Bool[np.ndarray, " n"]:
    """Which items the scorer calls as humans do. A margin of exactly 0 prefers nobody, whatever the threshold."""
    return human == np.where(np.abs(margin) <= threshold, 0, np.sign(margin))


def right_without_ties(human: Human, margin: Margin) -> Bool[np.ndarray, " m"]:
    """As `right`, of the items that humans decided; no ties are called, so that a margin of 0 is wrong.

    Raises:
      ValueError: if humans decided none.
    """
    decided = human != 0
    if not decided.any():
        raise ValueError(f"all {len(human)} human judgements are ties: there is no accuracy without ties.")
    return right(human[decided], margin[decided], NEVER)


def best_threshold(human: Human, margin: Margin, thresholds: Sequence[float] | np.ndarray) -> float:
    """The first of the thresholds under which most items are right."""
    return float(thresholds[int(np.argmax([right(human, margin, t).sum() for t in thresholds]))])


def cross_validated(human: Human, margin: Margin, seed: int) -> Bool[np.ndarray, " n"]:
    """Which items are right when the threshold of each fifth is chosen on the other four.

    Thresholds lie halfway between neighbouring margins; calling no ties, or all, are choices too.

    Raises:
      ValueError: for fewer than two items.
    """
    if len(human) < 2:
        raise ValueError(f"{len(human)} judged item(s) cannot be split to choose a threshold on some of them.")
    fold = np.random.default_rng(seed).permutation(len(human)) % _FOLDS
    told = np.zeros(len(human), bool)
    for k in range(_FOLDS):
        held, others = fold == k, fold != k
        levels = np.unique(np.abs(margin[others]))
        choices = [NEVER, *(levels[:-1] + levels[1:]) / 2, levels[-1]]
        told[held] = right(human[held], margin[held], best_threshold(human[others], margin[others], choices))
    return told


def published_accuracy_with_ties(human: Human, margin: Margin) -> float:
    """Accuracy of GenAI-Bench and AURORA pairs as published: the threshold is tuned on the items themselves.

    The scan calls one item after the other a tie, by growing |margin| and in the order given where these are equal.
    So it always calls at least one, and looks at the accuracy half-way through equal margins: the result depends on
    the order of items and may exceed what any threshold reaches. After "Ties Matter" (Deutsch et al. 2305.14324).
    """
    order = np.argsort(np.abs(margin), kind="stable")
    tied = np.cumsum(human[order] == 0)
    preferred = (human * margin > 0)[order]
    decided = preferred.sum() - np.cumsum(preferred)
    return float((tied + decided).max() / len(human))


def published_threshold(human: Human, margin: Margin) -> float:
    """The tie threshold of EditReward-Bench as published: the best of 0 and every |margin|, on the items themselves."""
    return best_threshold(human, margin, [0.0, *np.unique(np.abs(margin))])
