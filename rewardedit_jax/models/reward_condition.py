"""The reward condition of the U-Net: three scores in 0..5 and a feedback text, read by attention and by addition.

Multi-Reward as Condition (Gu et al., ICLR 2025, arXiv:2411.04713), sections 4.2 and 4.3. There are two layouts of the
reward modules, one file each: `reward_released` has the modules of the published weights, `reward_paper` those of the
paper's equations. Both are Linen modules with the methods of `RewardModules`. Everything that they add is multiplied by
`keep`, so that the U-Net without reward is the base editor, in both layouts and without further parameters.

Axes: b batch, h w latent rows and columns, c channels, l text tokens, d text width, e time-embedding width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rewardedit_jax.models.layers import sinusoid
from rewardedit_jax.reward import PERSPECTIVES

FeatureMap = Float[Array, "b h w c"]
TimeEmbedding = Float[Array, "b e"]

LAYOUTS = ("released", "paper")
SOURCES = ("scores", "text")
PATHS = ("attention", "addition")
# The form of the text states that a layout reads, and their number of axes.
_TEXT_AXES = {"released": ("pooled", 2), "paper": ("per token", 3)}


@dataclass(frozen=True)
class RewardConditionConfig:
    """The layout of the reward modules, and the switches of the paper's ablations (section 6.4, appendix C.4)."""

    layout: str = "released"
    sources: tuple[str, ...] = SOURCES  # the parts of a reward that are read (table 4)
    paths: tuple[str, ...] = PATHS  # the places where the reward acts (table 5)
    perspectives: tuple[str, ...] = PERSPECTIVES  # the scores that are read (table 10)
    heads: int = 8  # of the reward encoder's attention
    dropout: float = 0.1  # in the reward encoder of the released layout, in training
    score_channels: int = 256  # of the sinusoid of one score

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise ValueError(f"reward.layout={self.layout!r}: expected one of {', '.join(LAYOUTS)}")
        for name, known in (("sources", SOURCES), ("paths", PATHS), ("perspectives", PERSPECTIVES)):
            chosen = getattr(self, name)
            if not chosen or list(chosen) != [x for x in known if x in chosen]:
                raise ValueError(f"reward.{name}={chosen!r}: expected some of {known}, in this order")

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns of the scores [following, preserving, quality] that are read."""
        return tuple(PERSPECTIVES.index(p) for p in self.perspectives)


# Torch names that a checkpoint has if and only if its reward modules read this source, or act at this place.
_EVIDENCE = {
    "released": {
        "scores": ("add_embedding.linear_1.weight", "add_embedding2.linear_1.weight"),
        "text": ("text_linear.weight", "text_linear2.weight"),
        "attention": ("ca.output.dense.weight",),
        "addition": ("add_embedding.linear_1.weight", "text_linear2.weight"),
    },
    "paper": {
        "scores": ("reward_condition.score_embedding.linear_1.weight",),
        "text": ("reward_condition.text_type",),
        "attention": ("reward_attention.linear1.weight",),
        "addition": ("reward_addition.mid.linear2.weight",),
    },
}


def infer_reward_condition(tensor_shapes: Mapping[str, tuple[int, ...]]) -> RewardConditionConfig | None:
    """The config of the reward modules in a checkpoint, from its tensor names; None if there are none.

    The number of heads, the dropout rate and `score_channels` cannot be inferred: they are the published ones. Raises
    ValueError if the width of the scores does not match all three perspectives.
    """
    for layout, evidence in _EVIDENCE.items():
        found = {part: [name for name in names if name in tensor_shapes] for part, names in evidence.items()}
        if any(found.values()):
            sources, paths = (tuple(x for x in known if found[x]) for known in (SOURCES, PATHS))
            config = RewardConditionConfig(layout, sources, paths)
            width = len(PERSPECTIVES) * config.score_channels
            # A narrower input may be of any perspective; only a config.json can say which.
            if other := [w for name in found["scores"] if (w := tensor_shapes[name][1]) != width]:
                raise ValueError(
                    f"the reward modules read scores of width {other[0]}: expected {len(PERSPECTIVES)} × "
                    f'{config.score_channels}; name their perspectives under "reward_condition" in config.json'
                )
            return config
    return None


@flax.struct.dataclass
class EncodedReward:
    """The reward inputs of a batch, as `encode_reward` makes them."""

    scores: Float[Array, "b s"] | None  # sinusoids of the chosen scores, concatenated
    text: Float[Array, "b d"] | Float[Array, "b l d"] | None  # pooled (released) or per token (paper)
    keep: Float[Array, " b"]  # 1 with a reward, 0 without


def encode_reward(
    config: RewardConditionConfig | None,
    scores: Float[Array, "b 3"] | None,
    text: Float[Array, "b *states"] | None,
    keep: Float[Array, " b"] | Bool[Array, " b"] | None,
) -> EncodedReward | None:
    """The reward of a batch, with its scores encoded (PE in eq. 6); None if neither scores nor text are given.

    Raises ValueError if the arguments are not those that this config reads. `keep=None`: every sample has a reward.
    """
    if config is None:
        if any(given is not None for given in (scores, text, keep)):
            raise ValueError("reward arguments for a U-Net without reward modules: expected none")
        return None
    if scores is None and text is None:
        return None
    given = tuple(name for name, value in zip(SOURCES, (scores, text), strict=True) if value is not None)
    if given != config.sources:
        raise ValueError(f"reward {' and '.join(given)} given: this U-Net reads {' and '.join(config.sources)}")
    form, axes = _TEXT_AXES[config.layout]
    if text is not None and text.ndim != axes:
        raise ValueError(f"reward_text of shape {text.shape}: this U-Net reads {form} states, with {axes} axes")
    batch = (scores if scores is not None else text).shape[0]
    if scores is not None:
        # The released code encodes scores 0..5 as they are, like diffusion timesteps; the paper names no scale.
        chosen = scores[:, jnp.asarray(config.columns)]
        scores = sinusoid(chosen, config.score_channels).reshape(batch, -1)
    return EncodedReward(scores, text, jnp.ones(batch) if keep is None else keep.astype(jnp.float32))


def per_sample(keep: Float[Array, " b"], like: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """`keep` in the type of `like`, with axes of length 1 so that it broadcasts over each sample."""
    return keep.reshape(-1, *(1,) * (like.ndim - 1)).astype(like.dtype)


class RewardModules:
    """Base of the reward layouts. Its methods change nothing: they are those of the base editor."""

    def condition(self, reward: EncodedReward | None) -> Any:
        """What the other methods read, computed once per call."""
        return reward

    def embed(self, temb: TimeEmbedding, condition: Any) -> TimeEmbedding:
        """The time embedding with the reward."""
        return temb

    def encode(self, x: FeatureMap, condition: Any, deterministic: bool) -> FeatureMap:
        """The first feature map with the reward: the paper's reward encoder (eq. 2)."""
        return x

    def after_block(self, x: FeatureMap, block: str, condition: Any) -> FeatureMap:
        """The output of a U-Net block with the reward (eq. 3)."""
        return x
