"""CLIP's image tower: the states of all its layers, and the projection to the space that it shares with texts.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Parameters have the
names of the Hugging Face files. Axes: b batch, n patches plus the class token, d width, e projected width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from rewardedit_jax.models import encoder, patches
from rewardedit_jax.models.clip_tower import TowerConfig
from rewardedit_jax.models.encoder import Encoder, check_rgb
from rewardedit_jax.models.layers import Dense, LayerNorm, TypedModule
from rewardedit_jax.models.patches import PatchEmbeddings

# Of the red, green and blue of the training images, in 0..1.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PARTITION_RULES = (
    (r"(.*/)?visual_projection/kernel", P("fsdp", "tensor")),
    *patches.PARTITION_RULES,
    *encoder.PARTITION_RULES,
)


def normalise_pixels(pixels: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images of 0..255 as the image tower takes them."""
    return (pixels / jnp.float32(255) - jnp.array(CLIP_MEAN)) / jnp.array(CLIP_STD)


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(TowerConfig):
    """Sizes of the image tower, for square RGB images; the defaults are ViT-B/32's."""

    _section, _model_type = "vision_config", "clip_vision_model"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        check_rgb(self.num_channels)

    @property
    def _architecture(self) -> str:
        return "CLIPVisionModel" if self.projection_dim is None else "CLIPVisionModelWithProjection"

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "CLIPVisionConfig":
        """As of `TowerConfig`; the tower of a `CLIPVisionModel` has no projection, whatever its settings say."""
        found = super().from_hf(config)
        bare = "CLIPVisionModel" in (config.get("architectures") or ())
        return replace(found, projection_dim=None) if bare else found


@flax.struct.dataclass
class VisionStates:
    """Outputs of the image tower. Leaves are `Any`, as `jax.eval_shape` fills them with shapes."""

    # float[b n d], class token first: the input of the first layer and the output of each layer. As Hugging Face's
    # `hidden_states`, none has passed post_layernorm.
    hidden: tuple[Any, ...]
    pooled: Any  # float[b d], the class token of the last layer after the post layer norm
    embedding: Any  # float[b e], pooled, projected; not normalised. None: the tower has no projection

    @property
    def last_hidden(self) -> Any:
        return self.hidden[-1]


class CLIPVisionModel(TypedModule):
    """The image tower with its projection: images → `VisionStates`."""

    config: CLIPVisionConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> VisionStates:
        """States of images that are normalised by `CLIP_MEAN` and `CLIP_STD`. Raises ValueError for another size."""
        config, size = self.config, (self.config.image_size,) * 2
        if images.shape[1:3] != size:
            raise ValueError(f"image size {images.shape[1:3]}: the image tower takes image_size={size}")
        norm = partial(LayerNorm, config.layer_norm_eps, **self.types)
        embed = PatchEmbeddings(
            config.hidden_size, config.patch_size, config.image_size, use_bias=False, **self.types, name="embeddings"
        )
        x = norm(name="pre_layrnorm")(embed(images))  # the spelling of the published tensor names
        hidden = Encoder(config, **self.types, name="encoder")(x)
        pooled = norm(name="post_layernorm")(hidden[-1][:, 0])
        if config.projection_dim is None:
            return VisionStates(hidden, pooled, embedding=None)
        project = Dense(config.projection_dim, use_bias=False, **self.types, name="visual_projection")
        return VisionStates(hidden, pooled, embedding=project(pooled))

    def example_inputs(self) -> tuple[Float[Array, "1 h w 3"]]:
        return (jnp.zeros((1, self.config.image_size, self.config.image_size, 3)),)
