"""AutoencoderKL: the variational autoencoder between images and the latents that Stable Diffusion works on.

Latent diffusion, Rombach et al. 2022 (arXiv:2112.10752), section 3.1 and appendix G. Layer for layer the
network of diffusers' `AutoencoderKL`, so published weights fit. Axes: b batch, h w image or latent grid,
c channels, l latent channels.
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
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Conv, Dense, GroupNorm

_EPSILON = 1e-6  # of every normalisation here; the U-Net's is 1e-5

# Output channels of the wide layers go over `fsdp`; what is small stays whole on every device.
PARTITION_RULES = (
    (r".*/(scale|bias)", PartitionSpec()),
    (r"(quant_conv|post_quant_conv|(encoder|decoder)/conv_out)/kernel", PartitionSpec()),
    (r".*/(to_q|to_k|to_v|to_out|conv_shortcut)/kernel", PartitionSpec(None, "fsdp")),
    (r".*/(conv_in|conv1|conv2|downsample|upsample)/kernel", PartitionSpec(None, None, None, "fsdp")),
)

# What diffusers can vary and no Stable Diffusion 1.x autoencoder does.
_FIXED = {"act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None}
_BLOCK_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the network, under diffusers' names and with its defaults."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64,)  # one per level; each but the last halves the grid
    layers_per_block: int = 1  # residual blocks per level of the encoder; the decoder has one more
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    scaling_factor: float = 0.18215  # diffusion works on latents · scaling_factor; never applied here
    sample_size: int = 32  # image side that the weights were trained at
    force_upcast: bool = True  # float16 overflows in this network; bfloat16 does not

    @property
    def spatial_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "AutoencoderConfig":
        """The config in a diffusers `config.json`.

        Raises:
          ValueError: naming the setting, if it asks for a network that this is not.
        """
        settings = {name: value for name, value in config.items() if not name.startswith("_")}
        for name, only in _FIXED.items():
            if settings.pop(name, only) != only:
                raise ValueError(f"AutoencoderKL: {name}={config[name]!r} is not supported, only {only!r}")
        levels = len(settings.get("block_out_channels", cls.block_out_channels))
        for name, only in _BLOCK_TYPES.items():
            if (given := list(settings.pop(name, [only]))) != [only] * levels:
                raise ValueError(f"AutoencoderKL: {name}={given} is not supported, only {levels} × {only}")
        if unknown := settings.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"AutoencoderKL: unknown settings {sorted(unknown)}")
        if "block_out_channels" in settings:
            settings["block_out_channels"] = tuple(settings["block_out_channels"])
        return cls(**settings)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that diffusers builds the same network from."""
        levels = len(self.block_out_channels)
        types = {name: [only] * levels for name, only in _BLOCK_TYPES.items()}
        sizes = asdict(self) | {"block_out_channels": list(self.block_out_channels)}
        return {"_class_name": "AutoencoderKL", **sizes, **types, **_FIXED}


@flax.struct.dataclass
class Posterior:
    """q(latents | image): independent normals, before multiplication by the scaling factor.

    Leaves are `Any` because they are shapes, not arrays, under `jax.eval_shape`.
    """

    mean: Any  # float32[b h w l]
    log_var: Any  # float32[b h w l], natural logarithm, within [-30, 20]

    @property
    def mode(self) -> Float[Array, "b h w l"]:
        return self.mean

    def sample(self, rng: PRNGKeyArray) -> Float[Array, "b h w l"]:
        noise = jax.random.normal(rng, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_var / 2) * noise


class ResnetBlock(nn.Module):
    """x + two times (group norm, SiLU, 3×3 convolution); a 1×1 convolution of x where the width changes."""

    features: int
    groups: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        types = _types(self)
        y = x
        for i in (1, 2):
            y = nn.silu(GroupNorm(self.groups, _EPSILON, name=f"norm{i}", **types)(y))
            y = Conv(self.features, name=f"conv{i}", **types)(y)
        if x.shape[-1] != self.features:
            x = Dense(self.features, name="conv_shortcut", **types)(x)
        return x + y


class AttentionBlock(nn.Module):
    """x + single-head self-attention over all places."""

    groups: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        dense = partial(Dense, c, **_types(self))
        y = GroupNorm(self.groups, _EPSILON, name="group_norm", **_types(self))(x).reshape(b, h * w, 1, c)
        y = attention(dense(name="to_q")(y), dense(name="to_k")(y), dense(name="to_v")(y))
        return x + dense(name="to_out")(y).reshape(b, h, w, c)


class MidBlock(nn.Module):
    """Residual block, attention, residual block, at the coarsest level."""

    add_attention: bool
    groups: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shared = {"groups": self.groups, **_types(self)}
        x = ResnetBlock(x.shape[-1], name="resnets_0", **shared)(x)
        if self.add_attention:
            x = AttentionBlock(name="attentions_0", **shared)(x)
        return ResnetBlock(x.shape[-1], name="resnets_1", **shared)(x)


class DownBlock(nn.Module):
    """One level of the encoder: residual blocks, then half the size unless it is the last level."""

    features: int
    layers: int
    downsample: bool
    groups: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        for i in range(self.layers):
            x = ResnetBlock(self.features, self.groups, name=f"resnets_{i}", **_types(self))(x)
        if self.downsample:
            # Padded after the last row and column only, as the published weights were trained.
            conv = partial(Conv, self.features, stride=2, padding=((0, 1), (0, 1)))
            x = conv(name="downsample", **_types(self))(x)
        return x


class UpBlock(nn.Module):
    """One level of the decoder: residual blocks, then twice the size unless it is the last level."""

    features: int
    layers: int
    upsample: bool
    groups: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        for i in range(self.layers):
            x = ResnetBlock(self.features, self.groups, name=f"resnets_{i}", **_types(self))(x)
        if self.upsample:
            nearest = x.repeat(2, axis=1).repeat(2, axis=2)
            x = Conv(self.features, name="upsample", **_types(self))(nearest)
        return x


class Encoder(nn.Module):
    """Image → mean and log variance of the latents, side by side on the channel axis."""

    config: AutoencoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 l2"]:
        config, types = self.config, _types(self)
        shared = {"groups": config.norm_num_groups, **types}
        widths, last = config.block_out_channels, len(config.block_out_channels) - 1
        x = Conv(widths[0], name="conv_in", **types)(x)
        for i, width in enumerate(widths):
            x = DownBlock(width, config.layers_per_block, i < last, name=f"down_blocks_{i}", **shared)(x)
        x = MidBlock(config.mid_block_add_attention, name="mid_block", **shared)(x)
        x = nn.silu(GroupNorm(epsilon=_EPSILON, name="conv_norm_out", **shared)(x))
        return Conv(2 * config.latent_channels, name="conv_out", **types)(x)


class Decoder(nn.Module):
    """Latents → image."""

    config: AutoencoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w l"]) -> Float[Array, "b h2 w2 o"]:
        config, types = self.config, _types(self)
        shared = {"groups": config.norm_num_groups, **types}
        widths, last = config.block_out_channels[::-1], len(config.block_out_channels) - 1
        x = Conv(widths[0], name="conv_in", **types)(x)
        x = MidBlock(config.mid_block_add_attention, name="mid_block", **shared)(x)
        for i, width in enumerate(widths):
            x = UpBlock(width, config.layers_per_block + 1, i < last, name=f"up_blocks_{i}", **shared)(x)
        x = nn.silu(GroupNorm(epsilon=_EPSILON, name="conv_norm_out", **shared)(x))
        return Conv(config.out_channels, name="conv_out", **types)(x)


class AutoencoderKL(nn.Module):
    """The autoencoder; `encode` and `decode` are reached by `module.apply(variables, x, method="encode")`."""

    config: AutoencoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        config, types = self.config, _types(self)
        self.encoder = Encoder(config, **types)
        self.decoder = Decoder(config, **types)
        if config.use_quant_conv:
            self.quant_conv = Dense(2 * config.latent_channels, **types)
        if config.use_post_quant_conv:
            self.post_quant_conv = Dense(config.latent_channels, **types)

    def example_inputs(self) -> tuple[Float[Array, "1 h w c"]]:
        """The smallest arguments of `__call__`, for initialisation and for shapes."""
        side = self.config.spatial_factor
        return (jnp.zeros((1, side, side, self.config.in_channels)),)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        """The reconstruction from the mode: what initialisation runs through."""
        return self.decode(self.encode(images).mode)

    def encode(self, images: Float[Array, "b h w c"]) -> Posterior:
        """Posterior of images in [-1, 1], on a grid `spatial_factor` times coarser; in float32.

        Raises:
          ValueError: if height or width is no multiple of the spatial factor.
        """
        factor = self.config.spatial_factor
        if any(side % factor for side in images.shape[1:3]):
            raise ValueError(f"image sides {images.shape[1:3]} must be multiples of {factor}")
        moments = self.encoder(images)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_var = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return Posterior(mean, log_var.clip(-30.0, 20.0))

    def decode(self, latents: Float[Array, "b h w l"]) -> Float[Array, "b h2 w2 o"]:
        """Images in about [-1, 1], not clamped, of latents as `encode` gives them: without scaling factor."""
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)


def _types(module: nn.Module) -> dict[str, DTypeLike]:
    """The types that a module hands on to its parts."""
    return {"dtype": module.dtype, "param_dtype": module.param_dtype}
