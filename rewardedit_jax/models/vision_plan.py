"""Index arrays for images of different shapes: padding, rotary positions and attention windows. Computed in NumPy.

Patches are in the order of the Hugging Face processor: row-major over merge blocks, row-major within a block.
Axes: n images, P padded patches of an image, W padded windows of an image, S slots of a window.
"""

import math
from typing import Any

import flax
import numpy as np
from jaxtyping import Array, Float, Int, Num


@flax.struct.dataclass
class VisionPlan:
    """Index arrays of a batch of images. Leaves are `Any`, as `jax.eval_shape` fills them with shapes.

    Indices at padding are 0, which is a valid index: only the masks distinguish padding.
    """

    rows: Any  # int32[n P], row of the patch in its image, 0..h-1
    columns: Any  # int32[n P], column of the patch, 0..w-1
    mask: Any  # bool[n P], True at real patches, which come first
    window_patches: Any  # int32[n W S], index of the patch in each slot, 0..P-1
    window_mask: Any  # bool[n W S], True at slots that hold a patch
    window_slots: Any  # int32[n P], flat slot index of each patch, 0..W*S-1


def plan_images(grids: Int[np.ndarray, "n 3"], config: Any, patches: int | None = None) -> VisionPlan:
    """The `VisionPlan` of images.

    Args:
      grids: (t, height, width) of each image, in patches; t must be 1.
      config: a `QwenVisionConfig`.
      patches: the number that images are padded to; None: that of the largest image. It also determines the number
        of windows, except for extreme aspect ratios, so that equal `patches` give one compiled program.

    Raises ValueError for a video, a side that is not a positive multiple of the merge size, or too few patches.
    """
    patches = padded_patches(grids, patches)
    merge, side = config.spatial_merge_size, config.window_blocks
    for grid in grids.tolist():
        if any(length < merge or length % merge for length in grid[1:]):
            raise ValueError(f"image grid {grid}: expected height and width in positive multiples of {merge} patches")
    counts = [-(-h // (merge * side)) * -(-w // (merge * side)) for _, h, w in grids.tolist()]
    if patches % merge**2:
        raise ValueError(f"patches={patches}: expected a multiple of {merge**2}, the patches of a merge block")
    return _fill(grids, merge, side, patches, _padded_windows(patches, (merge * side) ** 2, max(counts)))


def _padded_windows(patches: int, size: int, needed: int) -> int:
    """The number of windows that images of up to `patches` patches are padded to; at least `needed`."""
    full = patches / size
    # The right and lower edges cut up to 2 · sqrt(full) further windows. 1.5 is enough for usual sizes. Images that
    # need more take a multiple, so that there are few compiled programs.
    usual = math.ceil(full + 1.5 * math.sqrt(full))
    return usual * math.ceil(needed / usual)


def _fill(grids: Int[np.ndarray, "n 3"], merge: int, side: int, patches: int, windows: int) -> VisionPlan:
    """The plan's arrays, image by image, with zeros at padding."""
    n, shape = len(grids), (len(grids), windows, (side * merge) ** 2)
    rows, columns, slots = (np.zeros((n, patches), np.int32) for _ in range(3))
    mask = np.arange(patches) < grids.prod(axis=1)[:, None]
    window_patches, window_mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i, (_, h, w) in enumerate(grids.tolist()):
        rows[i, : h * w], columns[i, : h * w], at = _image(h, w, merge, side)
        slots[i, : h * w] = at
        # Slots are numbered over all windows of an image: `flat` has them on one axis.
        window_patches[i].flat[at], window_mask[i].flat[at] = np.arange(h * w), True
    return VisionPlan(rows, columns, mask, window_patches, window_mask, slots)


def _image(h: int, w: int, merge: int, side: int) -> tuple[Int[np.ndarray, " p"], ...]:
    """Row, column and flat window slot of each patch of one image."""
    # From row-major patches to the order of the processor.
    blocks = (a.reshape(h // merge, merge, w // merge, merge) for a in np.indices((h, w)))
    rows, columns = (a.transpose(0, 2, 1, 3).ravel() for a in blocks)
    span = side * merge  # patches along one side of a window
    window = rows // span * -(-w // span) + columns // span
    return rows, columns, window * span**2 + rows % span * span + columns % span


def padded_patches(grids: Int[np.ndarray, "n 3"], patches: int | None = None) -> int:
    """`patches`, by default that of the largest image. Raises ValueError for no image, a video, or too few."""
    if not len(grids):
        raise ValueError("image grids are empty: expected at least one image")
    if (grids[:, 0] != 1).any():
        raise ValueError(f"image grids with t={sorted(set(grids[:, 0].tolist()))}: expected still images, t=1")
    most = int(grids.prod(axis=1).max())
    if patches is not None and patches < most:
        raise ValueError(f"patches={patches}: the largest image has {most} patches; raise it")
    return most if patches is None else patches


def pad_patches(
    pixel_values: Num[Array | np.ndarray, "total c"], grids: Int[np.ndarray, "n 3"], patches: int | None = None
) -> Num[Array | np.ndarray, "n p c"]:
    """Concatenated patches of images → one row per image, padded with zeros, of the same type.

    Raises ValueError if the grids do not add up to the number of patches, or as `padded_patches` does.
    """
    patches, counts = padded_patches(grids, patches), grids.prod(axis=1)
    if len(pixel_values) != counts.sum():
        raise ValueError(f"pixel_values has {len(pixel_values)} patches: the image grids have {counts.sum()}")
    at, real = np.arange(patches), np.arange(patches) < counts[:, None]
    first = np.cumsum(counts) - counts
    return pixel_values[np.where(real, first[:, None] + at, 0)] * real[..., None]


def real_features(
    features: Float[Array | np.ndarray, "n f d"], grids: Int[np.ndarray, "n 3"], merge: int = 2
) -> Float[Array | np.ndarray, "total d"]:
    """The features of real merge blocks, image after image: `features` without padding."""
    return features.reshape(-1, features.shape[-1])[feature_slots(grids, merge, features.shape[1])]


def feature_slots(grids: Int[np.ndarray, "n 3"], merge: int = 2, width: int | None = None) -> Int[np.ndarray, " total"]:
    """Indices of real features, image after image, in the flattened padded features: `image · width + feature`.

    `width` is the padded number of features per image; None: that of the largest image.
    """
    counts = grids.prod(axis=1) // merge**2
    width = counts.max() if width is None else width
    return np.flatnonzero(np.arange(width) < counts[:, None])
