"""What a scorer learns from pairs: losses per pair, smaller where the preferred edit scores higher.

An output is the Gaussian (mean, log σ) of a score. Of two outputs A (preferred) and B the difference z = A - B is
Gaussian too, with mean d = A₀ - B₀ and variance exp(2 A₁) + exp(2 B₁); the two scores are taken as independent. Names
and constants are those of EditReward's training code, where it has the objective; its loss is E[-log sigmoid(z)], its
paper's equation 4 is -log E[sigmoid(z)], and by Jensen's inequality the first is never smaller. Both are computed
without sampling; the published sampling is `uncertainty_monte_carlo`. `thurstone` is for who wants to believe σ.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rewardedit_jax.scoring.logistic_normal import expected_logistic_loss, log_expected_sigmoid
from rewardedit_jax.scoring.normal import log_ndtr

MARGIN = 0.57
TIE_STRENGTH = 5.0  # k of Bradley-Terry with ties: equal scores tie with probability (k - 1) / (k + 1)
RATING_SHIFT = 4.5  # of the overall rating, following + quality, 2..8


@flax.struct.dataclass
class Side:
    """One edit of every pair of a batch: what the scorer says, and what the raters said."""

    overall: Any  # float32[b, 2]: (mean, log σ) of the aggregated score
    perspectives: Any  # float32[b, 2, 2]: the same of following and of quality, before aggregation
    ratings: Any = None  # float32[b, 2]: following and quality, 1..4; None where the data has no ratings


@flax.struct.dataclass
class Pairs:
    """A batch of judged pairs, with the scorer's outputs."""

    preferred: Side
    other: Side
    tied: Any  # bool[b]: neither is preferred, the order means nothing; a disentangled tie is two rows with an order


Objective = Callable[[Pairs, PRNGKeyArray], Float[Array, " b"]]


def objective(name: str, prompts: int = 2, **settings: Any) -> Objective:
    """The objective of that name with its settings: (pairs, rng) → float32[b].

    Tied rows count 0 in objectives without a term for ties (all rankings but `btt` and `per_perspective`).

    Args:
      prompts: how many a scorer is asked about an edit.
    Raises:
      ValueError: for an unknown name, settings that it does not take, or a scorer that does not tell enough; the
        objective raises it for data without ratings where it needs them.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; choose one of {', '.join(OBJECTIVES)}.")
    chosen = partial(OBJECTIVES[name], **settings)
    side = Side(jnp.zeros((1, 2)), jnp.zeros((1, prompts, 2)), jnp.zeros((1, 2)))
    try:  # now, not when the weights have been read
        jax.eval_shape(chosen, Pairs(side, side, jnp.zeros(1, bool)), jax.random.key(0))
    except TypeError as error:
        raise ValueError(f"objective.settings {settings} do not suit {name}: {error}.") from error
    return chosen


def difference(a: Float[Array, "*#b 2"], b: Float[Array, "*#b 2"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Mean and variance of score(a) - score(b)."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return a[..., 0] - b[..., 0], jnp.exp(2 * a[..., 1]) + jnp.exp(2 * b[..., 1])


def preference_probability(a: Float[Array, "*#b 2"], b: Float[Array, "*#b 2"]) -> Float[Array, "*b"]:
    """Probability that a drawn score of `a` exceeds one of `b`, Φ(d/s), 0..1; outputs as (mean, log σ)."""
    d, variance = difference(a, b)
    return ndtr(d / jnp.maximum(jnp.sqrt(variance), jnp.finfo(jnp.float32).tiny))  # equal means, no variance: a half


def uncertainty(
    preferred: Float[Array, "*b 2"], other: Float[Array, "*b 2"], margin: float = 0.0
) -> Float[Array, "*b"]:
    """E[-log sigmoid(z - margin)], exact: what the published loss estimates."""
    d, variance = difference(preferred, other)
    return expected_logistic_loss(d - margin, variance)


def uncertainty_monte_carlo(
    preferred: Float[Array, "*b 2"],
    other: Float[Array, "*b 2"],
    rng: PRNGKeyArray,
    margin: float = 0.0,
    draws: int = 1000,
) -> Float[Array, "*b"]:
    """The same from draws of z, whose standard normals are rounded to float16 as published."""
    d, variance = difference(preferred, other)
    noise = jax.random.normal(rng, (draws, *d.shape)).astype(jnp.float16)
    z = noise.astype(jnp.float32) * jnp.sqrt(variance) + d
    return -log_sigmoid(z - margin).mean(axis=0)


def negative_log_probability(preferred: Float[Array, "*b 2"], other: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """-log E[sigmoid(z)]: the paper's equation 4, with the preference probability of HPSv3."""
    return -log_expected_sigmoid(*difference(preferred, other))


def thurstone(preferred: Float[Array, "*b 2"], other: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """-log Φ(d/s), the surprise at the stated `preference_probability` (Thurstone 1927). Not in the paper.

    The other uncertainty rankings put a logistic function between score and preference. Its own width bounds how sure
    they can be, so that σ shrinks and Φ(d/s) says more than they mean; here what is stated is what is trained.
    """
    d, variance = difference(preferred, other)
    return -log_ndtr(d / jnp.sqrt(variance))


def bradley_terry(preferred: Float[Array, "*b"], other: Float[Array, "*b"], margin: float = 0.0) -> Float[Array, "*b"]:
    """-log sigmoid(A - B - margin) of the means alone."""
    return -log_sigmoid(preferred - other - margin)


def likelihood_displacement(preferred: Float[Array, "*b"], other: Float[Array, "*b"], tau: float) -> Float[Array, "*b"]:
    """-log sigmoid(A - tau·B): for tau < 1 the other's score is pushed down less."""
    return -log_sigmoid(preferred - tau * other)


def bradley_terry_with_ties(
    preferred: Float[Array, "*b"], other: Float[Array, "*b"], tied: Bool[Array, "*b"], k: float = TIE_STRENGTH
) -> Float[Array, "*b"]:
    """-log P of the outcome, with P(A > B) = sigmoid(A - B - log k); the rest is the tie (Rao and Kupper 1967)."""
    d = preferred - other
    wins, loses = -log_sigmoid(d - math.log(k)), -log_sigmoid(-d - math.log(k))
    return jnp.where(tied, wins + loses - math.log(k**2 - 1), wins)


def hpsv2(preferred: Float[Array, "*b"], other: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Cross-entropy of the softmax of the softmax, as published, where it is summed over the batch."""
    return -log_sigmoid(jnp.tanh((preferred - other) / 2))


def regression(pairs: Pairs) -> Float[Array, " b"]:
    """Squared error of the two aggregated means from (overall rating - 4.5), the mean of the two sides."""

    def error(side: Side) -> Float[Array, " b"]:
        return side.overall[:, 0] - (_ratings(side, "reg").sum(axis=-1) - RATING_SHIFT)

    return (error(pairs.preferred) ** 2 + error(pairs.other) ** 2) / 2


def regression_per_perspective(pairs: Pairs) -> Float[Array, " b"]:
    """Squared error of following and quality from (2 · rating - 4.5), the mean of both and of the two sides.

    Not in the paper. The targets' mean is that of `regression`, so that one can go on from the other. A scorer from
    scratch learns from it in a third of the steps that a ranking takes.
    """

    def error(side: Side) -> Float[Array, "b 2"]:
        ratings = _ratings(side, "reg_per_perspective")
        return _perspectives(side, "reg_per_perspective")[..., 0] - (2 * ratings - RATING_SHIFT)

    return (error(pairs.preferred) ** 2 + error(pairs.other) ** 2).mean(axis=-1) / 2


def per_perspective(pairs: Pairs, ties: str = "btt", k: float = TIE_STRENGTH) -> Float[Array, " b"]:
    """Ranks following, quality and overall each by its own ratings; the mean of the three. Not in the paper.

    The published objectives rank the aggregate only, which leaves open how the two heads share its score. Here every
    perspective is an uncertainty ranking of its own; overall goes by the preference, not by ratings. `ties`: "masked"
    counts equal ratings 0; "btt" takes the expectation of `bradley_terry_with_ties` under the predicted Gaussians, so
    that equal ratings pull equal scores together and unequal ones must differ by about log k.
    """
    a, b = pairs.preferred, pairs.other
    order = jnp.sign(_ratings(a, "per_perspective") - _ratings(b, "per_perspective"))
    order = jnp.concatenate([order, jnp.where(pairs.tied, 0.0, 1.0)[:, None]], axis=1)
    d, variance = difference(_with_overall(a), _with_overall(b))
    match ties:
        case "masked":
            losses = jnp.where(order == 0, 0, expected_logistic_loss(order * d, variance))
        case "btt":
            wins, loses = (expected_logistic_loss(sign * d - math.log(k), variance) for sign in (1, -1))
            losses = jnp.select([order > 0, order < 0], [wins, loses], wins + loses - math.log(k**2 - 1))
        case _:
            raise ValueError(f"unknown ties {ties!r} of per_perspective; choose one of btt, masked.")
    return losses.mean(axis=1)


def _with_overall(side: Side) -> Float[Array, "b 3 2"]:
    return jnp.concatenate([_perspectives(side, "per_perspective"), side.overall[:, None]], axis=1)


def _perspectives(side: Side, name: str) -> Float[Array, "b 2 2"]:
    if side.perspectives.shape[1] != 2:
        raise ValueError(f"objective {name!r} is about two perspectives, and heads.kind single asks one question.")
    return side.perspectives


def _ratings(side: Side, name: str) -> Float[Array, "b 2"]:
    if side.ratings is None:
        raise ValueError(f"objective {name!r} learns from ratings, and this data has none; choose a ranking.")
    return side.ratings


def _of_outputs(
    loss: Callable[..., Float[Array, " b"]], pairs: Pairs, rng: PRNGKeyArray, **settings: Any
) -> Float[Array, " b"]:
    values = loss(pairs.preferred.overall, pairs.other.overall, **settings)
    return jnp.where(pairs.tied, 0, values)


def _sampled(pairs: Pairs, rng: PRNGKeyArray, **settings: Any) -> Float[Array, " b"]:
    return _of_outputs(partial(uncertainty_monte_carlo, rng=rng), pairs, rng, **settings)


def _of_means(
    loss: Callable[..., Float[Array, " b"]], pairs: Pairs, rng: PRNGKeyArray, **settings: Any
) -> Float[Array, " b"]:
    values = loss(pairs.preferred.overall[:, 0], pairs.other.overall[:, 0], **settings)
    return jnp.where(pairs.tied, 0, values)


def _with_ties(pairs: Pairs, rng: PRNGKeyArray, **settings: Any) -> Float[Array, " b"]:
    a, b = pairs.preferred.overall[:, 0], pairs.other.overall[:, 0]
    return bradley_terry_with_ties(a, b, pairs.tied, **settings)


OBJECTIVES: dict[str, Objective] = {
    "uncertainty": partial(_of_outputs, uncertainty),
    "uncertainty_with_margin": partial(_of_outputs, uncertainty, margin=MARGIN),
    "uncertainty_monte_carlo": _sampled,
    "negative_log_probability": partial(_of_outputs, negative_log_probability),
    "thurstone": partial(_of_outputs, thurstone),
    "bt": partial(_of_means, bradley_terry),
    "constant_margin": partial(_of_means, bradley_terry, margin=MARGIN),
    "likelihood_displacement": partial(_of_means, likelihood_displacement),
    "btt": _with_ties,
    "hpsv2": partial(_of_means, hpsv2),
    "reg": lambda pairs, rng: regression(pairs),
    "reg_per_perspective": lambda pairs, rng: regression_per_perspective(pairs),
    "per_perspective": lambda pairs, rng, **settings: per_perspective(pairs, **settings),
}
