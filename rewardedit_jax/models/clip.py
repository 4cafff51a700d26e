"""CLIP's two towers: the text encoder whose states condition the editor, and the image encoder with its projection.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Parameters carry the
names of the Hugging Face files. Axes: b batch, l tokens, d width, n patches plus the class token.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import lecun_normal, normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import LayerNorm, Part

# Column-split, then row-split: one reduction over "tensor" per attention and one per MLP.
_ENCODER_RULES = (
    (r"encoder/layers_\d+/self_attn/[qkv]_proj/kernel", P("fsdp", "tensor")),
    (r"encoder/layers_\d+/self_attn/out_proj/kernel", P("tensor", "fsdp")),
    (r"encoder/layers_\d+/mlp/fc1/kernel", P("fsdp", "tensor")),
    (r"encoder/layers_\d+/mlp/fc2/kernel", P("tensor", "fsdp")),
    (r"(.*/)?position_embedding/embedding", P(None, "fsdp")),
    (r".*/(bias|scale)", P()),
)
TEXT_PARTITION_RULES = (
    (r"embeddings/token_embedding/embedding", P("tensor", "fsdp")),
    *_ENCODER_RULES,
)
VISION_PARTITION_RULES = (
    (r"embeddings/class_embedding", P()),
    (r"embeddings/patch_embedding/kernel", P(None, None, None, "fsdp")),
    (r"visual_projection/kernel", P("fsdp", "tensor")),
    *_ENCODER_RULES,
)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": partial(jax.nn.gelu, approximate=False)}


@dataclass(frozen=True, kw_only=True)
class _TowerConfig:
    """What both towers have. Defaults are those of Hugging Face: its files may leave them out."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int = 12
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512

    def __post_init__(self):
        if self.hidden_act not in _ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported; known: {', '.join(_ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}"
            )


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(_TowerConfig):
    """Sizes of the text tower; the defaults are ViT-B/32's."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    pad_token_id: int = 1
    bos_token_id: int = 49406
    eos_token_id: int = 49407

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "CLIPTextConfig":
        """The config in a Hugging Face config.json, a text tower's or a full CLIP's.

        Raises:
          ValueError: naming the setting, if it asks for a network that this is not.
        """
        return cls(**_read(config, cls, "text_config", "clip_text_model"))

    def to_hf(self) -> dict[str, Any]:
        return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(_TowerConfig):
    """Sizes of the image tower, for square RGB images; the defaults are ViT-B/32's."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        if self.num_channels != 3:
            raise ValueError(f"num_channels {self.num_channels} is not supported: images have 3")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "CLIPVisionConfig":
        """The config in a Hugging Face config.json, an image tower's or a full CLIP's.

        Raises:
          ValueError: naming the setting, if it asks for a network that this is not.
        """
        return cls(**_read(config, cls, "vision_config", "clip_vision_model"))

    def to_hf(self) -> dict[str, Any]:
        return {
            "architectures": ["CLIPVisionModelWithProjection"],
            "model_type": "clip_vision_model",
            **asdict(self),
        }


def _read(config: Mapping[str, Any], cls: type[_TowerConfig], section: str, model_type: str) -> dict[str, Any]:
    """The fields of `cls` in a tower's config, or in that section of a full CLIP's."""
    if section in config:  # a full CLIP projects both towers to the width at the top, whatever the sections say
        config = {**config[section], "projection_dim": config.get("projection_dim", cls.projection_dim)}
    if config.get("model_type", model_type) != model_type:
        raise ValueError(f"model_type {config['model_type']!r} is not {model_type!r}")
    if config.get("attention_dropout"):
        raise ValueError(f"attention_dropout {config['attention_dropout']} is not supported: the towers have none")
    given = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
    for name, value in given.items():
        if isinstance(value, list):  # several end tokens, or sides that differ
            raise ValueError(f"{name} {value} is not supported: only one value is")
    return given


@flax.struct.dataclass
class TextStates:
    """What the text tower makes of a batch of texts. Leaves are `Any`: under `jax.eval_shape` they are shapes."""

    last_hidden: Any  # float[b l d], after the final layer norm
    pooled: Any  # float[b d], last_hidden at the end-of-text token; not projected


@flax.struct.dataclass
class VisionStates:
    """What the image tower makes of a batch of images. Leaves are `Any`, as in `TextStates`."""

    last_hidden: Any  # float[b n d], the class token first; before the post layer norm
    pooled: Any  # float[b d], the class token after the post layer norm
    embedding: Any  # float[b e], pooled, projected to the space shared with texts; not of unit length


class _Tower(Part):
    """A part of either tower."""

    config: CLIPTextConfig | CLIPVisionConfig

    def layer_norm(self, name: str) -> LayerNorm:
        epsilon = self.config.layer_norm_eps
        return LayerNorm(epsilon, dtype=self.dtype, param_dtype=self.param_dtype, name=name)

    def embed(self, count: int, name: str) -> nn.Embed:
        return nn.Embed(
            count,
            self.config.hidden_size,
            embedding_init=normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )


class SelfAttention(_Tower):
    """Multi-head self-attention with biases."""

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], mask: Bool[Array, "1 1 l l"] | None) -> Float[Array, "b l d"]:
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        query, key, value = (
            self.dense(width, name)(x).reshape(*x.shape[:2], heads, width // heads)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        return self.dense(width, "out_proj")(attention(query, key, value, mask).reshape(x.shape))


class MLP(_Tower):
    """Two dense layers with the config's activation between them."""

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        x = _ACTIVATIONS[self.config.hidden_act](self.dense(self.config.intermediate_size, "fc1")(x))
        return self.dense(self.config.hidden_size, "fc2")(x)


class EncoderLayer(_Tower):
    """A pre-norm transformer block."""

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], mask: Bool[Array, "1 1 l l"] | None) -> Float[Array, "b l d"]:
        x = x + self.part(SelfAttention, "self_attn")(self.layer_norm("layer_norm1")(x), mask)
        return x + self.part(MLP, "mlp")(self.layer_norm("layer_norm2")(x))


class Encoder(_Tower):
    """The stack of blocks, without a norm at its end."""

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], mask: Bool[Array, "1 1 l l"] | None = None) -> Float[Array, "b l d"]:
        for i in range(self.config.num_hidden_layers):
            x = self.part(EncoderLayer, f"layers_{i}")(x, mask)
        return x


class TextEmbeddings(_Tower):
    """Token plus learned position."""

    @nn.compact
    def __call__(self, token_ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        length, most = token_ids.shape[1], self.config.max_position_embeddings
        if length > most:
            raise ValueError(f"{length} tokens, but the text tower has {most} positions")
        positions = self.embed(most, "position_embedding")(jnp.arange(length))
        return self.embed(self.config.vocab_size, "token_embedding")(token_ids) + positions


class CLIPTextModel(_Tower):
    """Token ids → states. Every token sees those before it; padding is not masked, as CLIP was trained."""

    @nn.compact
    def __call__(self, token_ids: Int[Array, "b l"]) -> TextStates:
        """States of padded texts. Raises ValueError if there are more tokens than positions."""
        causal = jnp.tril(jnp.ones((token_ids.shape[1],) * 2, bool))[None, None]
        x = self.part(TextEmbeddings, "embeddings")(token_ids)
        x = self.part(Encoder, "encoder")(x, causal)
        x = self.layer_norm("final_layer_norm")(x)
        end = end_of_text(token_ids, self.config.eos_token_id)
        return TextStates(last_hidden=x, pooled=x[jnp.arange(x.shape[0]), end])

    def example_inputs(self) -> tuple[Int[Array, "1 l"]]:
        """The smallest inputs that reach every parameter."""
        return (jnp.zeros((1, 1), jnp.int32),)


def end_of_text(token_ids: Int[Array, "b l"], eos_token_id: int) -> Int[Array, " b"]:
    """The position of each text's end token: the first one, as padding may repeat it; 0 where there is none.

    Older configs say 2, which is not the token that ends a text; with them it is the largest id, CLIP's last token.
    """
    marks = token_ids if eos_token_id == 2 else token_ids == eos_token_id
    return marks.argmax(axis=-1)


class PatchEmbedding(_Tower):
    """One dense layer, without bias, on every patch. kernel: HWIO."""

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        p, width = self.config.patch_size, self.config.hidden_size
        kernel = self.param("kernel", lecun_normal(), (p, p, 3, width), self.param_dtype)
        patches = jax.lax.conv_general_dilated(
            images.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(p, p),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return patches.reshape(patches.shape[0], -1, width)


class VisionEmbeddings(_Tower):
    """The class token and the patches, plus learned positions."""

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        size, width = self.config.image_size, self.config.hidden_size
        if images.shape[1:3] != (size, size):
            raise ValueError(f"images of {images.shape[1:3]}, but the image tower takes {(size, size)}")
        patches = self.part(PatchEmbedding, "patch_embedding")(images)
        token = self.param("class_embedding", normal(width**-0.5), (width,), self.param_dtype)
        tokens = jnp.broadcast_to(token.astype(self.dtype), (patches.shape[0], 1, width))
        x = jnp.concatenate([tokens, patches], axis=1)
        return x + self.embed(x.shape[1], "position_embedding")(jnp.arange(x.shape[1]))


class CLIPVisionModel(_Tower):
    """Images → states and embedding."""

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> VisionStates:
        """States of images with CLIP's mean and deviation taken out. Raises ValueError if they have another size."""
        x = self.part(VisionEmbeddings, "embeddings")(images)
        x = self.layer_norm("pre_layrnorm")(x)  # spelt as in the files
        x = self.part(Encoder, "encoder")(x)
        pooled = self.layer_norm("post_layernorm")(x[:, 0])
        embedding = self.dense(self.config.projection_dim, "visual_projection", use_bias=False)(pooled)
        return VisionStates(last_hidden=x, pooled=pooled, embedding=embedding)

    def example_inputs(self) -> tuple[Float[Array, "1 h w 3"]]:
        """The smallest inputs that reach every parameter."""
        return (jnp.zeros((1, self.config.image_size, self.config.image_size, 3)),)
