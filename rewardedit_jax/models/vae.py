"""AutoencoderKL: the variational autoencoder between images and the latents that Stable Diffusion works on.

Rombach et al., "Latent Diffusion Models" (2022, arXiv:2112.10752), section 3.1 and appendix G. The layers are those of
diffusers' `AutoencoderKL`, so that its weights load: of Stable Diffusion (4 latent channels) and, without quant
convolutions, of FLUX (16). Axes: b batch, h w image or latent grid, c channels, l latent channels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Conv, Conv3x3, Dense, GroupNorm, TypedModule, shard_batch_axis

_EPSILON = 1e-6  # of every normalisation here; the U-Net's residual blocks have 1e-5

# Wide layers divide their output channels over `fsdp`; small parameters are replicated.
PARTITION_RULES = (
    (r".*/(scale|bias)", PartitionSpec()),
    (r"(quant_conv|post_quant_conv|(encoder|decoder)/conv_out)/kernel", PartitionSpec()),
    (r".*/(to_q|to_k|to_v|to_out|conv_shortcut)/kernel", PartitionSpec(None, "fsdp")),
    (r".*/(conv_in|conv1|conv2|downsample|upsample)/kernel", PartitionSpec(None, None, None, "fsdp")),
)

# Settings of diffusers' AutoencoderKL that this network has with these values only.
_FIXED = {"act_fn": "silu", "latents_mean": None, "latents_std": None}
_BLOCK_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the network, under diffusers' names and with its defaults.

    Diffusion works on latents (latents - shift_factor) · scaling_factor. The network never applies either:
    `scale_latents` and `unscale_latents` do.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64,)  # one per level; each except the last halves the grid
    layers_per_block: int = 1  # residual blocks per encoder level; decoder levels have one more
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None  # None: no shift
    sample_size: int = 32  # height and width of the images in training
    force_upcast: bool = True  # float16 overflows in this network; bfloat16 does not

    @property
    def spatial_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def scale_latents(self, latents: Float[Array, "b h w l"]) -> Float[Array, "b h w l"]:
        """The latents that diffusion works on, of latents as `AutoencoderKL.encode` gives them."""
        return (latents if self.shift_factor is None else latents - self.shift_factor) * self.scaling_factor

    def unscale_latents(self, latents: Float[Array, "b h w l"]) -> Float[Array, "b h w l"]:
        """The inverse of `scale_latents`: latents as `AutoencoderKL.decode` takes them."""
        latents = latents / self.scaling_factor
        return latents if self.shift_factor is None else latents + self.shift_factor

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "AutoencoderConfig":
        """The config in a diffusers `config.json`. Raises ValueError naming an unsupported setting."""
        settings = {name: value for name, value in config.items() if not name.startswith("_")}
        for name, only in _FIXED.items():
            if settings.pop(name, only) != only:
                raise ValueError(f"AutoencoderKL: {name}={config[name]!r}: expected {only!r}")
        levels = len(settings.get("block_out_channels", cls.block_out_channels))
        for name, only in _BLOCK_TYPES.items():
            if (given := list(settings.pop(name, [only]))) != [only] * levels:
                raise ValueError(f"AutoencoderKL: {name}={given}: expected {levels} × {only!r}")
        if unknown := settings.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"AutoencoderKL: settings {sorted(unknown)} are unknown")
        if isinstance(sides := settings.get("sample_size"), list):  # height and width
            if len(set(sides)) != 1:
                raise ValueError(f"AutoencoderKL: sample_size={sides}: expected equal sides")
            settings["sample_size"] = sides[0]
        if "block_out_channels" in settings:
            settings["block_out_channels"] = tuple(settings["block_out_channels"])
        return cls(**settings)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that diffusers reads."""
        levels = len(self.block_out_channels)
        types = {name: [only] * levels for name, only in _BLOCK_TYPES.items()}
        sizes = asdict(self) | {"block_out_channels": list(self.block_out_channels)}
        return {"_class_name": "AutoencoderKL", **sizes, **types, **_FIXED}


@flax.struct.dataclass
class Posterior:
    """q(latents | image): independent normals, without scaling and shift."""

    # `Any`, as `jax.eval_shape` fills leaves with shapes.
    mean: Any  # float32[b h w l]
    log_var: Any  # float32[b h w l], natural logarithm, within [-30, 20]

    @property
    def mode(self) -> Float[Array, "b h w l"]:
        return self.mean

    def sample(self, rng: PRNGKeyArray) -> Float[Array, "b h w l"]:
        noise = jax.random.normal(rng, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_var / 2) * noise


class ResnetBlock(TypedModule):
    """A shortcut plus two times group norm, SiLU and 3×3 convolution."""

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        y = x
        for i in (1, 2):
            y = nn.silu(GroupNorm(self.groups, epsilon=_EPSILON, name=f"norm{i}", **self.types)(y))
            y = Conv3x3(self.features, name=f"conv{i}", **self.types)(y)
        if x.shape[-1] != self.features:
            # Dense over the channel axis is a 1×1 convolution.
            x = Dense(self.features, name="conv_shortcut", **self.types)(x)
        return x + y


class AttentionBlock(TypedModule):
    """A shortcut plus single-head self-attention over all pixels."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        dense = partial(Dense, c, **self.types)
        y = GroupNorm(self.groups, epsilon=_EPSILON, name="group_norm", **self.types)(x)
        y = y.reshape(b, h * w, 1, c)  # one head
        y = attention(dense(name="to_q")(y), dense(name="to_k")(y), dense(name="to_v")(y))
        return x + dense(name="to_out")(y).reshape(b, h, w, c)


class MidBlock(TypedModule):
    """Residual block, attention and residual block at the coarsest level."""

    add_attention: bool
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shared = {"groups": self.groups, **self.types}
        x = ResnetBlock(x.shape[-1], name="resnets_0", **shared)(x)
        if self.add_attention:
            x = AttentionBlock(name="attentions_0", **shared)(x)
        return ResnetBlock(x.shape[-1], name="resnets_1", **shared)(x)


class DownBlock(TypedModule):
    """One level of the encoder: residual blocks, then (`downsample`) half the height and width."""

    features: int
    layers: int
    downsample: bool
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        for i in range(self.layers):
            x = ResnetBlock(self.features, self.groups, name=f"resnets_{i}", **self.types)(x)
        if self.downsample:
            # Padding behind the last row and column only, as in diffusers' Downsample2D with padding=0.
            padding = ((0, 1), (0, 1))
            x = Conv(self.features, (3, 3), 2, padding, name="downsample", **self.types)(x)
        return x


class UpBlock(TypedModule):
    """One level of the decoder: residual blocks, then (`upsample`) twice the height and width."""

    features: int
    layers: int
    upsample: bool
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        for i in range(self.layers):
            x = ResnetBlock(self.features, self.groups, name=f"resnets_{i}", **self.types)(x)
        if self.upsample:
            nearest = shard_batch_axis(x.repeat(2, axis=1).repeat(2, axis=2))
            x = Conv3x3(self.features, name="upsample", **self.types)(nearest)
        return x


class Encoder(TypedModule):
    """Image → mean and log variance of the latents, concatenated over channels."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 l2"]:
        config = self.config
        shared = {"groups": config.norm_num_groups, **self.types}
        widths, last = config.block_out_channels, len(config.block_out_channels) - 1
        x = Conv3x3(widths[0], name="conv_in", **self.types)(x)
        for i, width in enumerate(widths):
            x = DownBlock(width, config.layers_per_block, i < last, name=f"down_blocks_{i}", **shared)(x)
        x = MidBlock(config.mid_block_add_attention, name="mid_block", **shared)(x)
        x = nn.silu(GroupNorm(config.norm_num_groups, epsilon=_EPSILON, name="conv_norm_out", **self.types)(x))
        return Conv3x3(2 * config.latent_channels, name="conv_out", **self.types)(x)


class Decoder(TypedModule):
    """Latents → image."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w l"]) -> Float[Array, "b h2 w2 o"]:
        config = self.config
        shared = {"groups": config.norm_num_groups, **self.types}
        widths, last = config.block_out_channels[::-1], len(config.block_out_channels) - 1
        x = Conv3x3(widths[0], name="conv_in", **self.types)(x)
        x = MidBlock(config.mid_block_add_attention, name="mid_block", **shared)(x)
        for i, width in enumerate(widths):
            x = UpBlock(width, config.layers_per_block + 1, i < last, name=f"up_blocks_{i}", **shared)(x)
        x = nn.silu(GroupNorm(config.norm_num_groups, epsilon=_EPSILON, name="conv_norm_out", **self.types)(x))
        return Conv3x3(config.out_channels, name="conv_out", **self.types)(x)


class AutoencoderKL(TypedModule):
    """The autoencoder. Call `module.apply(variables, x, method="encode")`, or `method="decode"`."""

    config: AutoencoderConfig

    def setup(self):
        config = self.config
        self.encoder = Encoder(config, **self.types)
        self.decoder = Decoder(config, **self.types)
        if config.use_quant_conv:  # a 1×1 convolution
            self.quant_conv = Dense(2 * config.latent_channels, **self.types)
        if config.use_post_quant_conv:
            self.post_quant_conv = Dense(config.latent_channels, **self.types)

    def example_inputs(self) -> tuple[Float[Array, "1 h w c"]]:
        side = self.config.spatial_factor
        return (jnp.zeros((1, side, side, self.config.in_channels)),)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        """Reconstructions from the mode of the posterior. Initialisation calls this, as it reaches every parameter."""
        return self.decode(self.encode(images).mode)

    def encode(self, images: Float[Array, "b h w c"]) -> Posterior:
        """The posterior, in float32, of images in [-1, 1], whose height and width are multiples of `spatial_factor`."""
        factor = self.config.spatial_factor
        if any(side % factor for side in images.shape[1:3]):
            raise ValueError(f"images of {images.shape[1:3]} pixels: expected multiples of {factor}")
        moments = self.encoder(images)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_var = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        # exp(log_var / 2) must neither overflow nor vanish; diffusers clips to the same range.
        return Posterior(mean, log_var.clip(-30.0, 20.0))

    def decode(self, latents: Float[Array, "b h w l"]) -> Float[Array, "b h2 w2 o"]:
        """Images in about [-1, 1], not clipped, of latents as `encode` gives them, without scaling and shift."""
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)
