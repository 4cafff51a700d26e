"""CLIP: the text tower, whose states condition the editor, and the whole model, which embeds images and texts.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Parameters have the
names of the Hugging Face files. Axes: b batch, l tokens, d width, e projected width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rewardedit_jax.models import clip_vision, encoder
from rewardedit_jax.models.clip_tower import TowerConfig
from rewardedit_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.models.encoder import Encoder
from rewardedit_jax.models.layers import Dense, Embed, LayerNorm, TypedModule

TEXT_PARTITION_RULES = (
    # 49,408 rows: a multiple of every usual tensor size.
    (r"(.*/)?embeddings/token_embedding/embedding", P("tensor", "fsdp")),
    *encoder.PARTITION_RULES,
)
PARTITION_RULES = (
    (r"text_projection/kernel", P("fsdp", "tensor")),
    *TEXT_PARTITION_RULES[:1],
    *clip_vision.PARTITION_RULES,
)


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(TowerConfig):
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
class CLIPConfig:
    """Both towers, with one `projection_dim`."""

    text: CLIPTextConfig
    vision: CLIPVisionConfig

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "CLIPConfig":
        """The config in a Hugging Face config.json of a whole CLIP model. Raises ValueError naming what is wrong."""
        if missing := [name for name in ("text_config", "vision_config") if name not in config]:
            raise ValueError(f"{' and '.join(missing)} missing: expected the config.json of a whole CLIP model")
        return cls(text=CLIPTextConfig.from_hf(config), vision=CLIPVisionConfig.from_hf(config))

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads."""
        identity = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": self.text.projection_dim}
        return {**identity, "text_config": self.text.to_hf(), "vision_config": self.vision.to_hf()}


@flax.struct.dataclass
class TextStates:
    """Outputs of the text tower. Leaves are `Any`, as `jax.eval_shape` fills them with shapes."""

    last_hidden: Any  # float[b l d], after the final layer norm
    pooled: Any  # float[b d], last_hidden at the end-of-text token; not projected


class TextEmbeddings(TypedModule):
    """Token embeddings plus learned position embeddings."""

    config: CLIPTextConfig

    @nn.compact
    def __call__(self, token_ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        length, most = token_ids.shape[1], self.config.max_position_embeddings
        if length > most:
            raise ValueError(f"{length} tokens exceed the text tower's max_position_embeddings={most}: truncate them")
        embed = partial(Embed, features=self.config.hidden_size, embedding_init=normal(0.02), **self.types)
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
        *_, x = Encoder(self.config, **self.types, name="encoder")(x, causal)
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


class CLIPModel(TypedModule):
    """Both towers with their projections. Embeddings are not normalised."""

    config: CLIPConfig

    def setup(self):
        self.text = CLIPTextModel(self.config.text, **self.types)
        self.vision = CLIPVisionModel(self.config.vision, **self.types)
        self.text_projection = Dense(self.config.text.projection_dim, use_bias=False, **self.types)

    def embed_images(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        """Images of `image_size`, normalised by CLIP's mean and deviation → the space shared with texts."""
        return self.vision(images).embedding

    def embed_texts(self, token_ids: Int[Array, "b l"]) -> Float[Array, "b e"]:
        """Padded texts → the space shared with images."""
        return self.text_projection(self.text(token_ids).pooled)

    def __call__(
        self, images: Float[Array, "b h w 3"], token_ids: Int[Array, "b l"]
    ) -> tuple[Float[Array, "b e"], Float[Array, "b e"]]:
        return self.embed_images(images), self.embed_texts(token_ids)

    def example_inputs(self) -> tuple[Float[Array, "1 h w 3"], Int[Array, "1 l"]]:
        # Modules of `setup` are bound inside `apply` only, so that the towers' own examples are out of reach.
        size = self.config.vision.image_size
        return jnp.zeros((1, size, size, 3)), jnp.zeros((1, 1), jnp.int32)
