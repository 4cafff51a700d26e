"""A decoder-only transformer: Qwen2.5-VL's text model, or LLaMA, which differs by the missing q, k and v biases.

Bai et al., "Qwen2.5-VL Technical Report" (2025); Touvron et al., "LLaMA" (2023). Parameters have the names of the
Hugging Face files. There is no output layer: callers read hidden states. Axes: b rows, l tokens, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from rewardedit_jax.models import layers
from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, Embed, RMSNorm, SwiGLU, TypedModule
from rewardedit_jax.models.remat import Remat, rematerialised

Hidden = Float[Array, "b l d"]
Angles = Float[Array, "b l a"]  # rotary, one per pair of elements of a head
Mask = Bool[Array, "b 1 l k"]  # k tokens that are attended to: the l given ones, or those in the cache
Places = Int[Array, "b l"] | None

# Columns of the first, rows of the second kernel over "tensor": one reduction per attention and one per MLP. "tensor"
# must divide the key heads (4 of Qwen2.5-VL-7B, 2 of 3B, 8 of MiMo-VL): `check_tensor_axis`.
PARTITION_RULES = (
    # The width is divided: with the reward token, the number of rows is usually odd.
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
    num_key_value_heads: int = 4  # each serves num_attention_heads / num_key_value_heads adjacent query heads
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    qkv_bias: bool = True  # False for LLaMA
    mrope_section: tuple[int, int, int] | None = (16, 24, 24)  # pairs that follow frame, row, column; None: 1-D

    def __post_init__(self):
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads}: expected a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size}: expected a multiple of 2 * num_attention_heads="
                f"{2 * self.num_attention_heads}, as rotary embedding pairs the elements of a head"
            )
        if self.mrope_section is not None and sum(self.mrope_section) != self.head_dim // 2:
            raise ValueError(f"mrope_section={self.mrope_section}: expected sum {self.head_dim // 2}, half of a head")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """The config in a config.json of Qwen2.5-VL, LLaMA or LLaVA.

        Raises ValueError naming an unsupported setting.
        """
        # Older files of Qwen2.5-VL have the text settings at the top level, newer ones under text_config.
        config = {**config, **(config.get("text_config") or {})}
        # transformers 4 writes rope_scaling and a top-level rope_theta; version 5 joins both in rope_parameters.
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        _check_supported(config, rope)
        # A value of null in JSON means the default.
        given = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
        qwen = "qwen2" in config.get("model_type", "")
        usual = 1_000_000.0 if qwen else 10_000.0  # transformers' defaults of the two model types
        given["rope_theta"] = rope.get("rope_theta") or config.get("rope_theta") or usual
        given["mrope_section"] = tuple(rope["mrope_section"]) if rope.get("mrope_section") else None
        given["qkv_bias"] = qwen or bool(config.get("attention_bias"))  # in Qwen2 a fixed part, not a setting
        if not qwen:  # the first LLaMA, which has no groups of heads, does not name their number
            given.setdefault("num_key_value_heads", config.get("num_attention_heads", cls.num_attention_heads))
        return cls(**given)

    def to_hf(self) -> dict[str, Any]:
        """The fields of a `text_config`."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("qkv_bias", "mrope_section")}
        rope = {} if self.mrope_section is None else {"mrope_section": list(self.mrope_section)}
        return {
            "model_type": "qwen2_5_vl_text" if self.qkv_bias else "llama",
            **settings,
            "hidden_act": "silu",
            # Left to the tokenizer; without these, transformers fills in ids of its full vocabulary.
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_scaling": {"type": "default", "rope_type": "default", **rope},
        }


def _check_supported(config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first setting that `Decoder` does not support."""
    supported = {
        "model_type": ("qwen2_5_vl", "qwen2_5_vl_text", "llama", "llava"),
        "hidden_act": ("silu",),
        "use_sliding_window": (False,),
        "mlp_bias": (False,),
        "head_dim": (None, config.get("hidden_size", 0) // max(config.get("num_attention_heads", 1), 1)),
    }
    for name, values in supported.items():
        if config.get(name, values[0]) not in values:
            raise ValueError(f"{name}={config[name]!r}: expected {' or '.join(map(repr, values))}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"rope_type={kind!r}: expected 'default' or 'mrope', as rescaled positions are not supported")
    if config.get("attention_bias") and config.get("model_type") in ("llama", "llava"):
        raise ValueError("attention_bias=True of a LLaMA: expected False, as it adds a bias to o_proj too")


class SelfAttention(TypedModule):
    """Causal self-attention with rotary positions and grouped queries (fewer key heads than query heads)."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Hidden, angles: Angles, mask: Mask, at: Places = None) -> Hidden:
        c = self.config
        q, kv, width = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        query, key, value = (
            Dense(heads * width, c.qkv_bias, **self.types, name=name)(x).reshape(*x.shape[:2], heads, width)
            for name, heads in (("q_proj", q), ("k_proj", kv), ("v_proj", kv))
        )
        # Rotated after the projection, so that scores depend on the distance of two tokens only.
        key, value = self._keep("key", layers.rotate(key, angles), at), self._keep("value", value, at)
        out = attention(layers.rotate(query, angles), key, value, mask)
        return Dense(x.shape[-1], use_bias=False, **self.types, name="o_proj")(out.reshape(x.shape))

    def _keep(self, name: str, new: Float[Array, "b l g c"], at: Places) -> Float[Array, "b k g c"]:
        """Keys or values of all tokens, if the caller keeps them (`mutable="cache"`); else the new ones."""
        if self.is_initializing() or not self.is_mutable_collection("cache"):
            return new
        kept = self.variable("cache", name, lambda: new)
        if at is not None:
            kept.value = kept.value.at[jnp.arange(len(at))[:, None], at].set(new)
        return kept.value


class DecoderLayer(TypedModule):
    """A pre-norm transformer block."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Hidden, angles: Angles, mask: Mask, at: Places = None) -> Hidden:
        norm = partial(RMSNorm, self.config.rms_norm_eps, **self.types)
        attend = SelfAttention(self.config, **self.types, name="self_attn")
        x = x + attend(norm(name="input_layernorm")(x), angles, mask, at)
        mlp = SwiGLU(self.config.intermediate_size, use_bias=False, **self.types, name="mlp")
        return x + mlp(norm(name="post_attention_layernorm")(x))


class Decoder(TypedModule):
    """Token embeddings → hidden states after the final norm. `remat`: what of a layer is computed twice."""

    config: DecoderConfig
    remat: Remat = "none"

    def setup(self):
        c = self.config
        layer = rematerialised(DecoderLayer, self.remat)
        # Standard deviation 1, for training from scratch: embeddings are as large as what each layer adds, because
        # lecun_normal kernels keep the scale of their inputs.
        self.embed_tokens = Embed(c.vocab_size, c.hidden_size, embedding_init=normal(1.0), **self.types)
        self.layers = [layer(c, **self.types) for _ in range(c.num_hidden_layers)]
        self.final_norm = RMSNorm(c.rms_norm_eps, **self.types, name="norm")

    def embed(self, ids: Int[Array, "b l"]) -> Hidden:
        """Token embeddings, divided over the mesh as the batch is."""
        return layers.shard_batch_axis(self.embed_tokens(ids))

    def __call__(
        self, x: Hidden, positions: Int[Array, "b l"] | Int[Array, "3 b l"], mask: Mask, at: Places = None
    ) -> Hidden:
        """Hidden states of embedded tokens.

        With `mutable="cache"`, `apply` also returns the keys and values of rows of k tokens, to compute some of these
        tokens anew, or for the first time, without the others.

        Args:
          positions: one number per token, or one each for frame, row and column (multimodal RoPE).
          mask: True where a token (third axis) attends to another (last axis, one of k), as from `causal_mask`.
          at: which tokens of the rows in the cache these are; None: they are all of them (l = k).
        """
        angles = layers.rotary_angles(positions, self.config.head_dim // 2, self.config.rope_theta)
        if positions.ndim == 3:
            angles = layers.select_axes(angles, self.config.mrope_section)
        for layer in self.layers:
            x = layer(x, angles, mask, at)
        return self.final_norm(x)


def causal_mask(segments: Int[Array, "b l"]) -> Mask:
    """The attention mask of rows of tokens: a token attends to itself and to earlier tokens of its prompt.

    Args:
      segments: 0 at tokens that all prompts of the row share, n ≥ 1 in the rest of the n-th prompt, -1 at padding.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    at = jnp.arange(segments.shape[1])
    # Padding attends to padding: the softmax of a row without keys is NaN.
    allowed = (key == query) | ((key == 0) & (query > 0))
    return (allowed & (at[:, None] >= at))[:, None]


def check_tensor_axis(config: DecoderConfig, tensor: int) -> None:
    """Raises ValueError if a mesh axis of size `tensor` does not divide the key heads."""
    if config.num_key_value_heads % tensor:
        raise ValueError(
            f"mesh axis tensor={tensor} does not divide num_key_value_heads={config.num_key_value_heads}, the "
            "decoder's key heads: take a divisor of them; in training, give the remaining devices to fsdp"
        )
