"""Training objectives of a scorer: losses per pair, smaller if the preferred edit has the higher score.

EditReward (arXiv:2509.26346) predicts a Gaussian score, (mean, log σ), for each edit (section 3.2, eq. 2). The
difference z = A - B of the scores of the preferred edit A and the other edit B, assumed independent, is Gaussian too:
its mean is d = A₀ - B₀, its variance exp(2 A₁) + exp(2 B₁).

The ranking loss of the paper (eq. 4) is -log P, with HPSv3's P = E[sigmoid(z)]: `negative_log_probability`.
EditReward's code minimises E[-log sigmoid(z)], which is never smaller (Jensen's inequality): `uncertainty`. Both are
computed without sampling here; `uncertainty_monte_carlo` samples as the code does. The regression of eq. 5 is
`regression`. Names and constants are those of the code (`loss_type`) where it has the objective. Of the others,
`thurstone` gives calibrated probabilities and `per_perspective` supervises both perspectives.
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

from rewardedit_jax.scoring.logistic_normal import expected_logistic_loss, log_expected_sigmoid, log_normal_cdf

# Constants of EditReward's training code.
MARGIN = 0.57
TIE_STRENGTH = 5.0  # k of Bradley-Terry with ties: equal scores tie with probability (k - 1) / (k + 1)
RATING_SHIFT = 4.5  # the transform T of eq. 5: the overall rating, following + quality in 2..8, minus 4.5


@flax.struct.dataclass
class Side:
    """One edit of each pair of a batch: the scorer's outputs and the ratings."""

    overall: Any  # float32[b, 2]: (mean, log σ) of the aggregated score
    perspectives: Any  # float32[b, 2, 2]: (mean, log σ) of following and of quality, before aggregation
    ratings: Any = None  # float32[b, 2]: following and quality, 1..4; None for data without ratings


@flax.struct.dataclass
class Pairs:
    """A batch of pairs with preferences."""

    preferred: Side
    other: Side
    # bool[b]: neither edit is preferred, and the order has no meaning. A disentangled tie (section 3.3, eq. 6) is not
    # tied: it is two rows of opposite order.
    tied: Any


Objective = Callable[[Pairs, PRNGKeyArray], Float[Array, " b"]]


def objective(name: str, prompts: int = 2, **settings: Any) -> Objective:
    """The objective of this name with its settings: (pairs, rng) → float32[b].

    The loss of tied rows is 0 in rankings without a term for ties, which are all but `btt` and `per_perspective`.

    Args:
      prompts: the number of prompts of the scorer, 1 or 2.
    Raises:
      ValueError: the settings do not fit, or the objective needs two prompts; when it is called, also if it needs
        ratings and the data has none.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective.name={name!r}: expected one of {', '.join(OBJECTIVES)}.")
    loss = partial(OBJECTIVES[name], **settings)
    side = Side(jnp.zeros((1, 2)), jnp.zeros((1, prompts, 2)), jnp.zeros((1, 2)))
    try:  # a trial on abstract values, so that wrong settings fail before the weights are read
        jax.eval_shape(loss, Pairs(side, side, jnp.zeros(1, bool)), jax.random.key(0))
    except TypeError as error:
        # Python names the function, which may be an adapter, before what is wrong with its arguments.
        fault = str(error).rpartition("() ")[2]
        raise ValueError(f"objective.settings={settings} do not fit objective {name!r}: it {fault}.") from error
    return loss


def difference(a: Float[Array, "*#b 2"], b: Float[Array, "*#b 2"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Mean and variance of score(a) - score(b)."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return a[..., 0] - b[..., 0], jnp.exp(2 * a[..., 1]) + jnp.exp(2 * b[..., 1])


def preference_probability(a: Float[Array, "*#b 2"], b: Float[Array, "*#b 2"]) -> Float[Array, "*b"]:
    """Probability that a score drawn from `a` exceeds one drawn from `b`, Φ(d/s), 0..1; both are (mean, log σ)."""
    d, variance = difference(a, b)
    # log σ may underflow to a variance of 0; equal means then give 1/2 instead of 0/0.
    return ndtr(d / jnp.maximum(jnp.sqrt(variance), jnp.finfo(jnp.float32).tiny))


def uncertainty(
    preferred: Float[Array, "*b 2"], other: Float[Array, "*b 2"], margin: float = 0.0
) -> Float[Array, "*b"]:
    """E[-log sigmoid(z - margin)] in closed form: the expectation of the loss in EditReward's training code."""
    d, variance = difference(preferred, other)
    return expected_logistic_loss(d - margin, variance)


def uncertainty_monte_carlo(
    preferred: Float[Array, "*b 2"],
    other: Float[Array, "*b 2"],
    rng: PRNGKeyArray,
    margin: float = 0.0,
    draws: int = 1000,
) -> Float[Array, "*b"]:
    """`uncertainty` estimated from draws of z, as in EditReward's training code."""
    d, variance = difference(preferred, other)
    noise = jax.random.normal(rng, (draws, *d.shape)).astype(jnp.float16)  # the code rounds the draws
    z = noise.astype(jnp.float32) * jnp.sqrt(variance) + d
    return -log_sigmoid(z - margin).mean(axis=0)


def negative_log_probability(preferred: Float[Array, "*b 2"], other: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """-log E[sigmoid(z)]: eq. 4 of the EditReward paper, with the preference probability of HPSv3."""
    return -log_expected_sigmoid(*difference(preferred, other))


def thurstone(preferred: Float[Array, "*b 2"], other: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """-log Φ(d/s), the log loss of `preference_probability` (Thurstone 1927). Not in the paper.

    The other uncertainty rankings have a logistic function between score and preference. Its width adds to σ in their
    loss, but not in Φ(d/s): σ shrinks in training, and Φ(d/s) is overconfident. Here the trained probability and the
    reported one are the same.
    """
    d, variance = difference(preferred, other)
    return -log_normal_cdf(d / jnp.sqrt(variance))


def bradley_terry(preferred: Float[Array, "*b"], other: Float[Array, "*b"], margin: float = 0.0) -> Float[Array, "*b"]:
    """-log sigmoid(A - B - margin) for means A and B (Bradley and Terry 1952)."""
    return -log_sigmoid(preferred - other - margin)


def likelihood_displacement(preferred: Float[Array, "*b"], other: Float[Array, "*b"], tau: float) -> Float[Array, "*b"]:
    """-log sigmoid(A - tau·B) for means A and B: tau < 1 weakens the gradient of the other edit's score."""
    return -log_sigmoid(preferred - tau * other)


def bradley_terry_with_ties(
    preferred: Float[Array, "*b"], other: Float[Array, "*b"], tied: Bool[Array, "*b"], k: float = TIE_STRENGTH
) -> Float[Array, "*b"]:
    """-log P of the outcome for means A and B: win, or tie (Rao and Kupper 1967).

    P(A > B) = sigmoid(A - B - log k), and P(tie) = 1 - P(A > B) - P(B > A).
    """
    d = preferred - other
    wins, loses = -log_sigmoid(d - math.log(k)), -log_sigmoid(-d - math.log(k))
    # The probability of a tie is (k² - 1) P(A > B) P(B > A).
    return jnp.where(tied, wins + loses - math.log(k**2 - 1), wins)


def hpsv2(preferred: Float[Array, "*b"], other: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Cross-entropy of softmax(softmax([A, B])): EditReward's code hands probabilities to a loss for logits.

    The code sums it over the batch; here it is a loss per pair.
    """
    return -log_sigmoid(jnp.tanh((preferred - other) / 2))


def regression(pairs: Pairs) -> Float[Array, " b"]:
    """Eq. 5: squared error of the aggregated mean from T(following + quality), averaged over the two edits.

    As in EditReward's code, T subtracts 4.5 and the aggregation is the configured one; eq. 5 has the sum.
    """

    sides = pairs.preferred, pairs.other
    a, b = (side.overall[:, 0] - (_ratings(side, "reg").sum(axis=-1) - RATING_SHIFT) for side in sides)
    return (a**2 + b**2) / 2


def regression_per_perspective(pairs: Pairs) -> Float[Array, " b"]:
    """Squared error of the means of following and quality from 2 · rating - 4.5, averaged over both and both edits.

    Not in the paper. The targets of the two perspectives average to the target of `regression`. A scorer from scratch
    needs a third of the steps of a ranking.
    """

    name, sides = "reg_per_perspective", (pairs.preferred, pairs.other)
    a, b = (_perspectives(side, name)[..., 0] - (2 * _ratings(side, name) - RATING_SHIFT) for side in sides)
    return (a**2 + b**2).mean(axis=-1) / 2


def per_perspective(pairs: Pairs, ties: str = "btt", k: float = TIE_STRENGTH) -> Float[Array, " b"]:
    """Mean of three rankings: following and quality by their ratings, overall by the preference. Not in the paper.

    The published objectives rank only the aggregate and leave open how the two heads share its score. Here each
    perspective has an uncertainty ranking of its own.

    Args:
      ties: loss of equal ratings. "masked": 0. "btt": the expectation of `bradley_terry_with_ties` under the predicted
        Gaussians, for all ratings: equal ratings then attract scores, unequal ones separate them by about log k.
      k: as in `bradley_terry_with_ties`.
    """
    a, b = pairs.preferred, pairs.other
    # Sign of the preference in each ranking: 1 for `a`, -1 for `b`, 0 for a tie.
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
            raise ValueError(f"objective.settings.ties={ties!r}: expected one of btt, masked.")
    return losses.mean(axis=1)


def _with_overall(side: Side) -> Float[Array, "b 3 2"]:
    return jnp.concatenate([_perspectives(side, "per_perspective"), side.overall[:, None]], axis=1)


def _perspectives(side: Side, name: str) -> Float[Array, "b 2 2"]:
    if side.perspectives.shape[1] != 2:
        raise ValueError(f"objective {name!r} needs two perspectives: heads.kind must not be 'single'.")
    return side.perspectives


def _ratings(side: Side, name: str) -> Float[Array, "b 2"]:
    if side.ratings is None:
        raise ValueError(f"objective {name!r} needs ratings, and the data has none: choose a ranking.")
    return side.ratings


# Adapters of the losses above to the signature of `Objective`.
_Loss = Callable[..., Float[Array, " b"]]


def _of_outputs(loss: _Loss, pairs: Pairs, rng: PRNGKeyArray, **settings: Any) -> Float[Array, " b"]:
    """Loss of the aggregated (mean, log σ); 0 for tied pairs."""
    return jnp.where(pairs.tied, 0, loss(pairs.preferred.overall, pairs.other.overall, **settings))


def _of_means(loss: _Loss, pairs: Pairs, rng: PRNGKeyArray, **settings: Any) -> Float[Array, " b"]:
    """Loss of the aggregated means alone; 0 for tied pairs."""
    return jnp.where(pairs.tied, 0, loss(*_means(pairs), **settings))


def _means(pairs: Pairs) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    return pairs.preferred.overall[:, 0], pairs.other.overall[:, 0]


# By the names of `config.objective.name`. Those of EditReward's `loss_type` are kept.
OBJECTIVES: dict[str, Objective] = {
    "uncertainty": partial(_of_outputs, uncertainty),
    "uncertainty_with_margin": partial(_of_outputs, uncertainty, margin=MARGIN),
    "uncertainty_monte_carlo": lambda pairs, rng, **settings: _of_outputs(
        partial(uncertainty_monte_carlo, rng=rng), pairs, rng, **settings
    ),
    "negative_log_probability": partial(_of_outputs, negative_log_probability),
    "thurstone": partial(_of_outputs, thurstone),
    "bt": partial(_of_means, bradley_terry),
    "constant_margin": partial(_of_means, bradley_terry, margin=MARGIN),
    "likelihood_displacement": partial(_of_means, likelihood_displacement),
    "btt": lambda pairs, rng, **settings: bradley_terry_with_ties(*_means(pairs), pairs.tied, **settings),
    "hpsv2": partial(_of_means, hpsv2),
    "reg": lambda pairs, rng: regression(pairs),
    "reg_per_perspective": lambda pairs, rng: regression_per_perspective(pairs),
    "per_perspective": lambda pairs, rng, **settings: per_perspective(pairs, **settings),
}
