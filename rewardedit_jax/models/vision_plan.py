"""Where the patches of differently shaped images lie: padding, rotary positions and attention windows, in NumPy.

Patches come as the Hugging Face processor orders them: row-major over merge blocks, row-major within a block.
Axes: n images, P padded patches of an image, W padded windows of an image, S slots of a window.
"""

import math
from typing import Any

import flax
import numpy as np
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class VisionPlan:
    """Index arrays of a batch of images, images leading. Leaves are `Any`: under `jax.eval_shape` they are shapes.

    Indices at padding are 0 and must be read under the masks.
    """

    rows: Any  # int32[n P], the patch's row in its image, 0..h-1
    columns: Any  # int32[n P], its column, 0..w-1
    mask: Any  # bool[n P], True at real patches, which come first
    window_patches: Any  # int32[n W S], the patch in each slot, 0..P-1
    window_mask: Any  # bool[n W S], True at slots that hold a patch
    window_slots: Any  # int32[n P], the flat slot of each patch, 0..W*S-1


def plan_images(grids: Int[np.ndarray, "n 3"], config: Any, patches: int | None = None) -> VisionPlan:
    """The plan of images with these grids (t, h, w in patches; t must be 1).

    `patches` is what images are padded to; None is what the largest one here has. The number of windows follows from
    it, but for images of extreme aspect: equal `patches` mean one compiled program.

    Raises:
      ValueError: for a video, a side that is no positive multiple of the merge size, or too few patches.
    """
    patches = padded_patches(grids, patches)
    merge, side = config.spatial_merge_size, config.window_blocks
    _check_sides(grids, merge)
    counts = [-(-h // (merge * side)) * -(-w // (merge * side)) for _, h, w in grids.tolist()]
    if patches % merge**2:
        raise ValueError(f"patches {patches} is no multiple of the {merge**2} patches that are merged")
    return _fill(grids, merge, side, patches, _padded_windows(patches, (merge * side) ** 2, max(counts)))


def _padded_windows(patches: int, size: int, needed: int) -> int:
    """Windows of `size` slots for images of up to so many patches, whatever their usual aspect; long ones need more."""
    full = patches / size
    usual = math.ceil(full + 1.5 * math.sqrt(full))  # with those that the right and the lower edge cut
    return usual * math.ceil(needed / usual)


def _fill(grids: Int[np.ndarray, "n 3"], merge: int, side: int, patches: int, windows: int) -> VisionPlan:
    n, size = len(grids), (side * merge) ** 2
    rows, columns, slots = (np.zeros((n, patches), np.int32) for _ in range(3))
    mask = np.zeros((n, patches), bool)
    held, window_mask = np.zeros((n, windows * size), np.int32), np.zeros((n, windows * size), bool)
    for i, (_, h, w) in enumerate(grids.tolist()):
        count = h * w
        rows[i, :count], columns[i, :count], slots[i, :count] = _image(h, w, merge, side)
        mask[i, :count] = True
        held[i, slots[i, :count]] = np.arange(count)
        window_mask[i, slots[i, :count]] = True
    shape = (n, windows, size)
    return VisionPlan(rows, columns, mask, held.reshape(shape), window_mask.reshape(shape), slots)


def _image(h: int, w: int, merge: int, side: int) -> tuple[Int[np.ndarray, " p"], ...]:
    """Row, column and flat window slot of each patch of one image."""
    blocks = (a.reshape(h // merge, merge, w // merge, merge) for a in np.indices((h, w)))
    rows, columns = (a.transpose(0, 2, 1, 3).ravel() for a in blocks)
    span = side * merge
    window = rows // span * -(-w // span) + columns // span
    return rows, columns, window * span**2 + rows % span * span + columns % span


def _check_sides(grids: Int[np.ndarray, "n 3"], merge: int) -> None:
    for grid in grids.tolist():
        if grid[1] < merge or grid[2] < merge or grid[1] % merge or grid[2] % merge:
            raise ValueError(f"grid {grid}: height and width must be positive multiples of {merge} patches")


def padded_patches(grids: Int[np.ndarray, "n 3"], patches: int | None = None) -> int:
    """`patches`, or the most that an image has. Raises ValueError for no image, a video, or too few patches."""
    if not len(grids):
        raise ValueError("no image grids: give at least one")
    if (grids[:, 0] != 1).any():
        raise ValueError(f"grids with t {sorted(set(grids[:, 0].tolist()))}: only still images, t = 1, are supported")
    most = int(grids.prod(axis=1).max())
    if patches is not None and patches < most:
        raise ValueError(f"an image has {most} patches, but patches is {patches}: raise it")
    return most if patches is None else patches


def pad_patches(
    pixel_values: Float[Array | np.ndarray, "total c"], grids: Int[np.ndarray, "n 3"], patches: int | None = None
) -> Float[Array | np.ndarray, "n p c"]:
    """The images' patches one after the other → one image a row, zeros behind.

    Raises:
      ValueError: if the number of patches is not that of the grids, or as `padded_patches`.
    """
    patches, counts = padded_patches(grids, patches), grids.prod(axis=1)
    if len(pixel_values) != counts.sum():
        raise ValueError(f"{len(pixel_values)} patches, but the grids have {counts.sum()}")
    at, real = np.arange(patches), np.arange(patches) < counts[:, None]
    first = np.cumsum(counts) - counts
    return pixel_values[np.where(real, first[:, None] + at, 0)] * real[..., None]


def real_features(
    features: Float[Array | np.ndarray, "n f d"], grids: Int[np.ndarray, "n 3"], merge: int = 2
) -> Float[Array | np.ndarray, "total d"]:
    """Padded features of images → those of real merge blocks, image after image."""
    return features.reshape(-1, features.shape[-1])[feature_slots(grids, merge, features.shape[1])]


def feature_slots(grids: Int[np.ndarray, "n 3"], merge: int = 2, width: int | None = None) -> Int[np.ndarray, " total"]:
    """Where each real feature, image after image, lies among the padded ones: `image · width + feature`.

    `width` is the padded number of features of an image; None is the most that any image here has.
    """
    counts = grids.prod(axis=1) // merge**2
    width = counts.max() if width is None else width
    return np.flatnonzero(np.arange(width) < counts[:, None])
