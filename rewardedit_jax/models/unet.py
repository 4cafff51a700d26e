"""The Stable Diffusion U-Net (1.x and 2.x), plain or reward-conditioned.

Rombach et al. 2022; with the condition latents beside the noisy ones in its input: InstructPix2Pix, Brooks et al. 2023;
with a reward: "Multi-Reward as Condition", 2025 (see `reward_condition`). Axes: b batch, h w latent rows and columns.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import zeros
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Num

from rewardedit_jax.models.layers import Conv, EmbeddingMLP, GroupNorm, sinusoid
from rewardedit_jax.models.reward_condition import (
    PaperAddition,
    PaperAttention,
    PaperCondition,
    ReleasedAddition,
    ReleasedAttention,
    Reward,
    RewardConditionConfig,
    infer_reward_condition,
    read_reward,
)
from rewardedit_jax.models.unet_blocks import DownBlock, MidBlock, UpBlock

PARTITION_RULES = (
    # Column-split, then row-split: one reduction over "tensor" per attention and one per feed-forward.
    (r".*/(to_q|to_k|to_v|net_0/proj)/kernel", P("fsdp", "tensor")),
    (r".*/(to_out|net_2)/kernel", P("tensor", "fsdp")),
    (r"conv_out/kernel", P(None, None, "fsdp", None)),
    (r".*/(conv1|conv2|conv_shortcut|downsamplers_0/conv|upsamplers_0/conv)/kernel", P(None, None, None, "fsdp")),
    (r"conv_in/kernel", P(None, None, None, "fsdp")),
    (r".*/(time_emb_proj|proj_in|proj_out|linear_1|linear_2)/kernel", P(None, "fsdp")),
    (r"reward_.*/kernel", P(None, "fsdp")),
    (r"(.*/)?(bias|scale|score_type|text_type)", P()),
)

_DOWN_ATTENTION = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP_ATTENTION = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
# Settings that diffusers also takes as lists: per level, or of height and width.
_ONE_FOR_ALL = ("cross_attention_dim", "layers_per_block", "norm_num_groups", "sample_size")
# Settings of diffusers' UNet2DConditionModel that change its output; they may have these values only.
_FIXED = {
    "act_fn": ("silu",),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dropout": (0, 0.0),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,),
}


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes, with the names and defaults of diffusers' config.json."""

    sample_size: int | None = None  # latent side that it was trained for
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    down_block_types: tuple[str, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    cross_attention_dim: int = 1280
    attention_head_dim: int | tuple[int, ...] = 8  # the *number* of heads, as Stable Diffusion's files have it
    num_attention_heads: int | tuple[int, ...] | None = None  # takes precedence where given
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = False  # torch keeps the transformers' projections as linear maps (SD 2.x)
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    reward: RewardConditionConfig | None = None  # None: an editor without reward modules

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name, known in (("down_block_types", _DOWN_ATTENTION), ("up_block_types", _UP_ATTENTION)):
            types = getattr(self, name)
            if len(types) != levels or not set(types) <= set(known):
                raise ValueError(f"{name} {types} is not supported: {levels} of {', '.join(known)} are needed.")
        if isinstance(self._heads, tuple) and len(self._heads) != levels:
            raise ValueError(f"{len(self._heads)} head counts do not go with {levels} levels.")
        for level, width in enumerate(self.block_out_channels):
            if width % self.heads(level):
                raise ValueError(f"{self.heads(level)} heads cannot share the {width} channels of level {level}.")

    @property
    def _heads(self) -> int | tuple[int, ...]:
        return self.attention_head_dim if self.num_attention_heads is None else self.num_attention_heads

    def heads(self, level: int) -> int:
        return self._heads[level] if isinstance(self._heads, tuple) else self._heads

    @property
    def time_width(self) -> int:
        return 4 * self.block_out_channels[0]

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], tensor_shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> "UNetConfig":
        """Of a diffusers config.json.

        Args:
          tensor_shapes: of the checkpoint. A published reward U-Net's config.json does not say that it has reward
            modules, the names of its tensors do; ours says so under "reward_condition".
        Raises:
          ValueError: naming every setting that this network does not have.
        """
        faults = [f"{k}={config[k]!r}" for k, values in _FIXED.items() if k in config and config[k] not in values]
        faults += [f"{k}={config[k]!r}" for k in _ONE_FOR_ALL if isinstance(config.get(k), list | tuple)]
        if faults:
            raise ValueError(f"this U-Net does not support {', '.join(faults)}.")
        read = {f.name for f in fields(cls)} - {"reward"}
        own = {name: _frozen(value) for name, value in config.items() if name in read}
        described = config.get("reward_condition")
        if described is not None:
            reward = RewardConditionConfig(**{name: _frozen(value) for name, value in described.items()})
        else:
            reward = infer_reward_condition(tensor_shapes or {})
        return cls(**own, reward=reward)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that diffusers reads; reward modules stand under a key of their own."""
        own = {name: value for name, value in asdict(self).items() if name != "reward"}
        # diffusers refuses the second name of the head counts.
        own |= {"attention_head_dim": self._heads, "num_attention_heads": None}
        described = {} if self.reward is None else {"reward_condition": asdict(self.reward)}
        return {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.36.0", **own, **described}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class UNet(nn.Module):
    """Predicts the noise (or velocity) in noisy latents."""

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: bool = False  # recompute each residual block and transformer on the way back, to save memory

    @nn.compact
    def __call__(
        self,
        sample: Float[Array, "b h w {self.config.in_channels}"],
        timestep: Num[Array, "*b"],
        context: Float[Array, "b l {self.config.cross_attention_dim}"],
        reward_scores: Float[Array, "b 3"] | None = None,
        reward_text: Float[Array, "b *states"] | None = None,
        reward_mask: Float[Array, " b"] | Bool[Array, " b"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b h w {self.config.out_channels}"]:
        """
        Args:
          sample: noisy latents, in an editor followed by the condition latents; sides divisible by 2^(levels - 1).
          timestep: one for all or one each; fractions count.
          context: text states for cross-attention.
          reward_scores: following, preserving, quality in 0..5.
          reward_text: states of the feedback text: pooled [b, d] (released layout), per token [b, l, d] (paper).
            Without both, a reward U-Net is the plain editor.
          reward_mask: 0 for samples that have no reward.
          deterministic: False switches the dropout of the reward modules on (rng collection "dropout").
        Returns:
          float32, whatever the compute type.
        Raises:
          ValueError: if the sides do not fit, or the reward that is given is not what this U-Net reads.
        """
        cfg = self.config
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        last = len(cfg.block_out_channels) - 1
        levels = partial(self._level, **types)
        if any(side % 2**last for side in sample.shape[1:3]):
            raise ValueError(
                f"latents of {sample.shape[1]}×{sample.shape[2]}: both sides must be divisible by {2**last}."
            )
        reward = self._read_reward(reward_scores, reward_text, reward_mask)
        paths = _RewardPaths(cfg, reward, deterministic, types)

        # Time and reward embedding
        timestep = jnp.broadcast_to(timestep, sample.shape[:1])
        angles = sinusoid(
            timestep,
            cfg.block_out_channels[0],
            flip_sin_to_cos=cfg.flip_sin_to_cos,
            downscale_freq_shift=float(cfg.freq_shift),
        )
        temb = paths.embed(EmbeddingMLP(cfg.time_width, **types, name="time_embedding")(angles))
        context = context.astype(self.dtype)

        # Input and reward encoder
        x = paths.encode(Conv(cfg.block_out_channels[0], **types, name="conv_in")(sample))

        # Down
        skips = [x]
        for i, kind in enumerate(cfg.down_block_types):
            block = levels(DownBlock, i, cfg.layers_per_block, _DOWN_ATTENTION[kind], resample=i < last)
            x, states = block(name=f"down_blocks_{i}")(x, temb, context)
            x = paths.after_block(x, f"down_{i}")
            skips += states

        # Middle
        x = levels(MidBlock, last, 1, True, resample=False)(name="mid_block")(x, temb, context)
        x = paths.after_block(x, "mid")

        # Up
        for i, kind in enumerate(cfg.up_block_types):
            layers = cfg.layers_per_block + 1
            used, skips = skips[-layers:], skips[:-layers]
            block = levels(UpBlock, last - i, layers, _UP_ATTENTION[kind], resample=i < last)
            x = block(name=f"up_blocks_{i}")(x, used, temb, context)
            x = paths.after_block(x, f"up_{i}")

        # Output
        x = nn.silu(GroupNorm(cfg.norm_num_groups, cfg.norm_eps, **types, name="conv_norm_out")(x))
        return Conv(cfg.out_channels, **types, kernel_init=zeros, name="conv_out")(x).astype(jnp.float32)

    def example_inputs(self) -> tuple[Array | None, ...]:
        """The smallest inputs that reach every parameter."""
        cfg, side = self.config, 2 ** (len(self.config.block_out_channels) - 1)
        plain = jnp.zeros((1, side, side, cfg.in_channels)), jnp.zeros(1), jnp.zeros((1, 1, cfg.cross_attention_dim))
        if cfg.reward is None:
            return plain
        states = (1, cfg.cross_attention_dim) if cfg.reward.layout == "released" else (1, 1, cfg.cross_attention_dim)
        scores = jnp.zeros((1, 3)) if "scores" in cfg.reward.sources else None
        return *plain, scores, jnp.zeros(states) if "text" in cfg.reward.sources else None

    def _level(self, block, level: int, layers: int, attends: bool, *, resample: bool, **types) -> partial:
        """A down, middle or up block of one level, but for its name."""
        cfg = self.config
        return partial(
            block,
            features=cfg.block_out_channels[level],
            layers=layers,
            heads=cfg.heads(level) if attends else None,
            groups=cfg.norm_num_groups,
            epsilon=cfg.norm_eps,
            resample=resample,
            remat=self.remat,
            **types,
        )

    def _read_reward(self, scores, text, mask) -> Reward | None:
        if self.config.reward is not None:
            return read_reward(self.config.reward, scores, text, mask)
        if any(given is not None for given in (scores, text, mask)):
            raise ValueError("this U-Net has no reward modules: it takes no reward arguments.")
        return None


class _RewardPaths:
    """Where a reward acts on the U-Net; each of the three does nothing where it does not, or without a reward.

    Used inside the U-Net's `__call__`, whose submodules it makes.
    """

    def __init__(self, config: UNetConfig, reward: Reward | None, deterministic: bool, types: dict[str, Any]):
        self.config, self.reward, self.deterministic, self.types = config, reward, deterministic, types
        self.layout = None if reward is None else config.reward.layout
        if self.layout == "paper":
            condition = PaperCondition(config.cross_attention_dim, **types, name="reward_condition")
            self.tokens, self.pooled = condition(reward)

    def embed(self, temb: Float[Array, "b e"]) -> Float[Array, "b e"]:
        if self.layout != "released" or "addition" not in self.config.reward.paths:
            return temb
        added = ReleasedAddition(self.config.reward, self.config.time_width, **self.types, name="reward_addition")
        return temb + added(self.reward)

    def encode(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.layout is None or "attention" not in self.config.reward.paths:
            return x
        condition, types = self.config.reward, {**self.types, "name": "reward_attention"}
        if self.layout == "paper":
            return PaperAttention(condition.heads, **types)(x, self.tokens, self.reward.keep)
        return ReleasedAttention(condition, self.config.norm_num_groups, **types)(x, self.reward, self.deterministic)

    def after_block(self, x: Float[Array, "b h w c"], block: str) -> Float[Array, "b h w c"]:
        if self.layout != "paper" or "addition" not in self.config.reward.paths:
            return x
        return PaperAddition(**self.types, name=f"reward_addition_{block}")(x, self.pooled, self.reward.keep)
