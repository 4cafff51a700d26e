"""The pre-norm transformer encoder that CLIP's towers and DINO's vision transformers share.

Axes: b batch, l tokens, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
from flax.linen.initializers import constant
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, LayerNorm, TypedModule

# Columns of the first, rows of the second kernel over "tensor": one reduction per attention and one per MLP.
PARTITION_RULES = (
    (r"(.*/)?encoder/layers_\d+/self_attn/[qkv]_proj/kernel", P("fsdp", "tensor")),
    (r"(.*/)?encoder/layers_\d+/self_attn/out_proj/kernel", P("tensor", "fsdp")),
    (r"(.*/)?encoder/layers_\d+/mlp/fc1/kernel", P("fsdp", "tensor")),
    (r"(.*/)?encoder/layers_\d+/mlp/fc2/kernel", P("tensor", "fsdp")),
    # Only the width is divided: 77 positions, or patches + 1, have few divisors.
    (r"(.*/)?position_embedding/embedding", P(None, "fsdp")),
    (r".*/(bias|scale)", P()),
)

States = Float[Array, "b l d"]
Mask = Bool[Array, "1 1 l l"] | None  # None: every token attends to every other


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": partial(jax.nn.gelu, approximate=False)}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The settings of every encoder, under Hugging Face's names. A subclass also gives `intermediate_size`."""

    _model_type: ClassVar[str]  # in config.json
    qkv_bias: ClassVar[bool] = True
    gated: ClassVar[bool] = False  # whether the MLP is a SwiGLU
    layerscale_value: ClassVar[float | None] = None  # initial scale of every branch; None: branches are not scaled

    hidden_size: int
    num_hidden_layers: int = 12
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float

    def __post_init__(self):
        if self.hidden_act not in _ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r}: expected one of {', '.join(_ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size}: expected a multiple of num_attention_heads={self.num_attention_heads}"
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "EncoderConfig":
        """The config in a Hugging Face config.json. Raises ValueError naming an unsupported setting."""
        if config.get("model_type", cls._model_type) != cls._model_type:
            raise ValueError(f"model_type={config['model_type']!r}: expected {cls._model_type!r}")
        given = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
        for name, value in given.items():
            if isinstance(value, list):  # such as several end tokens, or a height and a width
                raise ValueError(f"{name}={value}: expected a single value")
        return cls(**given)


def check_rgb(num_channels: int) -> None:
    """Raises ValueError for images that are not RGB."""
    if num_channels != 3:
        raise ValueError(f"num_channels={num_channels}: only RGB images (3) are supported")


class SelfAttention(TypedModule):
    """Multi-head self-attention; the output projection has a bias."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: States, mask: Mask) -> States:
        heads, width = self.config.num_attention_heads, self.config.hidden_size
        dense = partial(Dense, width, use_bias=self.config.qkv_bias, **self.types)
        query, key, value = (dense(name=f"{p}_proj")(x).reshape(*x.shape[:2], heads, -1) for p in "qkv")
        return Dense(width, **self.types, name="out_proj")(attention(query, key, value, mask).reshape(x.shape))


class MLP(TypedModule):
    """Two dense layers with the activation `hidden_act` between them."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: States) -> States:
        hidden = Dense(self.config.intermediate_size, **self.types, name="fc1")(x)
        return Dense(x.shape[-1], **self.types, name="fc2")(_ACTIVATIONS[self.config.hidden_act](hidden))


class GatedMLP(TypedModule):
    """SwiGLU whose gate and values come from one dense layer, as the published files store it."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: States) -> States:
        both = Dense(2 * self.config.intermediate_size, **self.types, name="fc1")(x)
        gate, value = both[..., : self.config.intermediate_size], both[..., self.config.intermediate_size :]
        return Dense(x.shape[-1], **self.types, name="fc2")(nn.silu(gate) * value)


class EncoderLayer(TypedModule):
    """A pre-norm transformer block; with `layerscale_value`, each branch is multiplied by a learned vector."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: States, mask: Mask) -> States:
        norm = partial(LayerNorm, self.config.layer_norm_eps, **self.types)
        mlp = GatedMLP if self.config.gated else MLP
        attended = SelfAttention(self.config, **self.types, name="self_attn")(norm(name="layer_norm1")(x), mask)
        x = x + self._scaled(attended, "layer_scale1")
        return x + self._scaled(mlp(self.config, **self.types, name="mlp")(norm(name="layer_norm2")(x)), "layer_scale2")

    def _scaled(self, branch: States, name: str) -> States:
        if (start := self.config.layerscale_value) is None:
            return branch
        return branch * self.param(name, constant(start), branch.shape[-1:], self.param_dtype).astype(branch.dtype)


class Encoder(TypedModule):
    """The stack of transformer blocks, without a norm at its end."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: States, mask: Mask = None) -> tuple[States, ...]:
        """The states before the first block and after each. What a jitted caller does not use is not computed."""
        states = [x]
        for i in range(self.config.num_hidden_layers):
            states.append(EncoderLayer(self.config, **self.types, name=f"layers_{i}")(states[-1], mask))
        return tuple(states)
