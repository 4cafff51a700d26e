"""What edits are ranked by: the rules of curation, functions of the scores of all edits.

A rule gives a value for each edit, higher is better; NaN where the edit lacks what the rule needs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

Values = Float[np.ndarray, " n"]
Gaussians = Float[np.ndarray, "n 2"]  # mean and standard deviation; NaN: not scored


@dataclass(frozen=True)
class Ratings:
    """What is known about the quality of `n` edits."""

    overall: Gaussians  # by the scorer
    unchanged: Gaussians  # by the scorer, for the edit that leaves the source unchanged
    judged: Float[np.ndarray, "n 3"]  # 0..5 by perspective; NaN: not judged
    seed: int = 0
    k: float = 1.0  # standard deviations that `lower_bound` subtracts


def mean(ratings: Ratings) -> Values:
    return ratings.overall[:, 0]


def lower_bound(ratings: Ratings) -> Values:
    """Mean minus k standard deviations: an edit of which the scorer is unsure ranks lower."""
    return ratings.overall[:, 0] - ratings.k * ratings.overall[:, 1]


def improvement(ratings: Ratings) -> Values:
    """Standard deviations by which an edit beats its unchanged source; Φ of it is the probability that it does.

    Not the probability itself, which is 1 in double precision from 8.3 on and then has no order.
    """
    gap = ratings.overall[:, 0] - ratings.unchanged[:, 0]
    # Scores are independent given the edits, as in `Scorer.prefer`.
    spread = np.hypot(ratings.overall[:, 1], ratings.unchanged[:, 1])
    return gap / np.maximum(spread, np.finfo(float).tiny)


def labels(ratings: Ratings) -> Values:
    """Mean of the three judged scores."""
    return ratings.judged.mean(axis=1)


def random(ratings: Ratings) -> Values:
    """Uniform numbers: the control for any other rule."""
    return np.random.default_rng(ratings.seed).random(len(ratings.overall))


Rule = Callable[[Ratings], Values]
RULES: dict[str, Rule] = {
    "mean": mean,
    "lcb": lower_bound,
    "improvement": improvement,
    "labels": labels,
    "random": random,
}
SCORED = ("mean", "lcb", "improvement")  # the rules that need a scorer


def shown(rule: str, values: Float[np.ndarray, "*n"]) -> Float[np.ndarray | np.generic, "*n"]:
    """The values as people read them: of `improvement` the probability, of the other rules the values themselves."""
    return ndtr(values) if rule == "improvement" else values
