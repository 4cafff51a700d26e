"""DINO's and DINOv2's vision transformers, which describe images without texts.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (2021); Oquab et al., "DINOv2: Learning
Robust Visual Features without Supervision" (2023). Images may have any size: positions are resized (`models.patches`).
Axes: b batch, n patches plus the class token, d width.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from rewardedit_jax.models import encoder, patches
from rewardedit_jax.models.encoder import Encoder, EncoderConfig, check_rgb
from rewardedit_jax.models.layers import LayerNorm, TypedModule
from rewardedit_jax.models.patches import PatchEmbeddings

PARTITION_RULES = (
    *patches.PARTITION_RULES,
    (r"encoder/layers_\d+/layer_scale[12]", P()),
    *encoder.PARTITION_RULES,
)


@dataclass(frozen=True, kw_only=True)
class _TransformerConfig(EncoderConfig):
    """The settings that both models have, for square RGB images; the defaults are Hugging Face's."""

    _architecture: ClassVar[str]

    hidden_size: int = 768
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    num_channels: int = 3
    image_size: int = 224  # that positions are learned for
    qkv_bias: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_rgb(self.num_channels)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads."""
        return {"architectures": [self._architecture], "model_type": self._model_type, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class ViTConfig(_TransformerConfig):
    """Sizes of a ViT, such as DINO's ViT-S/16; the defaults are ViT-B/16's."""

    _model_type, _architecture = "vit", "ViTModel"

    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-12
    patch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class Dinov2Config(_TransformerConfig):
    """Sizes of a DINOv2; the defaults are ViT-B/14's."""

    _model_type, _architecture = "dinov2", "Dinov2Model"

    mlp_ratio: int = 4
    layer_norm_eps: float = 1e-6
    patch_size: int = 14
    layerscale_value: float = 1.0
    use_swiglu_ffn: bool = False  # True: ViT-g/14

    @property
    def gated(self) -> bool:
        return self.use_swiglu_ffn

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP; a gated one has two thirds of it, rounded up to a multiple of 8."""
        width = self.hidden_size * self.mlp_ratio
        return (width * 2 // 3 + 7) // 8 * 8 if self.gated else width


class _VisionTransformer(TypedModule):
    """Images, normalised by ImageNet's mean and deviation → states after the last norm, the class token first."""

    config: _TransformerConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        config = self.config
        embed = PatchEmbeddings(
            config.hidden_size, config.patch_size, config.image_size, use_bias=True, **self.types, name="embeddings"
        )
        *_, x = Encoder(config, **self.types, name="encoder")(embed(images))
        return LayerNorm(config.layer_norm_eps, **self.types, name="layernorm")(x)

    def class_token(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """What describes an image as a whole: the first of the states."""
        return self(images)[:, 0]

    def example_inputs(self) -> tuple[Float[Array, "1 h w 3"]]:
        return (jnp.zeros((1, self.config.patch_size, self.config.patch_size, 3)),)


class ViTModel(_VisionTransformer):
    """The ViT of DINO."""

    config: ViTConfig


class Dinov2Model(_VisionTransformer):
    """DINOv2: a ViT whose branches are scaled, with a gated MLP in its largest size."""

    config: Dinov2Config
