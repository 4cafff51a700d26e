"""SmartEdit's Bidirectional Interaction Module: queries of the Q-Former and features of the image read each other.

Huang et al., "SmartEdit" (CVPR 2024), section 3.2. Its core is the two-way transformer of Segment Anything (Kirillov et
al., 2023). Parameters have the names of the published files. Axes: b batch, q queries, n = g·g image features in rows,
c width of both inside.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import normal, zeros
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, LayerNorm, TypedModule

_HEADS = "dimension_reduction_head_(zeroconv|qformer_out)"
# Columns of the first, rows of the second kernel over "tensor": one reduction per attention and one per MLP.
PARTITION_RULES = (
    (r"(.*/)?modulate_head/kernel", P("fsdp", "tensor")),
    (r"(.*/)?(self_attn|cross_attn\w+|final_attn\w+)/[qkv]_proj/kernel", P("fsdp", "tensor")),
    (r"(.*/)?(self_attn|cross_attn\w+|final_attn\w+)/out_proj/kernel", P("tensor", "fsdp")),
    (r"(.*/)?mlp/lin1/kernel", P("fsdp", "tensor")),
    (r"(.*/)?mlp/lin2/kernel", P("tensor", "fsdp")),
    (rf"(.*/)?{_HEADS}/kernel", P("fsdp", "tensor")),
    (r"(.*/)?positional_encoding_gaussian_matrix", P()),
    (r".*/(bias|scale)", P()),
)

Queries = Float[Array, "b q c"]
Image = Float[Array, "b n c"]
Places = Float[Array, "1 n c"]  # positions of the image features


@dataclass(frozen=True, kw_only=True)
class InteractionConfig:
    """Sizes; the defaults are those of SmartEdit, the same for 7B and 13B."""

    hidden_size: int = 1024  # c, which is also the width of the image features
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    intermediate_size: int = 2048  # of the MLPs
    attention_downsample_rate: int = 2  # the width of attention between queries and image is c / this
    layer_norm_eps: float = 1e-5
    context_size: int = 768  # width of the Q-Former's output, and of the context
    residual_size: int = 320  # width of the U-Net's first feature map
    context_factor: float = 0.5  # of what is added to the Q-Former's output

    def __post_init__(self):
        parts = self.num_attention_heads * self.attention_downsample_rate
        if self.hidden_size % parts or self.hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size}: expected an even multiple of num_attention_heads="
                f"{self.num_attention_heads} × attention_downsample_rate={self.attention_downsample_rate}"
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "InteractionConfig":
        """The config in a config.json. Raises ValueError naming a setting out of range."""
        return cls(**{f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None})

    def to_hf(self) -> dict[str, Any]:
        """The fields of a config.json."""
        return {"architectures": ["SmartEditInteraction"], **asdict(self)}


class Attention(TypedModule):
    """Multi-head attention whose inner `width` may be smaller than c; all projections have biases."""

    heads: int
    width: int

    @nn.compact
    def __call__(self, query: Queries, key: Image, value: Image) -> Queries:
        parts = (
            Dense(self.width, **self.types, name=f"{p}_proj")(x).reshape(*x.shape[:2], self.heads, -1)
            for p, x in (("q", query), ("k", key), ("v", value))
        )
        attended = attention(*parts).reshape(*query.shape[:2], self.width)
        return Dense(query.shape[-1], **self.types, name="out_proj")(attended)


class MLP(TypedModule):
    """Two dense layers with ReLU between them."""

    width: int

    @nn.compact
    def __call__(self, x: Queries) -> Queries:
        hidden = nn.relu(Dense(self.width, **self.types, name="lin1")(x))
        return Dense(x.shape[-1], **self.types, name="lin2")(hidden)


class TwoWayLayer(TypedModule):
    """Queries attend to themselves, then to the image, and the image to them; norms follow the residual sums."""

    config: InteractionConfig
    is_first: bool

    @nn.compact
    def __call__(self, queries: Queries, image: Image, positions: Queries, places: Places) -> tuple[Queries, Image]:
        """New queries and image features. `positions` and `places` are added to queries and image as they are read."""
        attend, norm = partial(make_attention, self.config, self.types), make_norm(self.config, self.types)
        attend_self = attend(1, name="self_attn")
        if self.is_first:
            # Without a residual sum: these queries are their own positions.
            queries = attend_self(queries, queries, queries)
        else:
            at = queries + positions
            queries = queries + attend_self(at, at, queries)
        queries = norm(name="norm1")(queries)
        queries = queries + attend(name="cross_attn_token_to_image")(queries + positions, image + places, image)
        queries = norm(name="norm2")(queries)
        queries = queries + MLP(self.config.intermediate_size, **self.types, name="mlp")(queries)
        queries = norm(name="norm3")(queries)
        image = image + attend(name="cross_attn_image_to_token")(image + places, queries + positions, queries)
        return queries, norm(name="norm4")(image)


class TwoWayTransformer(TypedModule):
    """The layers, then a last attention of the queries to the image."""

    config: InteractionConfig

    @nn.compact
    def __call__(self, queries: Queries, image: Image, places: Places) -> tuple[Queries, Image]:
        c, positions = self.config, queries
        for i in range(c.num_hidden_layers):
            layer = TwoWayLayer(c, is_first=i == 0, **self.types, name=f"layers_{i}")
            queries, image = layer(queries, image, positions, places)
        attend = make_attention(c, self.types, name="final_attn_token_to_image")
        queries = queries + attend(queries + positions, image + places, image)
        return make_norm(c, self.types)(name="norm_final_attn")(queries), image


def make_attention(config: InteractionConfig, types: dict[str, Any], rate: int | None = None, **name: str) -> Attention:
    """An attention of width c / `rate`, by default that between queries and image."""
    width = config.hidden_size // (rate or config.attention_downsample_rate)
    return Attention(config.num_attention_heads, width, **types, **name)


def make_norm(config: InteractionConfig, types: dict[str, Any]) -> partial:
    return partial(LayerNorm, config.layer_norm_eps, **types)


class Interaction(TypedModule):
    """Output of the Q-Former, features of the image → context of the U-Net, residual of its first feature map.

    The parameter `positional_encoding_gaussian_matrix` is a constant: it was drawn once, published weights contain it,
    and it never trains. Its gradient is zero; `trainable` rules must exclude it from weight decay.
    """

    config: InteractionConfig

    @nn.compact
    def __call__(
        self, queries: Float[Array, "b q e"], image: Image
    ) -> tuple[Float[Array, "b q e"], Float[Array, "b g g r"]]:
        """Context and residual; both heads start at zero, so that the context starts as `queries`, the residual as 0.

        Args:
          queries: the Q-Former's output, e = context_size.
          image: features of an image tower as it returns them, without the class token; n = g².

        Returns:
          The context, and the residual on the grid of the features. SmartEdit resizes features to the size of the
          latents before a 1×1 convolution; here the convolution comes first, as both commute, and the caller resizes.
        Raises:
          ValueError: the features form no square, or have another width.
        """
        c, side = self.config, math.isqrt(image.shape[1])
        if image.shape[1:] != (side**2, c.hidden_size):
            raise ValueError(f"image features of shape {image.shape}: expected [b, g * g, hidden_size={c.hidden_size}]")
        matrix = self.param("positional_encoding_gaussian_matrix", normal(1.0), (2, c.hidden_size // 2), jnp.float32)
        places = fourier_features(jax.lax.stop_gradient(matrix), side).astype(self.dtype)
        head = partial(Dense, kernel_init=zeros, **self.types)
        modulated = Dense(c.hidden_size, **self.types, name="modulate_head")(queries)
        transform = TwoWayTransformer(c, **self.types, name="modulate_transformer")
        read, image = transform(modulated, image.astype(self.dtype), places[None])
        difference = head(c.context_size, name="dimension_reduction_head_qformer_out")(read)
        residual = head(c.residual_size, name="dimension_reduction_head_zeroconv")(image)
        return queries + c.context_factor * difference, residual.reshape(-1, side, side, c.residual_size)

    def example_inputs(self) -> tuple[Float[Array, "1 1 e"], Float[Array, "1 1 c"]]:
        return jnp.zeros((1, 1, self.config.context_size)), jnp.zeros((1, 1, self.config.hidden_size))


def fourier_features(matrix: Float[Array | np.ndarray, "2 m"], side: int) -> Float[Array, "{side}*{side} 2*m"]:
    """Random Fourier features (Tancik et al., 2020) of the cells of a grid, row by row: sines, then cosines."""
    # Centres of the cells in -1..1. Float32 without a matrix product, which accelerators may round.
    at = (2 * jnp.arange(side, dtype=jnp.float32) + 1) / side - 1
    y, x = (grid.reshape(-1, 1) for grid in jnp.meshgrid(at, at, indexing="ij"))
    angles = 2 * jnp.pi * (x * matrix[0] + y * matrix[1])
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
