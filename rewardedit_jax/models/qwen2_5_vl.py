"""Qwen2.5-VL without its output layer: vision tower, decoder, and the inputs of the Hugging Face processor.

Bai et al., "Qwen2.5-VL Technical Report" (2025). The backbone of EditReward (`edit_reward`, which adds reward token and
heads). Parameters: `visual`, `decoder`. Axes: b rows, l tokens, n images, p patches and f features of an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rewardedit_jax.models import decoder, qwen_vision
from rewardedit_jax.models.decoder import Decoder, DecoderConfig, causal_mask
from rewardedit_jax.models.layers import TypedModule
from rewardedit_jax.models.qwen_vision import QwenVision, QwenVisionConfig
from rewardedit_jax.models.remat import Remat
from rewardedit_jax.models.vision_plan import VisionPlan, feature_slots, pad_patches, plan_images, real_features

PARTITION_RULES = (
    *((f"visual/{path}", spec) for path, spec in qwen_vision.PARTITION_RULES),
    *((f"decoder/{path}", spec) for path, spec in decoder.PARTITION_RULES),
)
POSITIONS = ("plain", "mrope")


@dataclass(frozen=True, kw_only=True)
class Qwen2_5VLConfig:
    """Sizes of vision tower and decoder, and how tokens are numbered."""

    text: DecoderConfig = field(default_factory=DecoderConfig)
    vision: QwenVisionConfig = field(default_factory=QwenVisionConfig)
    # "mrope" numbers image tokens by row and column, as the base model was trained; "plain" all tokens 0, 1, 2, ...
    positions: str = "mrope"
    image_token_id: int = 151_655

    def __post_init__(self):
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: expected one of {', '.join(POSITIONS)}")
        if self.positions == "mrope" and self.text.mrope_section is None:
            raise ValueError("positions='mrope': the text model needs an mrope_section, or take positions='plain'")
        if self.vision.out_hidden_size != self.text.hidden_size:
            raise ValueError(
                f"out_hidden_size={self.vision.out_hidden_size} of the vision tower: expected the text model's "
                f"hidden_size={self.text.hidden_size}"
            )

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], **settings: Any
    ) -> "Qwen2_5VLConfig":
        """The config in a Hugging Face config.json of Qwen2.5-VL. Raises ValueError naming an unsupported setting.

        Args:
          shapes: of the checkpoint's tensors, by name.
          settings: further fields.
        """
        # config.json files of reward models may still have the base model's `vocab_size`. The tensors decide.
        rows = [shape[0] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} tensors named *embed_tokens.weight: expected one")
        if not config.get("vision_config"):
            raise ValueError("vision_config is missing: expected a Qwen2.5-VL, not a text model")
        # Older files have the text settings at the top level, newer ones under text_config.
        text = {**config, **(config.get("text_config") or {}), "vocab_size": rows[0], "text_config": None}
        vision = QwenVisionConfig.from_hf(config["vision_config"])
        image_token_id = config.get("image_token_id", cls.image_token_id)
        return cls(text=DecoderConfig.from_hf(text), vision=vision, image_token_id=image_token_id, **settings)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads."""
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "text_config": self.text.to_hf(),
            "vision_config": self.vision.to_hf(),
            "image_token_id": self.image_token_id,
            # Our files have no output layer. With tied embeddings, transformers does not miss its weights.
            "tie_word_embeddings": True,
        }


@flax.struct.dataclass
class ImageFeatures:
    """The vision tower's output for n images. Leaves are `Any`, as `jax.eval_shape` fills them with shapes."""

    values: Any  # float[n f d], zero at padding
    rows: Any  # int32[n f], row of the feature in its image, counted in features; 0 at padding
    columns: Any  # int32[n f], column of the feature


@flax.struct.dataclass
class TokenStates:
    """The decoder's output for rows of tokens. Leaves are `Any`, as in `ImageFeatures`."""

    hidden: Any  # float[b l d], after the final norm
    image_features: Any  # float32[features d], of all images in order, without padding


class Qwen2_5VL(TypedModule):
    """Vision tower and decoder. `remat`: what of a block is computed twice."""

    config: Qwen2_5VLConfig
    remat: Remat = "none"

    def setup(self):
        self.visual = QwenVision(self.config.vision, self.remat, **self.types)
        self.decoder = Decoder(self.config.text, self.remat, **self.types)

    def __call__(
        self,
        input_ids: Int[Array | np.ndarray, "b l"],
        attention_mask: Int[Array | np.ndarray, "b l"],
        pixel_values: Float[Array | np.ndarray, "patches c"],
        image_grid_thw: Int[np.ndarray, "n 3"],
    ) -> TokenStates:
        """Hidden states of rows in the layout of the Hugging Face processor.

        Args:
          input_ids: contain one image token per feature, over all rows.
          attention_mask: 1 at tokens, 0 at padding, which is on the right.
          pixel_values: normalised patches of all images, one image after the other.
          image_grid_thw: (1, height, width) of each image in patches; concrete, as array shapes depend on it.

        Raises ValueError as `check_inputs` does.
        """
        grids, merge = np.asarray(image_grid_thw), self.config.vision.spatial_merge_size
        check_inputs(self.config, input_ids, attention_mask, grids)
        ids, mask = jnp.asarray(input_ids), jnp.asarray(attention_mask, bool)
        images = self.encode(jnp.asarray(pad_patches(pixel_values, grids)), plan_images(grids, self.config.vision))
        slots = image_slots(self.config, ids, mask, grids)
        positions = self.number_tokens(jnp.where(mask, jnp.cumsum(mask, axis=1) - 1, 0), slots, images)
        segments = jnp.where(mask, 0, -1)  # one prompt per row
        hidden = self.decoder(self.embed(ids, slots, images), positions, causal_mask(segments))
        return TokenStates(hidden, real_features(images.values, grids, merge).astype(jnp.float32))

    def encode(self, patches: Float[Array, "n p c"], plan: VisionPlan) -> ImageFeatures:
        """Features of images. Each depends on its image alone, so that all prompts about an image can share them."""
        merge = self.config.vision.spatial_merge_size
        # Patches of a merge block are adjacent, and the first of them is its upper left corner.
        rows, columns = (jnp.asarray(at)[:, :: merge**2] // merge for at in (plan.rows, plan.columns))
        return ImageFeatures(self.visual(patches, plan), rows, columns)

    def embed(self, ids: Int[Array, "b l"], slots: Int[Array, "b l"], images: ImageFeatures) -> Float[Array, "b l d"]:
        """Token embeddings, with image features in place of image tokens. `slots` as of `image_slots`."""
        x = self.decoder.embed(ids)
        # At text, slot -1 looks up the last feature, which `where` discards.
        features = images.values.reshape(-1, x.shape[-1])[slots]
        return jnp.where(slots[..., None] >= 0, features, x)

    def number_tokens(
        self, positions: Int[Array, "b l"], slots: Int[Array, "b l"], images: ImageFeatures
    ) -> Int[Array, "b l"] | Int[Array, "3 b l"]:
        """The decoder's positions of tokens that are numbered 0, 1, 2, ... in their prompt."""
        if self.config.positions == "plain":
            return positions
        return multimodal_positions(positions, slots, images.rows, images.columns)

    def example_inputs(self) -> tuple[Any, ...]:
        merge = self.config.vision.spatial_merge_size
        ids = np.array([[self.config.image_token_id, self.config.text.vocab_size - 1]])
        patches = np.zeros((merge**2, self.config.vision.patch_values), np.float32)
        return ids, np.ones_like(ids), patches, np.array([[1, merge, merge]])


def check_inputs(config: Qwen2_5VLConfig, ids: Any, mask: Any, grids: Int[np.ndarray, "n 3"]) -> None:
    """Raises ValueError for ids outside the vocabulary, or image tokens that do not match the image grids.

    JAX does not raise for indices out of bounds: negative ids and unmatched image tokens would give plausible numbers.
    Ids that `jax.jit` traces are not checked.
    """
    if isinstance(ids, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    ids, seen, last = np.asarray(ids), np.asarray(mask) > 0, config.text.vocab_size - 1
    is_image = seen & (ids == config.image_token_id)
    words = ids[seen & ~is_image]
    if ((words < 0) | (words > last)).any():
        raise ValueError(f"input_ids has ids {words.min()}..{words.max()}: expected 0..{last}, the embedding rows")
    tokens, features = is_image.sum(), grids.prod(axis=1).sum() // config.vision.spatial_merge_size**2
    if tokens != features:
        raise ValueError(f"input_ids has {tokens} image tokens (id {config.image_token_id}): expected {features}")


def image_slots(
    config: Qwen2_5VLConfig, ids: Int[Array, "b l"], mask: Bool[Array, "b l"], grids: Int[np.ndarray, "n 3"]
) -> Int[Array, "b l"]:
    """For each image token, the index of its feature among the flattened padded features; -1 at other tokens."""
    is_image = (ids == config.image_token_id) & mask
    # Image tokens take the features in order, over all rows of the batch.
    number = jnp.cumsum(is_image.ravel()).reshape(ids.shape) - 1
    slots = jnp.asarray(feature_slots(grids, config.vision.spatial_merge_size))
    return jnp.where(is_image, slots[number], -1)


def multimodal_positions(
    positions: Int[Array, "b l"], slots: Int[Array, "b l"], rows: Int[Array, "n f"], columns: Int[Array, "n f"]
) -> Int[Array, "3 b l"]:
    """Positions (frame, row, column) of multimodal RoPE ("Qwen2-VL", 2024, section 2.1).

    Text has the same number on all axes. The tokens of an image share the frame and count its rows and columns. The
    text behind an image continues after the image's longer side.

    Args:
      positions: the number of each token in its prompt.
      slots: image · f + feature at image tokens, -1 at text.
      rows, columns: of each feature in its image, counted in features; 0 at padding.
    """
    is_image = slots >= 0
    image, feature = (jnp.where(is_image, x, 0) for x in jnp.divmod(slots, rows.shape[1]))
    span = jnp.maximum(rows, columns).max(axis=1)[image] + 1  # of the token's image
    begins = is_image & (feature == 0)
    # Each image up to here counts as its longer side instead of as the number of its tokens.
    before = jnp.cumsum(jnp.where(begins, span, 0), axis=1) - jnp.cumsum(is_image, axis=1)
    text = positions + before
    start = text - span + 1  # of the token's own image, whose span and tokens up to here are part of `before`
    axes = [jnp.zeros_like(feature), rows[image, feature], columns[image, feature]]
    return jnp.stack([jnp.where(is_image, start + at, text) for at in axes])
