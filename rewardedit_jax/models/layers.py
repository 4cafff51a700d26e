"""Layers that every network shares: dense layer, normalisations, sinusoidal and rotary embedding.

Three settings are handed from module to module. `dtype` is the type that products are computed in, `param_dtype` the
type that parameters are stored in; both are float32 by default. `lora` names dense layers with low-rank differences.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import Initializer, lecun_normal, ones, variance_scaling, zeros
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Num

from rewardedit_jax.models.lora import LoRA
from rewardedit_jax.models.remat import named_product
from rewardedit_jax.sharding import batch_axes_in_scope, parameters_are_whole

# The default of torch.nn.Linear and torch.nn.Conv2d: uniform in ±1/sqrt(fan_in).
torch_default = variance_scaling(1 / 3, "fan_in", "uniform")


def _without_lora(layer: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """One of Flax's own layers, made from `**types` as ours are: it has the two types, and no LoRA."""
    return lambda *args, lora=None, **settings: layer(*args, **settings)


def _convolution(x: Array, kernel: Array, *settings: Any, **named: Any) -> Array:
    return jax.lax.conv_general_dilated(x, _with_row_major_gradient(kernel), *settings, **named)


@jax.custom_vjp
def _with_row_major_gradient(kernel: Array) -> Array:
    """`kernel`, whose gradient has its layout in memory on a GPU.

    cuDNN gives gradients in another one, and XLA carries that on into the optimizer: parameter, moments and average are
    then transposed in every step, in float32, in place of one gradient in the compute type.
    """
    return kernel


def _row_major(_: None, gradient: Array) -> tuple[Array]:
    # JAX 0.10 gathers a gradient that is divided over devices before it sets the layout.
    if jax.default_backend() == "gpu" and parameters_are_whole():
        gradient = with_layout_constraint(gradient, Layout(range(gradient.ndim)))
    return (gradient,)


_with_row_major_gradient.defvjp(lambda kernel: (kernel, None), _row_major)

Conv = _without_lora(partial(nn.Conv, conv_general_dilated=_convolution))
Embed = _without_lora(nn.Embed)
# Flax computes statistics in float32 for inputs of any type. Its default, the fast variance E[x²] - E[x]², loses
# digits where the mean is large compared to the deviation.
GroupNorm = _without_lora(partial(nn.GroupNorm, use_fast_variance=False))
LayerNorm = _without_lora(partial(nn.LayerNorm, use_fast_variance=False))
# A 3×3 convolution that keeps the size. "SAME" would pad strided convolutions differently from PyTorch.
Conv3x3 = partial(Conv, kernel_size=(3, 3), padding=1)


class TypedModule(nn.Module, kw_only=True):
    """A module with a compute type, a parameter type and LoRA, which it passes to its submodules as `**self.types`.

    A whole network also has `example_inputs()`: the smallest inputs that reach every parameter.
    """

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    lora: LoRA | None = None

    @property
    def types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype, "lora": self.lora}


class Dense(TypedModule):
    """`x @ kernel + bias` over the last axis. kernel: [in, features].

    Unlike `flax.linen.Dense`, half-precision products are accumulated in float32 and rounded once, after the bias.
    Where `lora` targets the layer, its low-rank difference is added before that.
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer = lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        # One matrix of rows: for more axes, XLA on CPUs transposes copies for the kernel's gradient (2.5 times slower).
        rows = x.reshape(-1, x.shape[-1])
        y = self._product(rows, kernel)
        if self.lora is not None and self.lora.applies("/".join(self.path)):
            y = y + self._low_rank(rows)
        y = y.reshape(*x.shape[:-1], self.features)
        if self.use_bias:
            y = y + self.param("bias", zeros, (self.features,), self.param_dtype)
        return named_product(y.astype(self.dtype))

    def _low_rank(self, rows: Float[Array, "n i"]) -> Float[Array, "n o"]:
        a = self.param("lora_a", torch_default, (rows.shape[-1], self.lora.rank), self.param_dtype)
        b = self.param("lora_b", zeros, (self.lora.rank, self.features), self.param_dtype)
        if self.has_rng("lora"):
            rows = nn.Dropout(self.lora.dropout, rng_collection="lora", deterministic=False)(rows)
        return self.lora.scale * self._product(self._product(rows, a), b)

    def _product(self, x: Float[Array, "n i"], kernel: Float[Array | np.ndarray, "i o"]) -> Float[Array, "n o"]:
        """In float32, of factors in the compute type."""
        return _product(x.astype(self.dtype), kernel.astype(self.dtype))


@jax.custom_vjp
def _product(x: Float[Array, "n i"], kernel: Float[Array | np.ndarray, "i o"]) -> Float[Array, "n o"]:
    """`x @ kernel` in float32. Its gradients are products of factors in the type of these two.

    JAX's own gradients would multiply by a cotangent in float32: on a GPU in TF32, at half the speed of bfloat16.
    """
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _product_forward(x: Array, kernel: Array | np.ndarray) -> tuple[Array, tuple[Array, Array | np.ndarray]]:
    return _product(x, kernel), (x, kernel)


def _product_backward(factors: tuple[Array, Array | np.ndarray], cotangent: Float[Array, "n o"]) -> tuple[Array, Array]:
    x, kernel = factors
    cotangent = cotangent.astype(x.dtype)  # the layer rounds its result to this type: there are no more digits
    # cotangent @ kernelᵀ and xᵀ @ cotangent, without transposed copies.
    of_x = jax.lax.dot_general(cotangent, kernel, (((1,), (1,)), ((), ())))
    return of_x, jax.lax.dot_general(x, cotangent, (((0,), (0,)), ((), ())))


_product.defvjp(_product_forward, _product_backward)


class RMSNorm(TypedModule):
    """Division by the root mean square over the last axis, computed in float32, then multiplication by `scale`.

    Unlike `flax.linen.RMSNorm`, rounds to `dtype` before the multiplication, as Hugging Face's models do.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        scale = self.param("scale", ones, (x.shape[-1],), self.param_dtype)
        x = x.astype(jnp.float32)
        normal = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + self.epsilon)
        return normal.astype(self.dtype) * scale.astype(self.dtype)


class SwiGLU(TypedModule):
    """The gated MLP of Qwen and LLaMA: `down_proj(silu(gate_proj(x)) * up_proj(x))`."""

    features: int
    use_bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        dense = partial(Dense, use_bias=self.use_bias, **self.types)
        gate, up = (dense(self.features, name=name)(x) for name in ("gate_proj", "up_proj"))
        return dense(x.shape[-1], name="down_proj")(nn.silu(gate) * up)


class EmbeddingMLP(TypedModule):
    """Linear, SiLU, Linear: embeds the sinusoids of timesteps and scores."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b {self.features}"]:
        dense = partial(Dense, self.features, kernel_init=torch_default, **self.types)
        return dense(name="linear_2")(nn.silu(dense(name="linear_1")(x)))


def sinusoid(
    x: Num[Array, "*batch"], channels: int, *, flip_sin_to_cos: bool = True, downscale_freq_shift: float = 0.0
) -> Float[Array, "*batch {channels}"]:
    """The sinusoidal encoding of numbers, as of the diffusion timestep; `channels` must be even."""
    # [cos, sin] of geometric frequencies; `flip_sin_to_cos=False`, diffusers' default, gives [sin, cos].
    half = channels // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / (half - downscale_freq_shift))
    angles = jnp.asarray(x, jnp.float32)[..., None] * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([cos, sin] if flip_sin_to_cos else [sin, cos], axis=-1)


# Rotary position embedding (Su et al., "RoFormer", 2021), in the half-split form of Hugging Face's models: element i of
# the first half of a head pairs with element i of the second. Axes: b batch, l tokens, h heads, d head width.


def rotary_angles(positions: Int[Array, "*b l"], pairs: int, theta: float) -> Float[Array, "*b l {pairs}"]:
    """position · theta^(-i / pairs), in radians, for pair i = 0 .. pairs - 1."""
    # float32 for any compute type: bfloat16 rounds position 257 to 256.
    return positions[..., None].astype(jnp.float32) * theta ** -(jnp.arange(pairs, dtype=jnp.float32) / pairs)


def select_axes(angles: Float[Array, "3 b l pairs"], sections: Sequence[int]) -> Float[Array, "b l pairs"]:
    """Angles of multimodal RoPE ("Qwen2-VL", 2024, section 2.1): each section of the pairs follows one position axis.

    Axes are (frame, row, column); `sections` are the numbers of pairs of each.
    """
    axis = np.repeat(np.arange(3), sections)
    return jnp.take_along_axis(angles, axis[None, None, None], axis=0)[0]


def rotate(x: Float[Array, "b l h d"], angles: Float[Array, "b l half"]) -> Float[Array, "b l h d"]:
    """Rotates each pair of elements by its angle (radians; half = d / 2), in float32 for any type of `x`."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def shard_batch_axis(x: Float[Array, "b *rest"]) -> Float[Array, "b *rest"]:
    """`x` with its first axis divided over the mesh that is set as batches are, and no other axis.

    For results that XLA would place otherwise. Lookups in a table whose width is sharded keep the table's sharding, and
    every activation is then moved in every layer; of repeated pixels, each device would gather the whole batch.
    """
    axes = batch_axes_in_scope(len(x))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x
