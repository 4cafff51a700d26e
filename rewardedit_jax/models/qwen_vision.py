"""The vision tower of Qwen2.5-VL: patches of images of any shape → one feature per 2×2 block of patches.

Bai et al., "Qwen2.5-VL Technical Report" (2025). Parameters carry the names of the Hugging Face files. Axes: n images,
p padded patches of an image, w windows, s slots of a window, d width, f features (p / 4). `vision_plan` makes the plan.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Part, RMSNorm
from rewardedit_jax.models.rotary import rotary_angles, rotate
from rewardedit_jax.models.vision_plan import VisionPlan, plan_images

# Column-split, then row-split: one reduction over "tensor" per attention, MLP and merger.
PARTITION_RULES = (
    (r"(.*/)?patch_embed/proj/kernel", P(None, "fsdp")),
    (r"(.*/)?blocks_\d+/attn/qkv/kernel", P("fsdp", "tensor")),
    (r"(.*/)?blocks_\d+/attn/proj/kernel", P("tensor", "fsdp")),
    (r"(.*/)?blocks_\d+/mlp/(gate|up)_proj/kernel", P("fsdp", "tensor")),
    (r"(.*/)?blocks_\d+/mlp/down_proj/kernel", P("tensor", "fsdp")),
    (r"(.*/)?merger/mlp_0/kernel", P("fsdp", "tensor")),
    (r"(.*/)?merger/mlp_2/kernel", P("tensor", "fsdp")),
    (r".*/(bias|scale)", P()),
)
_EPSILON = 1e-6
_THETA = 10_000.0


@dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
    """Sizes of the tower, under Hugging Face's names; the defaults are Qwen2.5-VL-7B's."""

    depth: int = 32
    hidden_size: int = 1280
    num_heads: int = 16
    intermediate_size: int = 3420
    out_hidden_size: int = 3584
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    hidden_act: str = "silu"
    in_channels: int = 3

    def __post_init__(self):
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported: only 'silu' is")
        if self.in_channels != 3:
            raise ValueError(f"in_channels {self.in_channels} is not supported: images have 3")
        if self.hidden_size % (4 * self.num_heads):  # halves for rows and columns, each of pairs
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of 4 * num_heads {self.num_heads}")
        if self.window_blocks < 1 or self.window_size % (self.patch_size * self.spatial_merge_size):
            raise ValueError(f"window_size {self.window_size} is no positive multiple of patch_size * merge size")
        if any(not 0 <= i < self.depth for i in self.fullatt_block_indexes):
            raise ValueError(f"fullatt_block_indexes {self.fullatt_block_indexes} must lie below depth {self.depth}")

    @property
    def window_blocks(self) -> int:
        """Merge blocks along a side of a window."""
        return self.window_size // (self.patch_size * self.spatial_merge_size)

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: channels × frames × rows × columns."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "QwenVisionConfig":
        """The config in a Hugging Face `vision_config`. Raises ValueError if it asks for a network that this is not."""
        if config.get("model_type", "qwen2_5_vl") not in ("qwen2_5_vl", "qwen2_5_vl_vision"):
            raise ValueError(f"model_type {config['model_type']!r} is not a Qwen2.5-VL vision tower")
        given = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
        if "fullatt_block_indexes" in given:
            given["fullatt_block_indexes"] = tuple(given["fullatt_block_indexes"])
        return cls(**given)

    def to_hf(self) -> dict[str, Any]:
        settings = {**asdict(self), "fullatt_block_indexes": list(self.fullatt_block_indexes)}
        return {"model_type": "qwen2_5_vl", **settings}


class _Part(Part):
    """A part of the tower."""

    config: QwenVisionConfig

    def norm(self, name: str) -> RMSNorm:
        return RMSNorm(_EPSILON, dtype=self.dtype, param_dtype=self.param_dtype, name=name)


class PatchEmbedding(_Part):
    """One dense layer, without bias, on the flattened patch: the columns of `pixel_values` in their order."""

    @nn.compact
    def __call__(self, patches: Float[Array, "n p c"]) -> Float[Array, "n p d"]:
        return self.dense(self.config.hidden_size, "proj", use_bias=False)(patches)


class VisionAttention(_Part):
    """Self-attention with rotary positions, within windows or over the whole image."""

    full: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n p d"], angles: Float[Array, "n p a"], plan: VisionPlan
    ) -> Float[Array, "n p d"]:
        heads = self.config.num_heads
        qkv = self.dense(3 * x.shape[-1], "qkv")(x).reshape(*x.shape[:2], 3, heads, -1)
        query, key = rotate(qkv[:, :, 0], angles), rotate(qkv[:, :, 1], angles)
        attend = _whole if self.full else _windowed
        return self.dense(x.shape[-1], "proj")(attend(query, key, qkv[:, :, 2], plan).reshape(x.shape))


def _whole(
    query: Float[Array, "n p h e"], key: Float[Array, "n p h e"], value: Float[Array, "n p h e"], plan: VisionPlan
) -> Float[Array, "n p h e"]:
    return attention(query, key, value, plan.mask[:, None, None])


def _windowed(
    query: Float[Array, "n p h e"], key: Float[Array, "n p h e"], value: Float[Array, "n p h e"], plan: VisionPlan
) -> Float[Array, "n p h e"]:
    n, windows, slots = plan.window_patches.shape

    def to_windows(x):
        return _take(x, plan.window_patches.reshape(n, -1)).reshape(n * windows, slots, *x.shape[2:])

    out = attention(*map(to_windows, (query, key, value)), _visible(plan.window_mask).reshape(-1, 1, 1, slots))
    return _take(out.reshape(n, windows * slots, *out.shape[2:]), plan.window_slots)


def _visible(held: Bool[Array, "n w s"]) -> Bool[Array, "n w s"]:
    """Windows that hold nothing see all their slots: a softmax over no key is undefined in some kernels."""
    return held | ~held.any(axis=-1, keepdims=True)


def _take(x: Float[Array, "n i h e"], index: Any) -> Float[Array, "n o h e"]:
    return jnp.take_along_axis(x, index[:, :, None, None], axis=1)


class MLP(_Part):
    """SwiGLU with biases."""

    @nn.compact
    def __call__(self, x: Float[Array, "n p d"]) -> Float[Array, "n p d"]:
        gate, up = (self.dense(self.config.intermediate_size, name)(x) for name in ("gate_proj", "up_proj"))
        return self.dense(x.shape[-1], "down_proj")(nn.silu(gate) * up)


class VisionBlock(_Part):
    """A pre-norm transformer block."""

    full: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n p d"], angles: Float[Array, "n p a"], plan: VisionPlan
    ) -> Float[Array, "n p d"]:
        attend = self.part(VisionAttention, "attn", full=self.full)
        x = x + attend(self.norm("norm1")(x), angles, plan)
        return x + self.part(MLP, "mlp")(self.norm("norm2")(x))


class PatchMerger(_Part):
    """The patches of a merge block, normalised and joined, → one feature of the text model's width."""

    @nn.compact
    def __call__(self, x: Float[Array, "n p d"]) -> Float[Array, "n f o"]:
        width = self.config.spatial_merge_size**2 * x.shape[-1]
        joined = self.norm("ln_q")(x).reshape(x.shape[0], -1, width)
        hidden = jax.nn.gelu(self.dense(width, "mlp_0")(joined), approximate=False)
        return self.dense(self.config.out_hidden_size, "mlp_2")(hidden)


class QwenVision(_Part):
    """Padded patches → features. With `remat`, blocks are recomputed on the way back."""

    remat: bool = False

    @nn.compact
    def __call__(self, patches: Float[Array, "n p c"], plan: VisionPlan) -> Float[Array, "n f o"]:
        """Features row-major within each image, zero at padding; an image's depend on that image alone."""
        plan = jax.tree.map(jnp.asarray, plan)
        block = nn.remat(VisionBlock) if self.remat else VisionBlock
        angles = self._angles(plan)
        x = self.part(PatchEmbedding, "patch_embed")(patches)
        for i in range(self.config.depth):
            full = i in self.config.fullatt_block_indexes
            x = self.part(block, f"blocks_{i}", full=full)(x, angles, plan)
        features = self.part(PatchMerger, "merger")(x)
        real = plan.mask[:, :: self.config.spatial_merge_size**2]
        return jnp.where(real[..., None], features, 0)

    def _angles(self, plan: VisionPlan) -> Float[Array, "n p a"]:
        """Of a head's pairs the first half turns with the patch's row, the second with its column."""
        pairs = self.config.hidden_size // self.config.num_heads // 4
        return jnp.concatenate([rotary_angles(at, pairs, _THETA) for at in (plan.rows, plan.columns)], axis=-1)

    def example_inputs(self) -> tuple[Float[Array, "1 p c"], VisionPlan]:
        """The smallest inputs that reach every parameter."""
        merge = self.config.spatial_merge_size
        plan = plan_images(np.array([[1, merge, merge]]), self.config)
        return jnp.zeros((1, merge**2, self.config.patch_values)), plan
