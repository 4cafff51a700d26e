"""EditReward's heads: the state at a prompt's reward token → Gaussian (mean, log σ) of its score.

EditReward (arXiv 2509.26346) section 3.2 and its code (fact sheet 2.2 to 2.4). All in float32: log σ is exponentiated.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from rewardedit_jax.models.layers import Dense

PARTITION_RULES = ((r"(.*/)?head(_\d+)?/dense_\d/(kernel|bias)", P()),)  # 4 M numbers: not worth dividing

KINDS = ("separate", "shared", "single")
AGGREGATIONS = ("mean", "min", "sum")
_DROPOUT = 0.05


@dataclass(frozen=True)
class RewardHeadsConfig:
    """Which heads there are, and how their outputs become one.

    "separate": a head for each of two prompts, following and quality (published weights). "shared": one head for both.
    "single": one head, one prompt. The aggregation "sum" is of separate heads: of a shared one published code takes the
    mean, and so becomes what is set here.
    """

    kind: str = "separate"
    hidden_sizes: tuple[int, int] = (1024, 16)
    aggregation: str = "mean"

    def __post_init__(self):
        for name, allowed in (("kind", KINDS), ("aggregation", AGGREGATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if (self.kind, self.aggregation) == ("shared", "sum"):
            object.__setattr__(self, "aggregation", "mean")  # no error: published recipes with it are to be trained too

    @property
    def prompts(self) -> int:
        """How many prompts are asked about one edit."""
        return 1 if self.kind == "single" else 2


class RewardHead(nn.Module):
    """Two hidden layers with ReLU; dropout after the first, where `deterministic` is False."""

    hidden_sizes: tuple[int, int]

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"], deterministic: bool = True) -> Float[Array, "*b 2"]:
        # Numbered as in the published Sequential, whose other members have no parameters.
        x = nn.relu(_dense(self.hidden_sizes[0], 0)(x.astype(jnp.float32)))
        x = nn.relu(_dense(self.hidden_sizes[1], 3)(nn.Dropout(_DROPOUT)(x, deterministic)))
        return _dense(2, 5)(x)


class RewardHeads(nn.Module):
    """The heads of a scorer."""

    config: RewardHeadsConfig

    def setup(self):
        count = 2 if self.config.kind == "separate" else 1
        names = ["head_0", "head_1"] if count == 2 else ["head"]
        self.all_heads = [RewardHead(self.config.hidden_sizes, name=name) for name in names]

    def __call__(
        self, states: Float[Array, "b k d"], first: int = 0, deterministic: bool = True
    ) -> Float[Array, "b k 2"]:
        """(mean, log σ) of k prompts, which are prompts `first`, `first + 1`, ... of the scorer."""
        if self.is_initializing():  # whichever prompts are asked for, there are all heads
            for head in self.all_heads:
                head(states[:, 0])
        head = [self.all_heads[min(first + i, len(self.all_heads) - 1)] for i in range(states.shape[1])]
        return jnp.stack([head[i](states[:, i], deterministic) for i in range(states.shape[1])], axis=1)


def _dense(features: int, number: int) -> Dense:
    return Dense(features, kernel_init=normal(0.02), name=f"dense_{number}")


def aggregate(outputs: Float[Array, "*b k 2"], how: str) -> Float[Array, "*b 2"]:
    """One (mean, log σ) of those of k prompts, by the published rules.

    "mean" averages means and log σ, so that σ is the geometric mean; "min" takes the smaller of each, from whichever
    prompt; "sum" adds means and variances.
    """
    if how == "sum":
        log_std = jax.scipy.special.logsumexp(2 * outputs[..., 1], axis=-1) / 2
        return jnp.stack([outputs[..., 0].sum(-1), log_std], axis=-1)
    return outputs.min(axis=-2) if how == "min" else outputs.mean(axis=-2)
