"""Preprocessing of images for the scorer's vision tower: resized to one area, cut into patches, normalised.

EditReward resizes images to 448×448 pixels "while preserving their original aspect ratios" (arXiv:2509.26346, section
4.1). As in its code, that is Qwen2-VL's `smart_resize` to an area of 448·448 pixels, Pillow's bicubic resize of the
uint8 image, CLIP's normalisation and Qwen2-VL's order of patches; PyTorch is not needed. There are two differences:
transparent parts are composited on white (published code drops the alpha channel, which shows the colours under it),
and images are rotated upright by their EXIF orientation.

Images are resized and cut on the host, as uint8, and normalised on the devices, in the program that encodes them.
"""

import hashlib
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float32, Num, UInt8
from PIL import Image

from rewardedit_jax.data.image_arguments import array_image
from rewardedit_jax.data.images import ImageError, image_errors, is_transparent, load_image, upright_rgb
from rewardedit_jax.models.clip_vision import CLIP_MEAN, CLIP_STD

AREA = 448 * 448  # pixels; published code hard-codes it, and ignores max_pixels and min_pixels of its configurations
PATCH = 14  # pixels per side
MERGE = 2  # patches per side that become one token
FACTOR = PATCH * MERGE  # pixels per side of a token
_FRAMES = 2  # frames per patch; the tower takes video, and a still image is repeated
_MAX_ASPECT = 200  # as in Qwen2-VL
# CLIP's statistics stand in preprocessor_config.json of Qwen2.5-VL too. Axes: colour, frame, pixel of a patch.
_MEAN, _STD = (np.array(values, np.float32)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
PATCH_VALUES = 3 * PATCH**2  # of one frame
# Pillow reads a file when the image is first used, which is not thread-safe. Threads may share the image of a source.
_LOADING = threading.Lock()


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image at the size that the scorer gets."""

    pixels: UInt8[np.ndarray, "h w 3"]  # 0..255, sides multiples of 28
    composited: bool  # whether the image had transparent parts, which were composited on white
    digest: bytes  # equal for equal pixels; identifies the image in the feature cache

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches as (frames, rows, columns)."""
        height, width, _ = self.pixels.shape
        return 1, height // PATCH, width // PATCH

    @property
    def n_patches(self) -> int:
        return math.prod(self.grid)

    @property
    def n_tokens(self) -> int:
        return self.n_patches // MERGE**2


def prepare_scorer_image(image: Any, area: int = AREA) -> PreparedImage:
    """Composite a path, PIL image or uint8 array on white and resize it to about `area` pixels, keeping its aspect."""
    rgb, composited = _open(image)
    try:
        height, width = smart_resize(rgb.height, rgb.width, area)
    except ImageError as error:
        raise ImageError(f"image {image}: {error}" if isinstance(image, str | Path) else str(error)) from error
    pixels = np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC))
    # The shape is hashed too: a wide and a tall image of one colour have equal bytes.
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, person=f"{height}x{width}".encode())
    return PreparedImage(pixels, composited, digest.digest())


def smart_resize(height: int, width: int, area: int = AREA) -> tuple[int, int]:
    """The (height, width) that an image is resized to: multiples of 28 whose product is near `area`.

    This is `smart_resize` of Qwen2-VL with min_pixels = max_pixels. Larger images become at most `area` pixels, smaller
    ones at least. The function is not idempotent (364×504 becomes 392×532): apply it once, to the original size.
    """
    short, long = sorted((height, width))
    if short < 1 or long > _MAX_ASPECT * short:
        raise ImageError(
            f"{width}×{height} pixels (width×height) cannot be scored: expected a longer side of at most {_MAX_ASPECT} "
            "times the shorter; crop or pad the image."
        )
    sides = [max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width)]
    # Keep these expressions as they are: algebraically equal forms round some sizes differently. Python's `round` is
    # part of the rule too (half to even).
    if math.prod(sides) > area:
        shrink = math.sqrt(height * width / area)
        sides = [math.floor(side / shrink / FACTOR) * FACTOR for side in (height, width)]
    elif math.prod(sides) < area:
        grow = math.sqrt(area / (height * width))
        sides = [math.ceil(side * grow / FACTOR) * FACTOR for side in (height, width)]
    # Only areas far below the published one can floor a side to 0.
    return max(FACTOR, sides[0]), max(FACTOR, sides[1])


def to_patches(images: Num[Array | np.ndarray, "*b h w 3"]) -> Float32[Array | np.ndarray, "*b n 1176"]:
    """The patches that the vision tower takes of images of 0..255, integers or floats; sides are multiples of 28."""
    return normalise_patches(cut_patches(images))


def cut_patches(images: Num[Array | np.ndarray, "*b h w 3"]) -> Num[Array | np.ndarray, "*b n 588"]:
    """Patches of one frame, of the type of the images: flattened, with axes (colour, y, x).

    The four patches of a 2×2 block (one token) are consecutive; blocks are in reading order.
    """
    *batch, height, width, _ = images.shape
    blocks = images.reshape(-1, height // FACTOR, MERGE, PATCH, width // FACTOR, MERGE, PATCH, 3)
    return blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(*batch, -1, PATCH_VALUES)


def normalise_patches(patches: Num[Array | np.ndarray, "*n 588"]) -> Float32[Array | np.ndarray, "*n 1176"]:
    """Patches of values 0..255, in CLIP's normalisation and with the frame repeated: axes (colour, frame, y, x).

    For the program that encodes them: uint8 patches of one frame have an eighth of the bytes that the tower reads.
    NumPy arrays give NumPy arrays.
    """
    values = patches.reshape(*patches.shape[:-1], 3, 1, PATCH**2).astype(np.float32)
    unit = (values / 255 - _MEAN) / _STD
    return unit.repeat(_FRAMES, axis=-2).reshape(*patches.shape[:-1], -1)


def _open(image: Any) -> tuple[Image.Image, bool]:
    """The image as upright RGB, and whether any part of it was transparent."""
    if not isinstance(image, str | Path):
        image = image if isinstance(image, Image.Image) else array_image(image)
        with _LOADING:
            return upright_rgb(image), is_transparent(image)
    with image_errors(str(image)):
        original = load_image(image)
        return upright_rgb(original), is_transparent(original)
