"""The Stable Diffusion U-Net (1.x and 2.x), with or without reward modules.

Rombach et al., "Latent Diffusion Models" (2022). In InstructPix2Pix (Brooks et al., 2023) its input is the noisy
latents concatenated with the condition latents. With reward modules (`reward_condition`) it is the noise predictor of
Multi-Reward as Condition (arXiv:2411.04713), eq. 4. Axes: b batch, h w latent rows and columns, e time-embedding width.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import zeros
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Num

from rewardedit_jax.models.layers import Conv3x3, EmbeddingMLP, GroupNorm, TypedModule, sinusoid
from rewardedit_jax.models.remat import Remat
from rewardedit_jax.models.reward_condition import (
    RewardConditionConfig,
    RewardModules,
    encode_reward,
    infer_reward_condition,
)
from rewardedit_jax.models.reward_paper import PaperReward
from rewardedit_jax.models.reward_released import ReleasedReward
from rewardedit_jax.models.unet_blocks import DownBlock, MidBlock, UpBlock

PARTITION_RULES = (
    # Columns of the first, rows of the second kernel over "tensor": one reduction per attention and per feed-forward.
    (r".*/(to_q|to_k|to_v|net_0/proj)/kernel", P("fsdp", "tensor")),
    (r".*/(to_out|net_2)/kernel", P("tensor", "fsdp")),
    # Convolutions divide their output channels; conv_out has only 4, and divides its input channels.
    (r"conv_out/kernel", P(None, None, "fsdp", None)),
    (r".*/(conv1|conv2|conv_shortcut|downsamplers_0/conv|upsamplers_0/conv)/kernel", P(None, None, None, "fsdp")),
    (r"conv_in/kernel", P(None, None, None, "fsdp")),
    (r".*/(time_emb_proj|proj_in|proj_out|linear_1|linear_2)/kernel", P(None, "fsdp")),
    (r"reward_.*/kernel", P(None, "fsdp")),
    (r"(.*/)?(bias|scale|score_type|text_type)", P()),
)

_DOWN_ATTENTION = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP_ATTENTION = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
# Settings for which diffusers also accepts lists (per level, or height and width); this network has one value.
SINGLE_VALUED = ("cross_attention_dim", "layers_per_block", "norm_num_groups", "sample_size")
# Settings of diffusers' UNet2DConditionModel that change its output, with the values that this network has.
_FIXED = {
    "act_fn": ("silu",),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "time_embedding_type": ("positional",),
    "mid_block_only_cross_attention": (None, False),
    "dropout": (0,),
    **dict.fromkeys(("attention_type", "resnet_time_scale_shift"), ("default",)),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), (3,)),
    **dict.fromkeys(("mid_block_scale_factor", "resnet_out_scale_factor"), (1,)),
    **dict.fromkeys(("downsample_padding", "transformer_layers_per_block"), (1,)),
    **dict.fromkeys(("center_input_sample", "resnet_skip_time_act"), (False,)),
    **dict.fromkeys(("dual_cross_attention", "only_cross_attention"), (False,)),
    # Class labels, and the further embeddings that SDXL and other pipelines add
    **dict.fromkeys(("addition_embed_type", "class_embed_type", "cross_attention_norm", "encoder_hid_dim"), (None,)),
    **dict.fromkeys(("encoder_hid_dim_type", "num_class_embeds", "projection_class_embeddings_input_dim"), (None,)),
    **dict.fromkeys(("time_cond_proj_dim", "time_embedding_act_fn", "time_embedding_dim"), (None,)),
    "timestep_post_act": (None,),
}


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of the U-Net, under diffusers' names and with its defaults."""

    sample_size: int | None = None  # height and width of the latents in training
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    down_block_types: tuple[str, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    cross_attention_dim: int = 1280
    attention_head_dim: int | tuple[int, ...] = 8  # the *number* of heads, despite its name in diffusers
    num_attention_heads: int | tuple[int, ...] | None = None  # takes precedence
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = False  # tensors of proj_in and proj_out are linear, not 1×1 convolutions (SD 2.x)
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    reward: RewardConditionConfig | None = None  # None: no reward modules

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name, known in (("down_block_types", _DOWN_ATTENTION), ("up_block_types", _UP_ATTENTION)):
            types = getattr(self, name)
            if len(types) != levels or not set(types) <= set(known):
                raise ValueError(f"{name}={types}: expected {levels} of {', '.join(known)}, one per level")
        if isinstance(self._heads, tuple) and len(self._heads) != levels:
            raise ValueError(f"attention_head_dim={self._heads}: expected one number, or {levels}, one per level")
        for level, width in enumerate(self.block_out_channels):
            if width % self.heads(level):
                raise ValueError(
                    f"{self.heads(level)} attention heads do not divide the {width} channels of level {level}"
                )

    @property
    def _heads(self) -> int | tuple[int, ...]:
        return self.attention_head_dim if self.num_attention_heads is None else self.num_attention_heads

    def heads(self, level: int) -> int:
        """The number of attention heads at a level; level 0 has the finest feature maps."""
        return self._heads[level] if isinstance(self._heads, tuple) else self._heads

    @property
    def time_width(self) -> int:
        return 4 * self.block_out_channels[0]

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], tensor_shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> "UNetConfig":
        """The config in a diffusers config.json. Raises ValueError naming every unsupported setting.

        Args:
          tensor_shapes: of the checkpoint's tensors, by name.
        """
        config = {k: _single_value(v) if k in (*SINGLE_VALUED, *_FIXED) else v for k, v in config.items()}
        faults = [f"{k}={config[k]!r}" for k, values in _FIXED.items() if k in config and config[k] not in values]
        faults += [f"{k}={config[k]!r}" for k in SINGLE_VALUED if isinstance(config.get(k), list | tuple)]
        if faults:
            raise ValueError(f"this U-Net does not support {', '.join(faults)}")
        read = {f.name for f in fields(cls)} - {"reward"}
        own = {name: _hashable(value) for name, value in config.items() if name in read}
        # Our files describe the reward modules. Published files do not, but the tensors' names and shapes do.
        if (described := config.get("reward_condition")) is None:
            return cls(**own, reward=infer_reward_condition(tensor_shapes or {}))
        if unknown := described.keys() - {f.name for f in fields(RewardConditionConfig)}:
            raise ValueError(f"reward_condition: settings {sorted(unknown)} are unknown")
        reward = RewardConditionConfig(**{name: _hashable(value) for name, value in described.items()})
        return cls(**own, reward=reward)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that diffusers reads, with the reward modules under "reward_condition"."""
        own = {name: value for name, value in asdict(self).items() if name != "reward"}
        # diffusers accepts head counts under the first name only.
        own |= {"attention_head_dim": self._heads, "num_attention_heads": None}
        described = {} if self.reward is None else {"reward_condition": asdict(self.reward)}
        return {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.36.0", **own, **described}


def _single_value(value: Any) -> Any:
    """The value that all elements of a list have; any other value, and a list of different ones, as it is."""
    equal = isinstance(value, list | tuple) and len(value) > 0 and all(element == value[0] for element in value)
    return value[0] if equal else value


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class UNet(TypedModule):
    """Predicts the noise (or velocity) in noisy latents.

    `remat`: what of residual blocks and transformers the backward pass computes again, to save memory.
    """

    config: UNetConfig
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        sample: Float[Array, "b h w {self.config.in_channels}"],
        timestep: Num[Array, "*b"],
        context: Float[Array, "b l {self.config.cross_attention_dim}"],
        reward_scores: Float[Array, "b 3"] | None = None,
        reward_text: Float[Array, "b *states"] | None = None,
        reward_keep: Float[Array, " b"] | Bool[Array, " b"] | None = None,
        residual: Float[Array, "b h w {self.config.block_out_channels[0]}"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b h w {self.config.out_channels}"]:
        """The prediction, in float32 for any compute type.

        Args:
          sample: noisy latents, in an editor concatenated with the condition latents; height and width are divisible
            by 2^(levels - 1).
          timestep: one for all samples or one each; may be fractional.
          context: text states for cross-attention.
          reward_scores: following, preserving and quality in 0..5.
          reward_text: states of the feedback text: pooled [b, d] (released layout) or per token [b, l, d] (paper). With
            neither scores nor text, a reward U-Net is the base editor.
          reward_keep: 1 where a sample has a reward, 0 where not; None: 1 everywhere.
          residual: is added to the output of `conv_in`, before the reward encoder (the v' of SmartEdit).
          deterministic: False applies the dropout of the reward modules (rng "dropout").

        Raises ValueError for sizes that do not fit, or reward arguments that this U-Net does not read.
        """
        cfg, last = self.config, len(self.config.block_out_channels) - 1
        if any(side % 2**last for side in sample.shape[1:3]):
            raise ValueError(f"sample of {sample.shape[1]}×{sample.shape[2]}: expected sides divisible by {2**last}")
        reward = encode_reward(cfg.reward, reward_scores, reward_text, reward_keep)
        modules = RewardModules() if reward is None else self._reward_modules()
        condition = modules.condition(reward)

        # Time embedding and context
        temb = modules.embed(self._time_embedding(timestep, sample.shape[0]), condition)
        context = context.astype(self.dtype)

        # Input: z' = conv_in([z_t, c_I]) + residual, then the reward encoder (Multi-Reward paper, eq. 2)
        x = modules.encode(self._conv_in(sample, residual), condition, deterministic)

        # Down
        skips = [x]
        for i, kind in enumerate(cfg.down_block_types):
            block = self._level(DownBlock, i, cfg.layers_per_block, _DOWN_ATTENTION[kind], resample=i < last)
            x, states = block(name=f"down_blocks_{i}")(x, temb, context)
            skips += states
            x = modules.after_block(x, f"down_{i}", condition)

        # Middle
        x = self._level(MidBlock, last, 1, True, resample=False)(name="mid_block")(x, temb, context)
        x = modules.after_block(x, "mid", condition)

        # Up: each residual block takes the latest unused skip
        for i, kind in enumerate(cfg.up_block_types):
            layers = cfg.layers_per_block + 1
            used, skips = skips[-layers:], skips[:-layers]
            block = self._level(UpBlock, last - i, layers, _UP_ATTENTION[kind], resample=i < last)
            x = block(name=f"up_blocks_{i}")(x, used, temb, context)
            x = modules.after_block(x, f"up_{i}", condition)

        # Output
        x = GroupNorm(cfg.norm_num_groups, epsilon=cfg.norm_eps, **self.types, name="conv_norm_out")(x)
        # Zero at the start of training from scratch: the first prediction is 0, whose loss is the target's variance.
        conv_out = Conv3x3(cfg.out_channels, kernel_init=zeros, **self.types, name="conv_out")
        return conv_out(nn.silu(x)).astype(jnp.float32)

    def example_inputs(self) -> tuple[Array | None, ...]:
        cfg, side = self.config, 2 ** (len(self.config.block_out_channels) - 1)
        plain = jnp.zeros((1, side, side, cfg.in_channels)), jnp.zeros(1), jnp.zeros((1, 1, cfg.cross_attention_dim))
        if cfg.reward is None:
            return plain
        states = (1, cfg.cross_attention_dim) if cfg.reward.layout == "released" else (1, 1, cfg.cross_attention_dim)
        scores = jnp.zeros((1, 3)) if "scores" in cfg.reward.sources else None
        return *plain, scores, jnp.zeros(states) if "text" in cfg.reward.sources else None

    def _time_embedding(self, timestep: Num[Array, "*b"], batch: int) -> Float[Array, "b e"]:
        cfg, times = self.config, jnp.broadcast_to(timestep, (batch,))
        settings = {"flip_sin_to_cos": cfg.flip_sin_to_cos, "downscale_freq_shift": float(cfg.freq_shift)}
        angles = sinusoid(times, cfg.block_out_channels[0], **settings)
        return EmbeddingMLP(cfg.time_width, **self.types, name="time_embedding")(angles)

    def _conv_in(self, sample: Array, residual: Array | None) -> Float[Array, "b h w c"]:
        x = Conv3x3(self.config.block_out_channels[0], **self.types, name="conv_in")(sample)
        if residual is None:
            return x
        if residual.shape != x.shape:  # addition would broadcast, over the batch for example
            raise ValueError(f"residual of shape {residual.shape}: expected {x.shape}, as of conv_in's output")
        return x + residual.astype(self.dtype)

    def _level(self, block, level: int, layers: int, attends: bool, *, resample: bool) -> partial:
        """A down, mid or up block of one level, except its name."""
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
            **self.types,
        )

    def _reward_modules(self) -> ReleasedReward | PaperReward:
        cfg = self.config
        if cfg.reward.layout == "released":
            modules = ReleasedReward(cfg.reward, cfg.time_width, cfg.norm_num_groups, **self.types)
        else:
            levels = range(len(cfg.block_out_channels))
            blocks = (*(f"down_{i}" for i in levels), "mid", *(f"up_{i}" for i in levels))
            modules = PaperReward(cfg.reward, cfg.cross_attention_dim, blocks, **self.types)
        nn.share_scope(self, modules)  # parameter paths start at the U-Net, as tensor names of checkpoints do
        return modules
