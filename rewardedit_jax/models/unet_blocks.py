"""Blocks of the Stable Diffusion U-Net: residual block, spatial transformer, and the down, mid and up blocks of these.

Submodules are named as in the published checkpoints, `.` and list indices becoming `_`. Axes: b batch, h/w height and
width of the feature map, c channels, n tokens (h·w), l context length, t width of the time embedding.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Conv, Dense, GroupNorm, LayerNorm

FeatureMap = Float[Array, "b h w c"]
TimeEmbedding = Float[Array, "b t"]
Context = Float[Array, "b l d"]


class ResnetBlock(nn.Module):
    """Two 3×3 convolutions with the time embedding added in between, around a shortcut."""

    features: int
    groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], temb: TimeEmbedding) -> Float[Array, "b h w o"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(GroupNorm, self.groups, self.epsilon, **types)
        conv = partial(Conv, self.features, **types)

        h = conv(name="conv1")(nn.silu(norm(name="norm1")(x)))
        h = h + Dense(self.features, **types, name="time_emb_proj")(nn.silu(temb))[:, None, None]
        h = conv(name="conv2")(nn.silu(norm(name="norm2")(h)))
        if x.shape[-1] != self.features:
            x = conv(1, name="conv_shortcut")(x)
        return x + h


class CrossAttention(nn.Module):
    """Multi-head attention of tokens over a context (over themselves: self-attention); only the output has a bias."""

    heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], context: Float[Array, "b m d"]) -> Float[Array, "b n c"]:
        dense = partial(Dense, x.shape[-1], dtype=self.dtype, param_dtype=self.param_dtype)
        query, key, value = (
            dense(use_bias=False, name=name)(tokens).reshape(*tokens.shape[:2], self.heads, -1)
            for name, tokens in (("to_q", x), ("to_k", context), ("to_v", context))
        )
        return dense(name="to_out")(attention(query, key, value).reshape(x.shape))


class GEGLU(nn.Module):
    """`value * gelu(gate)`, both halves of one projection, with the exact (erf) GELU."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n f"]:
        both = Dense(2 * self.features, dtype=self.dtype, param_dtype=self.param_dtype, name="proj")(x)
        value, gate = jnp.split(both, 2, axis=-1)
        return value * jax.nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = GEGLU(4 * x.shape[-1], **types, name="net_0")(x)
        return Dense(x.shape[-1], **types, name="net_2")(hidden)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention over the context, feed-forward."""

    heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], context: Context) -> Float[Array, "b n c"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, 1e-5, **types)

        tokens = norm(name="norm1")(x)
        x = x + CrossAttention(self.heads, **types, name="attn1")(tokens, tokens)
        x = x + CrossAttention(self.heads, **types, name="attn2")(norm(name="norm2")(x), context)
        return x + FeedForward(**types, name="ff")(norm(name="norm3")(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a feature map (diffusers' `Transformer2DModel`), around a shortcut."""

    heads: int
    groups: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, context: Context) -> FeatureMap:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = x.shape[-1]
        # 1e-6 whatever the config's norm_eps, which is that of the residual blocks.
        tokens = GroupNorm(self.groups, 1e-6, **types, name="norm")(x).reshape(len(x), -1, channels)
        tokens = Dense(channels, **types, name="proj_in")(tokens)
        tokens = TransformerBlock(self.heads, **types, name="transformer_blocks_0")(tokens, context)
        return x + Dense(channels, **types, name="proj_out")(tokens).reshape(x.shape)


class Downsample(nn.Module):
    """Half the size by a strided 3×3 convolution."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "b h2 w2 c"]:
        return Conv(x.shape[-1], stride=2, dtype=self.dtype, param_dtype=self.param_dtype, name="conv")(x)


class Upsample(nn.Module):
    """Twice the size by nearest neighbour, then a 3×3 convolution."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "b h2 w2 c"]:
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        return Conv(x.shape[-1], dtype=self.dtype, param_dtype=self.param_dtype, name="conv")(x)


class UNetBlock(nn.Module):
    """What down, mid and up blocks share: how their residual blocks and transformers are made.

    Attributes:
      features: channels of every feature map in the block.
      layers: residual blocks.
      heads: attention heads of the transformer after each residual block; None: no transformers.
      resample: whether a down block ends in a `Downsample`, an up block in an `Upsample`.
      groups, epsilon: group normalisation of the residual blocks.
      remat: whether residual blocks and transformers are recomputed on the way back instead of kept.
    """

    features: int
    layers: int
    heads: int | None
    resample: bool
    groups: int
    epsilon: float
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def types(self) -> dict[str, DTypeLike]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def resnet(self, j: int, x: Float[Array, "b h w i"], temb: TimeEmbedding) -> Float[Array, "b h w o"]:
        block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        return block(self.features, self.groups, self.epsilon, **self.types, name=f"resnets_{j}")(x, temb)

    def attend(self, j: int, x: FeatureMap, context: Context) -> FeatureMap:
        if self.heads is None:
            return x
        block = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
        return block(self.heads, self.groups, **self.types, name=f"attentions_{j}")(x, context)


class DownBlock(UNetBlock):
    """`CrossAttnDownBlock2D`, or `DownBlock2D` without heads: gives its output, and one skip per stage."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], temb: TimeEmbedding, context: Context
    ) -> tuple[Float[Array, "b h2 w2 o"], list[Float[Array, "b _ _ o"]]]:
        skips = []
        for j in range(self.layers):
            x = self.attend(j, self.resnet(j, x, temb), context)
            skips.append(x)
        if self.resample:
            x = Downsample(**self.types, name="downsamplers_0")(x)
            skips.append(x)
        return x, skips


class MidBlock(UNetBlock):
    """`UNetMidBlock2DCrossAttn`: residual block, transformer, residual block."""

    @nn.compact
    def __call__(self, x: FeatureMap, temb: TimeEmbedding, context: Context) -> FeatureMap:
        x = self.attend(0, self.resnet(0, x, temb), context)
        return self.resnet(1, x, temb)


class UpBlock(UNetBlock):
    """`CrossAttnUpBlock2D`, or `UpBlock2D` without heads: each residual block also takes a skip, the latest first."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], skips: list[Float[Array, "b h w _"]], temb: TimeEmbedding, context: Context
    ) -> Float[Array, "b h2 w2 o"]:
        for j, skip in enumerate(reversed(skips)):
            x = jnp.concatenate([x, skip], axis=-1)
            x = self.attend(j, self.resnet(j, x, temb), context)
        return Upsample(**self.types, name="upsamplers_0")(x) if self.resample else x
