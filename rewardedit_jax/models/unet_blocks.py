"""Blocks of the Stable Diffusion U-Net: residual block, spatial transformer, and down, mid and up blocks made of them.

Submodules have the names of published checkpoints, with `_` instead of `.`. Axes: b batch, h w rows and columns of the
feature map, c channels, n tokens (h·w), l context length, t width of the time embedding.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Conv, Conv3x3, Dense, GroupNorm, LayerNorm, TypedModule, shard_batch_axis
from rewardedit_jax.models.remat import Remat, rematerialised

FeatureMap = Float[Array, "b h w c"]
Tokens = Float[Array, "b n c"]
TimeEmbedding = Float[Array, "b t"]
Context = Float[Array, "b l d"]


class ResnetBlock(TypedModule):
    """A shortcut plus two 3×3 convolutions, with the time embedding added between them."""

    features: int
    groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], temb: TimeEmbedding) -> Float[Array, "b h w o"]:
        norm = partial(GroupNorm, self.groups, epsilon=self.epsilon, **self.types)
        conv = partial(Conv3x3, self.features, **self.types)
        h = conv(name="conv1")(nn.silu(norm(name="norm1")(x)))
        h = h + Dense(self.features, **self.types, name="time_emb_proj")(nn.silu(temb))[:, None, None]
        h = conv(name="conv2")(nn.silu(norm(name="norm2")(h)))
        if x.shape[-1] != self.features:
            # Where the width changes, the shortcut is a 1×1 convolution.
            x = Conv(self.features, (1, 1), **self.types, name="conv_shortcut")(x)
        return x + h


class CrossAttention(TypedModule):
    """Multi-head attention of tokens to a context, or to themselves. Only the output projection has a bias."""

    heads: int

    @nn.compact
    def __call__(self, x: Tokens, context: Float[Array, "b m d"]) -> Tokens:
        dense = partial(Dense, x.shape[-1], **self.types)
        # Self- and cross-attention differ only in where keys and values come from.
        query, key, value = (
            dense(use_bias=False, name=name)(tokens).reshape(*tokens.shape[:2], self.heads, -1)
            for name, tokens in (("to_q", x), ("to_k", context), ("to_v", context))
        )
        return dense(name="to_out")(attention(query, key, value).reshape(x.shape))


class GEGLU(TypedModule):
    """`value * gelu(gate)`, where value and gate are the halves of one projection, with the exact (erf) GELU."""

    features: int

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "b n f"]:
        both = Dense(2 * self.features, **self.types, name="proj")(x)
        value, gate = jnp.split(both, 2, axis=-1)  # in this order in diffusers' GEGLU
        return value * jax.nn.gelu(gate, approximate=False)


class FeedForward(TypedModule):
    """GEGLU to four times the width, and a dense layer back to the width."""

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        hidden = GEGLU(4 * x.shape[-1], **self.types, name="net_0")(x)
        return Dense(x.shape[-1], **self.types, name="net_2")(hidden)


class TransformerBlock(TypedModule):
    """Self-attention, cross-attention to the context and feed-forward, each pre-norm and residual."""

    heads: int

    @nn.compact
    def __call__(self, x: Tokens, context: Context) -> Tokens:
        norm = partial(LayerNorm, 1e-5, **self.types)
        tokens = norm(name="norm1")(x)
        x = x + CrossAttention(self.heads, **self.types, name="attn1")(tokens, tokens)
        x = x + CrossAttention(self.heads, **self.types, name="attn2")(norm(name="norm2")(x), context)
        return x + FeedForward(**self.types, name="ff")(norm(name="norm3")(x))


class SpatialTransformer(TypedModule):
    """A shortcut plus a transformer block over the pixels of a feature map (diffusers' `Transformer2DModel`)."""

    heads: int
    groups: int

    @nn.compact
    def __call__(self, x: FeatureMap, context: Context) -> FeatureMap:
        channels = x.shape[-1]
        # The config's norm_eps is for residual blocks only; diffusers fixes 1e-6 here.
        tokens = GroupNorm(self.groups, epsilon=1e-6, **self.types, name="norm")(x).reshape(len(x), -1, channels)
        # Dense on tokens equals the 1×1 convolution of SD 1.x and the linear layer of SD 2.x.
        tokens = Dense(channels, **self.types, name="proj_in")(tokens)
        tokens = TransformerBlock(self.heads, **self.types, name="transformer_blocks_0")(tokens, context)
        return x + Dense(channels, **self.types, name="proj_out")(tokens).reshape(x.shape)


class Downsample(TypedModule):
    """Halves height and width by a strided 3×3 convolution."""

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "b h2 w2 c"]:
        return Conv3x3(x.shape[-1], strides=2, **self.types, name="conv")(x)


class Upsample(TypedModule):
    """Doubles height and width by nearest neighbour, followed by a 3×3 convolution."""

    @nn.compact
    def __call__(self, x: FeatureMap) -> Float[Array, "b h2 w2 c"]:
        x = shard_batch_axis(x.repeat(2, axis=1).repeat(2, axis=2))
        return Conv3x3(x.shape[-1], **self.types, name="conv")(x)


class UNetBlock(TypedModule):
    """Base of down, mid and up blocks: makes their residual blocks and transformers."""

    features: int  # channels of every feature map in the block
    layers: int  # residual blocks
    heads: int | None  # of the transformer behind each residual block; None: no transformers
    resample: bool  # whether a down block ends with a `Downsample`, an up block with an `Upsample`
    groups: int  # of the group normalisation in residual blocks, as `epsilon`
    epsilon: float
    remat: Remat = "none"  # what of residual blocks and transformers the backward pass computes again

    def resnet(self, j: int, x: Float[Array, "b h w i"], temb: TimeEmbedding) -> Float[Array, "b h w o"]:
        block = rematerialised(ResnetBlock, self.remat)
        return block(self.features, self.groups, self.epsilon, **self.types, name=f"resnets_{j}")(x, temb)

    def attend(self, j: int, x: FeatureMap, context: Context) -> FeatureMap:
        if self.heads is None:
            return x
        block = rematerialised(SpatialTransformer, self.remat)
        return block(self.heads, self.groups, **self.types, name=f"attentions_{j}")(x, context)


class DownBlock(UNetBlock):
    """`CrossAttnDownBlock2D`, or `DownBlock2D` without heads. Returns its output and the skips."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], temb: TimeEmbedding, context: Context
    ) -> tuple[Float[Array, "b h2 w2 o"], list[Float[Array, "b _ _ o"]]]:
        skips = []
        for j in range(self.layers):
            x = self.attend(j, self.resnet(j, x, temb), context)
            skips.append(x)
        # The downsampled map is a skip too, and the input of the next level.
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
    """`CrossAttnUpBlock2D`, or `UpBlock2D` without heads. Each residual block also reads a skip, the latest first."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], skips: list[Float[Array, "b h w _"]], temb: TimeEmbedding, context: Context
    ) -> Float[Array, "b h2 w2 o"]:
        for j, skip in enumerate(reversed(skips)):
            # The U-Net hands over the skips in the order of their creation, which the up path reverses.
            x = jnp.concatenate([x, skip], axis=-1)
            x = self.attend(j, self.resnet(j, x, temb), context)
        return Upsample(**self.types, name="upsamplers_0")(x) if self.resample else x
