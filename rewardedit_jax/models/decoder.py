"""A decoder-only transformer: Qwen2.5-VL's text model, and plain LLaMA, which is the same without biases on q, k, v.

Bai et al., "Qwen2.5-VL Technical Report" (2025); Touvron et al., "LLaMA" (2023). Parameters carry the names of the
Hugging Face files. It has no output layer: what is read are hidden states. Axes: b rows, l tokens, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Part, RMSNorm, with_their_batch
from rewardedit_jax.models.rotary import rotary_angles, rotate, select_axes

# Column-split, then row-split: one reduction over "tensor" per attention and one per MLP. "tensor" must divide the key
# heads (4 of Qwen2.5-VL-7B, 2 of 3B, 8 of MiMo-VL): `check_tensor_axis`. Embedding rows are as many as there are
# tokens, which nothing divides, so their width is split.
PARTITION_RULES = (
    (r"(.*/)?embed_tokens/embedding", P(None, ("fsdp", "tensor"))),
    (r"(.*/)?layers_\d+/self_attn/[qkv]_proj/kernel", P("fsdp", "tensor")),
    (r"(.*/)?layers_\d+/self_attn/o_proj/kernel", P("tensor", "fsdp")),
    (r"(.*/)?layers_\d+/mlp/(gate|up)_proj/kernel", P("fsdp", "tensor")),
    (r"(.*/)?layers_\d+/mlp/down_proj/kernel", P("tensor", "fsdp")),
    (r".*/(bias|scale)", P()),
)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes, under Hugging Face's names; the defaults are Qwen2.5-VL-7B's."""

    vocab_size: int = 152_064
    hidden_size: int = 3584
    intermediate_size: int = 18_944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    qkv_bias: bool = True  # False for LLaMA
    mrope_section: tuple[int, int, int] | None = (16, 24, 24)  # pairs that turn with frame, row, column; None: no axes

    def __post_init__(self):
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of 2 * {self.num_attention_heads} heads")
        if self.mrope_section is not None and sum(self.mrope_section) != self.head_dim // 2:
            raise ValueError(f"mrope_section {self.mrope_section} must sum to half the head width {self.head_dim}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """The config in a Hugging Face config.json of Qwen2.5-VL (in its `text_config` or at its top) or LLaMA.

        Raises:
          ValueError: naming the setting, if it asks for a network that this is not.
        """
        config = {**config, **(config.get("text_config") or {})}
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        _refuse_unlike(config, rope)
        given = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
        qwen = "qwen2" in config.get("model_type", "")
        usual = 1_000_000.0 if qwen else 10_000.0
        given["rope_theta"] = rope.get("rope_theta") or config.get("rope_theta") or usual
        given["mrope_section"] = tuple(rope["mrope_section"]) if rope.get("mrope_section") else None
        given["qkv_bias"] = qwen or bool(config.get("attention_bias"))
        return cls(**given)

    def to_hf(self) -> dict[str, Any]:
        """The fields of a `text_config`."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("qkv_bias", "mrope_section")}
        rope = {} if self.mrope_section is None else {"mrope_section": list(self.mrope_section)}
        model_type = "qwen2_5_vl_text" if self.qkv_bias else "llama"
        return {
            "model_type": model_type,
            **settings,
            "hidden_act": "silu",
            "bos_token_id": None,  # the tokenizer knows them; transformers would fill in those of its full vocabulary
            "eos_token_id": None,
            "rope_scaling": {"type": "default", "rope_type": "default", **rope},
        }


def _refuse_unlike(config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    known = {
        "model_type": ("qwen2_5_vl", "qwen2_5_vl_text", "llama"),
        "hidden_act": ("silu",),
        "use_sliding_window": (False,),
        "mlp_bias": (False,),
        "head_dim": (None, config.get("hidden_size", 0) // max(config.get("num_attention_heads", 1), 1)),
    }
    for name, allowed in known.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{name} {config[name]!r} is not supported by this decoder: it has {allowed[0]!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"rope_type {kind!r} is not supported: positions are not rescaled here")
    if config.get("attention_bias") and config.get("model_type") == "llama":
        raise ValueError("attention_bias of LLaMA is not supported: it would have a bias on o_proj too")


class _Part(Part):
    """A part of the decoder."""

    config: DecoderConfig

    def rms_norm(self, name: str) -> RMSNorm:
        return RMSNorm(self.config.rms_norm_eps, dtype=self.dtype, param_dtype=self.param_dtype, name=name)


class SelfAttention(_Part):
    """Self-attention of grouped queries, with rotary positions."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], angles: Float[Array, "b l a"], mask: Bool[Array, "b 1 l l"]
    ) -> Float[Array, "b l d"]:
        c = self.config
        query = self._heads(x, c.num_attention_heads, "q_proj")
        key, value = (self._heads(x, c.num_key_value_heads, name) for name in ("k_proj", "v_proj"))
        out = attention(rotate(query, angles), rotate(key, angles), value, mask)
        return self.dense(x.shape[-1], "o_proj", use_bias=False)(out.reshape(x.shape))

    def _heads(self, x: Float[Array, "b l d"], heads: int, name: str) -> Float[Array, "b l h e"]:
        width = self.config.head_dim
        return self.dense(heads * width, name, self.config.qkv_bias)(x).reshape(*x.shape[:2], heads, width)


class MLP(_Part):
    """SwiGLU without biases."""

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        gate, up = (self.dense(self.config.intermediate_size, f"{name}_proj", False)(x) for name in ("gate", "up"))
        return self.dense(x.shape[-1], "down_proj", use_bias=False)(nn.silu(gate) * up)


class DecoderLayer(_Part):
    """A pre-norm transformer block."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], angles: Float[Array, "b l a"], mask: Bool[Array, "b 1 l l"]
    ) -> Float[Array, "b l d"]:
        x = x + self.part(SelfAttention, "self_attn")(self.rms_norm("input_layernorm")(x), angles, mask)
        return x + self.part(MLP, "mlp")(self.rms_norm("post_attention_layernorm")(x))


class Decoder(_Part):
    """Token embeddings → hidden states after the final norm. With `remat`, layers are recomputed on the way back."""

    remat: bool = False

    def setup(self):
        c = self.config
        layer = nn.remat(DecoderLayer) if self.remat else DecoderLayer
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # From scratch as large as what the layers, whose kernels keep the scale of their inputs, add to it.
        self.embed_tokens = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=normal(1.0), **types)
        self.layers = [layer(c, **types) for _ in range(c.num_hidden_layers)]
        self.final_norm = self.rms_norm("norm")

    def embed(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        return with_their_batch(self.embed_tokens(ids))

    def __call__(
        self,
        x: Float[Array, "b l d"],
        positions: Int[Array, "b l"] | Int[Array, "3 b l"],
        mask: Bool[Array, "b 1 l l"],
    ) -> Float[Array, "b l d"]:
        """States of embedded tokens.

        Args:
          positions: one number for each token; or one for each of frame, row and column (`mrope_section`).
          mask: True where a token (third axis) sees another (last axis); `causal_mask` for the usual one.
        """
        angles = rotary_angles(positions, self.config.head_dim // 2, self.config.rope_theta)
        if positions.ndim == 3:
            angles = select_axes(angles, self.config.mrope_section)
        for layer in self.layers:
            x = layer(x, angles, mask)
        return self.final_norm(x)


def causal_mask(length: int) -> Bool[Array, "1 1 l l"]:
    """Each token sees itself and those before it."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def check_tensor_axis(config: DecoderConfig, tensor: int) -> None:
    """Raises ValueError if a tensor axis of that size would cut a key head in two."""
    if config.num_key_value_heads % tensor:
        raise ValueError(
            f"mesh axis tensor={tensor} does not divide the decoder's {config.num_key_value_heads} key heads, which "
            "grouped queries share: take a divisor of them (in training, fsdp for the other devices)"
        )
