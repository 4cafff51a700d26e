"""EditReward: Qwen2.5-VL, a reward token whose hidden state is read, and heads that make it a Gaussian score.

EditReward (arXiv:2509.26346), section 3.1 (eq. 1: backbone and head) and section 3.2 (eq. 2: one Gaussian
per dimension; eq. 3: aggregation). Parameters: `visual`, `decoder` and `heads`.

The prompts about one edit are packed into one row, `[shared prefix | rest of prompt 1 | rest of prompt 2]`. Each rest
attends to the prefix and to itself, and its positions continue those of the prefix. One pass therefore computes the
same numbers as one pass per prompt.

Axes: b rows, l tokens, k prompts, d width; n images, p patches and f features of an image.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.linen.initializers import normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rewardedit_jax.models import qwen2_5_vl
from rewardedit_jax.models.decoder import causal_mask
from rewardedit_jax.models.layers import Dense
from rewardedit_jax.models.qwen2_5_vl import ImageFeatures, Qwen2_5VL, Qwen2_5VLConfig
from rewardedit_jax.models.vision_plan import VisionPlan

PARTITION_RULES = (
    *qwen2_5_vl.PARTITION_RULES,
    (r"heads/head(_\d+)?/dense_\d/(kernel|bias)", P()),  # 4 M parameters: too few to divide
)
KINDS = ("separate", "shared", "single")
AGGREGATIONS = ("mean", "min", "sum")
_DROPOUT = 0.05  # the rate of the published heads


@dataclass(frozen=True)
class RewardHeadsConfig:
    """The reward heads, and how the outputs of several prompts are aggregated (ablations: table 4).

    `kind`: "separate" has a head per prompt, one for instruction following and one for visual quality (published
    weights); "shared" has one head for both prompts; "single" has one head and one prompt.

    `aggregation`: "mean", "min" or "sum" (eq. 3), see `aggregate`. A shared head is never summed: for
    `rm_head_type: ranknet_share_head`, published code computes the mean under `pooling_strategy: sum`. Such recipes
    load and train here with the same result: `__post_init__` replaces "sum" by "mean", with a warning.
    """

    kind: str = "separate"
    hidden_sizes: tuple[int, int] = (1024, 16)
    aggregation: str = "mean"

    def __post_init__(self):
        for name, allowed in (("kind", KINDS), ("aggregation", AGGREGATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"heads.{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if (self.kind, self.aggregation) == ("shared", "sum"):
            logging.warning("heads.aggregation='sum' with heads.kind='shared': using 'mean', as published code does.")
            object.__setattr__(self, "aggregation", "mean")

    @property
    def prompts(self) -> int:
        """The number of prompts about one edit."""
        return 1 if self.kind == "single" else 2


class RewardHead(nn.Module):
    """Two hidden layers with ReLU, dropout after the first. In float32 for any compute type: log σ is exponentiated."""

    hidden_sizes: tuple[int, int]

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"], deterministic: bool = True) -> Float[Array, "*b 2"]:
        dense = partial(Dense, kernel_init=normal(0.02))  # transformers' initializer_range
        # Layers are numbered as in the published nn.Sequential, whose other members have no parameters.
        x = nn.relu(dense(self.hidden_sizes[0], name="dense_0")(x.astype(jnp.float32)))
        x = nn.relu(dense(self.hidden_sizes[1], name="dense_3")(nn.Dropout(_DROPOUT)(x, deterministic)))
        return dense(2, name="dense_5")(x)


class RewardHeads(nn.Module):
    """The heads of a reward model: hidden states at reward tokens → (mean, log σ) per prompt (eq. 2)."""

    config: RewardHeadsConfig

    def setup(self):
        names = ["head_0", "head_1"] if self.config.kind == "separate" else ["head"]
        self.all_heads = [RewardHead(self.config.hidden_sizes, name=name) for name in names]

    def __call__(
        self, states: Float[Array, "b k d"], first: int = 0, deterministic: bool = True
    ) -> Float[Array, "b k 2"]:
        """(mean, log σ) of k prompts, which are the prompts `first`, `first + 1`, ... of the reward model."""
        if self.is_initializing():  # create the parameters of all heads, whichever prompts are in the call
            for head in self.all_heads:
                head(states[:, 0])
        # A shared head serves all prompts.
        head = [self.all_heads[min(first + i, len(self.all_heads) - 1)] for i in range(states.shape[1])]
        return jnp.stack([head[i](states[:, i], deterministic) for i in range(states.shape[1])], axis=1)


def aggregate(outputs: Float[Array, "*b k 2"], how: str) -> Float[Array, "*b 2"]:
    """One (mean, log σ) from those of k prompts.

    Eq. 3 defines the means: "min" (pessimistic minimum), "mean" (balanced average), "sum" (direct summation). The paper
    leaves σ open; published code aggregates log σ by the same minimum or mean, and adds variances for "sum".
    """
    if how == "sum":
        log_std = jax.scipy.special.logsumexp(2 * outputs[..., 1], axis=-1) / 2
        return jnp.stack([outputs[..., 0].sum(-1), log_std], axis=-1)
    return outputs.min(axis=-2) if how == "min" else outputs.mean(axis=-2)


@dataclass(frozen=True, kw_only=True)
class EditRewardConfig(Qwen2_5VLConfig):
    """The config of the backbone plus the reward heads."""

    # Published code does not pass image grids to the text model, which then numbers image tokens like text.
    positions: str = "plain"
    heads: RewardHeadsConfig | None = field(default_factory=RewardHeadsConfig)  # None: a base model, to start training

    @property
    def reward_token_id(self) -> int:
        """The id of the reward token `<|Reward|>`: the last embedding row."""
        return self.text.vocab_size - 1

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> "EditRewardConfig":
        """The config in a Hugging Face config.json of a reward model or of the base model.

        Raises ValueError naming an unsupported setting.

        Args:
          config: may have settings that published files lack (kind, aggregation, positions) under "reward_model".
          shapes: of the checkpoint's tensors, by name. The heads follow from them: published files do not name them.
        """
        settings = config.get("reward_model") or {}
        heads = _infer_heads(shapes, settings)
        positions = settings.get("positions", "plain" if heads else "mrope")
        return super().from_hf(config, shapes, heads=heads, positions=positions)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads, with our settings under "reward_model"."""
        heads = {} if self.heads is None else {k: v for k, v in asdict(self.heads).items() if k != "hidden_sizes"}
        return {**super().to_hf(), "reward_model": {**heads, "positions": self.positions}}


def _infer_heads(shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]) -> RewardHeadsConfig | None:
    """The heads that tensor names and shapes describe; None where there are none."""
    separate = any(name.startswith("rm_heads.") for name in shapes)
    first = "rm_heads.head_0" if separate else "rm_head"
    if not any(name.startswith(f"{first}.") for name in shapes):
        return None
    if missing := [n for n in (f"{first}.{i}.weight" for i in (0, 3, 5)) if n not in shapes]:
        raise ValueError(f"reward head without {', '.join(missing)}: only the published three layers are supported")
    # "shared" and "single" have the same tensors.
    kind = settings.get("kind", "separate" if separate else "shared")
    if separate != (kind == "separate"):
        raise ValueError(f"reward_model.kind={kind!r} does not match the tensors {first}.*")
    sizes = shapes[f"{first}.0.weight"][0], shapes[f"{first}.3.weight"][0]
    return RewardHeadsConfig(kind, sizes, settings.get("aggregation", "mean"))


@flax.struct.dataclass
class PackedPrompts:
    """Rows of packed prompts. Leaves are `Any`, as `jax.eval_shape` fills them with shapes."""

    ids: Any  # int32[b l], token ids
    positions: Any  # int32[b l], the number of the token in its own prompt, from 0
    segments: Any  # int32[b l]: 0 the shared prefix, n ≥ 1 the rest of the n-th prompt, -1 padding
    image_slots: Any  # int32[b l], image · f + feature at image tokens (only in the prefix), -1 at text
    reward_index: Any  # int32[b k], index in the row of each prompt's reward token


@flax.struct.dataclass
class PromptStates:
    """Outputs for one prompt per row. Leaves are `Any`, as in `PackedPrompts`."""

    outputs: Any  # float32[b 2], (mean, log σ) of the head; None in a model without heads
    hidden: Any  # float32[b d], after the final norm, at the reward token
    image_features: Any  # float32[features d], of all images in order


class EditReward(Qwen2_5VL):
    """The reward model: hidden states at reward tokens, and the heads' Gaussians."""

    config: EditRewardConfig

    def setup(self):
        super().setup()
        self.heads = None if self.config.heads is None else RewardHeads(self.config.heads)

    def __call__(
        self,
        input_ids: Int[Array | np.ndarray, "b l"],
        attention_mask: Int[Array | np.ndarray, "b l"],
        pixel_values: Float[Array | np.ndarray, "patches c"],
        image_grid_thw: Int[np.ndarray, "n 3"],
        head: int = 0,
    ) -> PromptStates:
        """Outputs for one prompt per row, in the layout of the Hugging Face processor.

        Args:
          input_ids: contain a reward token in each row, and one image token per feature over all rows.
          attention_mask, pixel_values, image_grid_thw: as of `Qwen2_5VL`.
          head: the number of the prompt: 0 for instruction following, 1 for visual quality.

        Raises ValueError as `check_reward_prompts` and `qwen2_5_vl.check_inputs` do.
        """
        check_reward_prompts(self.config, input_ids, attention_mask, head)
        states = super().__call__(input_ids, attention_mask, pixel_values, image_grid_thw)
        at = (jnp.asarray(input_ids) == self.config.reward_token_id).argmax(axis=1)[:, None, None]
        hidden = jnp.take_along_axis(states.hidden, at, axis=1)
        outputs = None if self.heads is None else self.heads(hidden, head)[:, 0]
        return PromptStates(outputs, hidden[:, 0].astype(jnp.float32), states.image_features)

    def score(
        self, patches: Float[Array, "n p c"], plan: VisionPlan, *args: Any, **kwargs: Any
    ) -> Float[Array, "b k 2"]:
        """`score_features` of the arguments that follow, on the features of these images."""
        return self.score_features(self.encode(patches, plan), *args, **kwargs)

    def score_features(
        self,
        images: ImageFeatures,
        prompts: PackedPrompts,
        reward_token: Float[Array, " d"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b k 2"]:
        """(mean, log σ) of each prompt of packed rows (eq. 2), before aggregation.

        Args:
          images: encoded images; `prompts.image_slots` counts their features with padding.
          reward_token: replaces the embedding row of the reward token, so that this row can train while the embedding
            matrix is frozen.
          deterministic: False applies dropout (rng "dropout").
        """
        prompts = jax.tree.map(jnp.asarray, prompts)
        x = self.embed(prompts.ids, prompts.image_slots, images)
        if reward_token is not None:
            is_reward = prompts.ids == self.config.reward_token_id
            x = jnp.where(is_reward[..., None], reward_token.astype(x.dtype), x)
        positions = self.number_tokens(prompts.positions, prompts.image_slots, images)
        states = self.decoder(x, positions, causal_mask(prompts.segments))
        hidden = jnp.take_along_axis(states, prompts.reward_index[..., None], axis=1)
        return self.heads(hidden, 0, deterministic)


def check_reward_prompts(config: EditRewardConfig, ids: Any, mask: Any, head: int) -> None:
    """Raises ValueError for a head that does not exist, or a row without reward token.

    Without the check, `argmax` would read the state of a row's first token. Ids that `jax.jit` traces are not checked.
    """
    if config.heads is None:
        return
    if not 0 <= head < config.heads.prompts:
        raise ValueError(f"head={head}: expected 0..{config.heads.prompts - 1}, as heads.kind={config.heads.kind!r}")
    if isinstance(ids, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    is_reward = (np.asarray(mask) > 0) & (np.asarray(ids) == config.reward_token_id)
    if lacking := np.flatnonzero(~is_reward.any(axis=1)).tolist():
        raise ValueError(f"rows {lacking} of input_ids have no reward token (id {config.reward_token_id})")
