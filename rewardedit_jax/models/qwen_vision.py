"""The vision tower of Qwen2.5-VL: patches of images of any shape → one feature per 2×2 block of patches.

Bai et al., "Qwen2.5-VL Technical Report" (2025), section 2.1. Parameters have the names of the Hugging Face files.
`vision_plan` makes the index arrays. Axes: n images, p padded patches of an image, w windows, s slots of a window,
d width, f features (p / 4).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, RMSNorm, SwiGLU, TypedModule, rotary_angles, rotate, shard_batch_axis
from rewardedit_jax.models.remat import Remat, rematerialised
from rewardedit_jax.models.vision_plan import VisionPlan, plan_images

Heads = Float[Array, "n p h e"]  # h heads of width e
Patches = Float[Array, "n p d"]
Angles = Float[Array, "n p a"]  # rotary, one per pair of elements of a head

# Columns of the first, rows of the second kernel over "tensor": one reduction per attention, MLP and merger.
PARTITION_RULES = (
    (r"(.*/)?patch_embed/proj/kernel", P(None, "fsdp")),
    (r"(.*/)?blocks_\d+/attn/qkv/kernel", P("fsdp", "tensor")),
    (r"(.*/)?blocks_\d+/attn/proj/kernel", P("tensor", "fsdp")),
    (r"(.*/)?blocks_\d+/mlp/(gate|up)_proj/kernel", P("fsdp", "tensor")),
    (r"(.*/)?blocks_\d+/mlp/down_proj/kernel", P("tensor", "fsdp")),
    (r"(.*/)?merger/mlp_0/kernel", P("fsdp", "tensor")),
    (r"(.*/)?merger/mlp_2/kernel", P("tensor", "fsdp")),
    (r".*/(bias|scale)", P()),  # small; replicated
)
# Constants of transformers' Qwen2_5_VLVisionBlock and Qwen2_5_VisionRotaryEmbedding; no config.json sets them.
_EPSILON = 1e-6
_THETA = 10_000.0


@dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
    """Sizes of the vision tower, under Hugging Face's names; the defaults are Qwen2.5-VL-7B's."""

    depth: int = 32
    hidden_size: int = 1280
    num_heads: int = 16
    intermediate_size: int = 3420
    out_hidden_size: int = 3584
    patch_size: int = 14
    temporal_patch_size: int = 2  # frames of a patch; a still image is repeated
    spatial_merge_size: int = 2
    window_size: int = 112  # side of an attention window, in pixels
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)  # blocks that attend to the whole image
    hidden_act: str = "silu"
    in_channels: int = 3

    def __post_init__(self):
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act={self.hidden_act!r}: expected 'silu'")
        if self.in_channels != 3:
            raise ValueError(f"in_channels={self.in_channels}: only RGB images (3) are supported")
        if self.hidden_size % (4 * self.num_heads):  # rotary pairs, half of them for rows and half for columns
            raise ValueError(f"hidden_size={self.hidden_size}: expected a multiple of 4 * num_heads={self.num_heads}")
        if self.window_blocks < 1 or self.window_size % (self.patch_size * self.spatial_merge_size):
            raise ValueError(
                f"window_size={self.window_size}: expected a positive multiple of patch_size * spatial_merge_size="
                f"{self.patch_size * self.spatial_merge_size}"
            )
        if any(not 0 <= i < self.depth for i in self.fullatt_block_indexes):
            raise ValueError(
                f"fullatt_block_indexes={self.fullatt_block_indexes}: expected block numbers below depth={self.depth}"
            )

    @property
    def window_blocks(self) -> int:
        """Merge blocks along one side of a window."""
        return self.window_size // (self.patch_size * self.spatial_merge_size)

    @property
    def patch_values(self) -> int:
        """Values in one patch, over channels, frames, rows and columns."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "QwenVisionConfig":
        """The config in a Hugging Face `vision_config`. Raises ValueError naming an unsupported setting."""
        if config.get("model_type", "qwen2_5_vl") not in ("qwen2_5_vl", "qwen2_5_vl_vision"):
            raise ValueError(f"vision_config.model_type={config['model_type']!r}: expected 'qwen2_5_vl'")
        given = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
        if "fullatt_block_indexes" in given:  # a list in JSON; a tuple keeps the config hashable
            given["fullatt_block_indexes"] = tuple(given["fullatt_block_indexes"])
        return cls(**given)

    def to_hf(self) -> dict[str, Any]:
        """The `vision_config` that transformers reads."""
        settings = {**asdict(self), "fullatt_block_indexes": list(self.fullatt_block_indexes)}
        return {"model_type": "qwen2_5_vl", **settings}


class PatchEmbedding(TypedModule):
    """One dense layer, without bias, on flattened patches in the column order of `pixel_values`."""

    width: int

    @nn.compact
    def __call__(self, patches: Float[Array, "n p c"]) -> Patches:
        # The published Conv3d has strides as long as its kernel, which is the same linear map.
        return Dense(self.width, use_bias=False, **self.types, name="proj")(patches)


class VisionAttention(TypedModule):
    """Self-attention with rotary positions, over the whole image (`full`) or within windows."""

    config: QwenVisionConfig
    full: bool = False

    @nn.compact
    def __call__(self, x: Patches, angles: Angles, plan: VisionPlan) -> Patches:
        heads = self.config.num_heads
        qkv = Dense(3 * x.shape[-1], **self.types, name="qkv")(x).reshape(*x.shape[:2], 3, heads, -1)
        query, key, value = rotate(qkv[:, :, 0], angles), rotate(qkv[:, :, 1], angles), qkv[:, :, 2]
        if self.full:
            out = attention(query, key, value, plan.mask[:, None, None])
        else:
            out = _windowed_attention(query, key, value, plan)
        return Dense(x.shape[-1], **self.types, name="proj")(out.reshape(x.shape))


def _windowed_attention(query: Heads, key: Heads, value: Heads, plan: VisionPlan) -> Heads:
    """Attention with windows as the batch axis: patches are gathered into window slots, and results back."""
    n, windows, slots = plan.window_patches.shape

    def to_windows(x):
        return _take(x, plan.window_patches.reshape(n, -1)).reshape(n * windows, slots, *x.shape[2:])

    mask = _visible_slots(plan.window_mask).reshape(-1, 1, 1, slots)
    out = attention(*map(to_windows, (query, key, value)), mask)
    return _take(out.reshape(n, windows * slots, *out.shape[2:]), plan.window_slots)


def _visible_slots(held: Bool[Array, "n w s"]) -> Bool[Array, "n w s"]:
    """The key mask of each window: the slots that hold a patch, or all slots of an empty window."""
    # A softmax over no key is NaN in kernels that mask with -inf. Results of empty windows are never read.
    return held | ~held.any(axis=-1, keepdims=True)


def _take(x: Float[Array, "n i h e"], index: Any) -> Float[Array, "n o h e"]:
    return jnp.take_along_axis(x, index[:, :, None, None], axis=1)


class VisionBlock(TypedModule):
    """A pre-norm transformer block."""

    config: QwenVisionConfig
    full: bool = False

    @nn.compact
    def __call__(self, x: Patches, angles: Angles, plan: VisionPlan) -> Patches:
        norm = partial(RMSNorm, _EPSILON, **self.types)
        attend = VisionAttention(self.config, self.full, **self.types, name="attn")
        x = x + attend(norm(name="norm1")(x), angles, plan)
        mlp = SwiGLU(self.config.intermediate_size, use_bias=True, **self.types, name="mlp")
        return x + mlp(norm(name="norm2")(x))


class PatchMerger(TypedModule):
    """One feature per merge block: its patches are normalised, concatenated and projected to the text width."""

    config: QwenVisionConfig

    @nn.compact
    def __call__(self, x: Patches) -> Float[Array, "n f o"]:
        width = self.config.spatial_merge_size**2 * x.shape[-1]
        # The patches of a merge block are adjacent (`vision_plan`), so that a reshape joins them.
        joined = RMSNorm(_EPSILON, **self.types, name="ln_q")(x).reshape(x.shape[0], -1, width)
        hidden = jax.nn.gelu(Dense(width, **self.types, name="mlp_0")(joined), approximate=False)
        return Dense(self.config.out_hidden_size, **self.types, name="mlp_2")(hidden)


class QwenVision(TypedModule):
    """The vision tower: padded patches → features. `remat`: what of a block is computed twice."""

    config: QwenVisionConfig
    remat: Remat = "none"

    @nn.compact
    def __call__(self, patches: Float[Array, "n p c"], plan: VisionPlan) -> Float[Array, "n f o"]:
        """Features in row-major order within each image, zero at padding. Images do not affect each other."""
        c, plan = self.config, jax.tree.map(jnp.asarray, plan)
        block = rematerialised(VisionBlock, self.remat)
        # The first half of a head's pairs follows the row, the second half the column.
        pairs = c.hidden_size // c.num_heads // 4
        angles = jnp.concatenate([rotary_angles(at, pairs, _THETA) for at in (plan.rows, plan.columns)], axis=-1)
        x = PatchEmbedding(c.hidden_size, **self.types, name="patch_embed")(patches)
        # XLA would divide the channels instead, as the kernels are, and add up the activations of all images.
        x = shard_batch_axis(x)
        for i in range(c.depth):
            full = i in c.fullatt_block_indexes
            x = block(c, full, **self.types, name=f"blocks_{i}")(x, angles, plan)
        # Features of padding are computed from zeros and biases; zero is what callers may rely on.
        features = PatchMerger(c, **self.types, name="merger")(x)
        real = plan.mask[:, :: c.spatial_merge_size**2]
        return jnp.where(real[..., None], features, 0)

    def example_inputs(self) -> tuple[Float[Array, "1 p c"], VisionPlan]:
        merge = self.config.spatial_merge_size
        plan = plan_images(np.array([[1, merge, merge]]), self.config)
        return jnp.zeros((1, merge**2, self.config.patch_values)), plan
