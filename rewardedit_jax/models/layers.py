"""Layers that every network here shares: matrix products that accumulate in float32, and normalisations.

Parameters are float32 unless `param_dtype` says otherwise; `dtype` is the type that products are computed in.
Half-precision products accumulate in float32 and come back in `dtype`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer, lecun_normal, ones, variance_scaling, zeros
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

# What torch.nn.Linear and torch.nn.Conv2d start from: uniform in ±1/sqrt(fan_in).
torch_default = variance_scaling(1 / 3, "fan_in", "uniform")


class Part(nn.Module):
    """A part of a network: it hands its config and types on to the parts and layers that it makes."""

    config: Any
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def part(self, module: type["Part"], name: str, **settings: Any) -> "Part":
        return module(self.config, dtype=self.dtype, param_dtype=self.param_dtype, name=name, **settings)

    def dense(self, features: int, name: str, use_bias: bool = True) -> "Dense":
        return Dense(features, use_bias, dtype=self.dtype, param_dtype=self.param_dtype, name=name)


def with_their_batch(x: Float[Array, "b *rest"]) -> Float[Array, "b *rest"]:
    """x, each row on the devices that hold its part of the batch; where no mesh is set (`jax.set_mesh`), as it is.

    To be said of what was looked up in a table whose width is spread: XLA would leave x spread as the table is, and
    would then move every activation in every layer.
    """
    axes = tuple(axis for axis in ("data", "fsdp") if axis in jax.sharding.get_abstract_mesh().axis_names)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


class Dense(nn.Module):
    """`x @ kernel + bias` over the last axis, accumulated in float32. kernel: [in, features]."""

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        # Of more than two axes, XLA on a CPU gets the kernel's gradient from transposed copies, at 2.5 times the cost.
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        y = jnp.matmul(rows, kernel.astype(self.dtype), preferred_element_type=jnp.float32)
        y = y.reshape(*x.shape[:-1], self.features)
        if self.use_bias:
            y = y + self.param("bias", zeros, (self.features,), self.param_dtype)
        return y.astype(self.dtype)


class Conv(nn.Module):
    """2-D convolution over NHWC with an odd square kernel (or 1×1), padded to keep size / stride. kernel: HWIO."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        k = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (k, k, x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", zeros, (self.features,), self.param_dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=self.padding or ((k // 2, k // 2),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)


class GroupNorm(nn.Module):
    """Group normalisation over all axes but the first, in float32 whatever the compute type."""

    groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        norm = nn.GroupNorm(
            self.groups,
            epsilon=self.epsilon,
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            use_fast_variance=False,  # E[x²] - E[x]² loses digits where the mean is large
            name="norm",
        )
        nn.share_scope(self, norm)
        return norm(x).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, in float32 whatever the compute type."""

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        norm = nn.LayerNorm(
            epsilon=self.epsilon,
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            use_fast_variance=False,
            name="norm",
        )
        nn.share_scope(self, norm)
        return norm(x).astype(self.dtype)


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, in float32 whatever the compute type."""

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        scale = self.param("scale", ones, (x.shape[-1],), self.param_dtype)
        x = x.astype(jnp.float32)
        normal = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + self.epsilon)
        return normal.astype(self.dtype) * scale.astype(self.dtype)


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, Linear: what embeds the sinusoids of timesteps and scores."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b {self.features}"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = nn.silu(Dense(self.features, **types, kernel_init=torch_default, name="linear_1")(x))
        return Dense(self.features, **types, kernel_init=torch_default, name="linear_2")(hidden)


def sinusoid(
    x: Num[Array, "*batch"],
    channels: int,
    *,
    flip_sin_to_cos: bool = True,
    downscale_freq_shift: float = 0.0,
) -> Float[Array, "*batch {channels}"]:
    """Sine/cosine encoding of a number, as diffusion models encode the timestep: `[cos, sin]` of geometric frequencies.

    Fractional values are kept. `flip_sin_to_cos=False` gives `[sin, cos]`. `channels` must be even.
    """
    half = channels // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / (half - downscale_freq_shift))
    angles = jnp.asarray(x, jnp.float32)[..., None] * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([cos, sin] if flip_sin_to_cos else [sin, cos], axis=-1)
