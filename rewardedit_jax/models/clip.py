"""CLIP: the text tower, whose states condition the editor, and the image tower with its projection.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Parameters have the
names of the Hugging Face files. Axes: b batch, l tokens, d width, n patches plus the class token.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, ClassVar

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, LayerNorm, TypedModule

# Columns of the first, rows of the second kernel over "tensor": one reduction per attention and one per MLP.
_ENCODER_RULES = (
    (r"encoder/layers_\d+/self_attn/[qkv]_proj/kernel", P("fsdp", "tensor")),
    (r"encoder/layers_\d+/self_attn/out_proj/kernel", P("tensor", "fsdp")),
    (r"encoder/layers_\d+/mlp/fc1/kernel", P("fsdp", "tensor")),
    (r"encoder/layers_\d+/mlp/fc2/kernel", P("tensor", "fsdp")),
    # Only the width is divided: 77 positions, or patches + 1, have few divisors.
    (r"(.*/)?position_embedding/embedding", P(None, "fsdp")),
    (r".*/(bias|scale)", P()),
)
TEXT_PARTITION_RULES = (
    # 49,408 rows: a multiple of every usual tensor size.
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
    """The settings that both towers have, under Hugging Face's names.

    The defaults are Hugging Face's, as its config.json files may omit default values.
    """

    # The section in a whole CLIP's config.json, and the model_type and architecture of a tower alone.
    _section: ClassVar[str]
    _model_type: ClassVar[str]
    _architecture: ClassVar[str]

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int = 12
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512

    def __post_init__(self):
        if self.hidden_act not in _ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r}: expected one of {', '.join(_ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size}: expected a multiple of num_attention_heads={self.num_attention_heads}"
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "_TowerConfig":
        """The config in a Hugging Face config.json of a tower or of a whole CLIP model.

        Raises ValueError naming an unsupported setting.
        """
        if cls._section in config:
            # transformers projects both towers to the top-level projection_dim, whatever the sections say.
            config = {**config[cls._section], "projection_dim": config.get("projection_dim", cls.projection_dim)}
        if config.get("model_type", cls._model_type) != cls._model_type:
            raise ValueError(f"model_type={config['model_type']!r}: expected {cls._model_type!r}")
        if config.get("attention_dropout"):
            raise ValueError(f"attention_dropout={config['attention_dropout']}: only 0 is supported")
        given = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
        for name, value in given.items():
            if isinstance(value, list):  # such as several end tokens, or a height and a width
                raise ValueError(f"{name}={value}: expected a single value")
        return cls(**given)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads."""
        return {"architectures": [self._architecture], "model_type": self._model_type, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(_TowerConfig):
    """Sizes of the text tower; the defaults are ViT-B/32's."""

    _section, _model_type, _architecture = "text_config", "clip_text_model", "CLIPTextModel"

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    pad_token_id: int = 1
    bos_token_id: int = 49406
    eos_token_id: int = 49407


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(_TowerConfig):
    """Sizes of the image tower, for square RGB images; the defaults are ViT-B/32's."""

    _section, _model_type, _architecture = "vision_config", "clip_vision_model", "CLIPVisionModelWithProjection"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        if self.num_channels != 3:
            raise ValueError(f"num_channels={self.num_channels}: only RGB images (3) are supported")


@flax.struct.dataclass
class TextStates:
    """Outputs of the text tower. Leaves are `Any`, as `jax.eval_shape` fills them with shapes."""

    last_hidden: Any  # float[b l d], after the final layer norm
    pooled: Any  # float[b d], last_hidden at the end-of-text token; not projected


@flax.struct.dataclass
class VisionStates:
    """Outputs of the image tower. Leaves are `Any`, as in `TextStates`."""

    last_hidden: Any  # float[b n d], class token first, before post_layernorm (as Hugging Face returns it)
    pooled: Any  # float[b d], the class token after the post layer norm
    embedding: Any  # float[b e], pooled, projected to the space shared with texts; not normalised


States = Float[Array, "b l d"]
CausalMask = Bool[Array, "1 1 l l"] | None  # None: every token attends to every other


class SelfAttention(TypedModule):
    """Multi-head self-attention with biases."""

    config: _TowerConfig

    @nn.compact
    def __call__(self, x: States, mask: CausalMask) -> States:
        heads = self.config.num_attention_heads
        dense = partial(Dense, self.config.hidden_size, **self.types)
        query, key, value = (dense(name=f"{p}_proj")(x).reshape(*x.shape[:2], heads, -1) for p in "qkv")
        return dense(name="out_proj")(attention(query, key, value, mask).reshape(x.shape))


class MLP(TypedModule):
    """Two dense layers with the activation `hidden_act` between them."""

    config: _TowerConfig

    @nn.compact
    def __call__(self, x: States) -> States:
        hidden = Dense(self.config.intermediate_size, **self.types, name="fc1")(x)
        return Dense(x.shape[-1], **self.types, name="fc2")(_ACTIVATIONS[self.config.hidden_act](hidden))


class EncoderLayer(TypedModule):
    """A pre-norm transformer block."""

    config: _TowerConfig

    @nn.compact
    def __call__(self, x: States, mask: CausalMask) -> States:
        norm = partial(LayerNorm, self.config.layer_norm_eps, **self.types)
        x = x + SelfAttention(self.config, **self.types, name="self_attn")(norm(name="layer_norm1")(x), mask)
        return x + MLP(self.config, **self.types, name="mlp")(norm(name="layer_norm2")(x))


class Encoder(TypedModule):
    """The stack of transformer blocks, without a norm at its end."""

    config: _TowerConfig

    @nn.compact
    def __call__(self, x: States, mask: CausalMask = None) -> States:
        for i in range(self.config.num_hidden_layers):
            x = EncoderLayer(self.config, **self.types, name=f"layers_{i}")(x, mask)
        return x


class TextEmbeddings(TypedModule):
    """Token embeddings plus learned position embeddings."""

    config: CLIPTextConfig

    @nn.compact
    def __call__(self, token_ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        length, most = token_ids.shape[1], self.config.max_position_embeddings
        if length > most:
            raise ValueError(f"{length} tokens exceed the text tower's max_position_embeddings={most}: truncate them")
        embed = partial(nn.Embed, features=self.config.hidden_size, embedding_init=normal(0.02), **self.types)
        positions = embed(most, name="position_embedding")(jnp.arange(length))
        return embed(self.config.vocab_size, name="token_embedding")(token_ids) + positions


class CLIPTextModel(TypedModule):
    """The text tower: token ids → `TextStates`.

    Attention is causal. Padding is not masked, as CLIP was trained without a padding mask.
    """

    config: CLIPTextConfig

    @nn.compact
    def __call__(self, token_ids: Int[Array, "b l"]) -> TextStates:
        """States of padded texts. Raises ValueError if there are more tokens than positions."""
        # Padding stands behind the end token, where no earlier token attends to it.
        causal = jnp.tril(jnp.ones((token_ids.shape[1],) * 2, bool))[None, None]
        x = TextEmbeddings(self.config, **self.types, name="embeddings")(token_ids)
        x = Encoder(self.config, **self.types, name="encoder")(x, causal)
        x = LayerNorm(self.config.layer_norm_eps, **self.types, name="final_layer_norm")(x)
        end = end_of_text(token_ids, self.config.eos_token_id)
        return TextStates(last_hidden=x, pooled=x[jnp.arange(x.shape[0]), end])

    def example_inputs(self) -> tuple[Int[Array, "1 l"]]:
        return (jnp.zeros((1, 1), jnp.int32),)


def end_of_text(token_ids: Int[Array, "b l"], eos_token_id: int) -> Int[Array, " b"]:
    """The position of the first end-of-text token of each text; 0 where there is none."""
    # Older configs have eos_token_id=2, which is not CLIP's end token. As transformers does, take the largest id then:
    # the end token is the last of CLIP's vocabulary. argmax returns the first maximum, as padding may repeat it.
    marks = token_ids if eos_token_id == 2 else token_ids == eos_token_id
    return marks.argmax(axis=-1)


class VisionEmbeddings(TypedModule):
    """The class token and the patch embeddings, plus learned position embeddings."""

    config: CLIPVisionConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        size, width, patch = self.config.image_size, self.config.hidden_size, (self.config.patch_size,) * 2
        if images.shape[1:3] != (size, size):
            raise ValueError(f"image size {images.shape[1:3]}: the image tower takes image_size={(size, size)}")
        # Strides as long as the kernel: one dense layer, without bias, on every patch.
        patches = nn.Conv(width, patch, patch, "VALID", use_bias=False, **self.types, name="patch_embedding")(images)
        token = self.param("class_embedding", normal(width**-0.5), (width,), self.param_dtype)
        tokens = jnp.broadcast_to(token.astype(self.dtype), (patches.shape[0], 1, width))
        x = jnp.concatenate([tokens, patches.reshape(patches.shape[0], -1, width)], axis=1)
        embed = nn.Embed(x.shape[1], width, embedding_init=normal(0.02), **self.types, name="position_embedding")
        return x + embed(jnp.arange(x.shape[1]))


class CLIPVisionModel(TypedModule):
    """The image tower with its projection: images → `VisionStates`."""

    config: CLIPVisionConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> VisionStates:
        """States of images that are normalised by CLIP's mean and deviation. Raises ValueError for another size."""
        norm = partial(LayerNorm, self.config.layer_norm_eps, **self.types)
        x = VisionEmbeddings(self.config, **self.types, name="embeddings")(images)
        x = norm(name="pre_layrnorm")(x)  # the spelling of the published tensor names
        x = Encoder(self.config, **self.types, name="encoder")(x)
        pooled = norm(name="post_layernorm")(x[:, 0])
        project = Dense(self.config.projection_dim, use_bias=False, **self.types, name="visual_projection")
        return VisionStates(last_hidden=x, pooled=pooled, embedding=project(pooled))

    def example_inputs(self) -> tuple[Float[Array, "1 h w 3"]]:
        return (jnp.zeros((1, self.config.image_size, self.config.image_size, 3)),)
