"""Images as the scorer's vision tower takes them: brought to one area, normalised, cut into patches.

The published preprocessing of EditReward without PyTorch: `smart_resize` of Qwen2-VL to a budget of 448·448 pixels,
Pillow's bicubic resize of the uint8 image, CLIP's normalisation, Qwen2-VL's order of patches (fact sheet 1.6). Two
things are done that published code leaves out: transparent parts are laid on white (there, alpha is dropped and shows
whatever colours lie under it), and images are turned upright by their EXIF orientation.
"""

import hashlib
import math
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from rewardedit_jax.data.images import ImageError, is_transparent, load_image, naming, upright_rgb

AREA = 448 * 448  # pixels
PATCH = 14
MERGE = 2  # patches per side that become one token
_FACTOR = PATCH * MERGE
_FRAMES = 2  # the tower was made for video: a still image is a frame shown twice
_MAX_ASPECT = 200
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
PATCH_WIDTH = 3 * _FRAMES * PATCH**2
_LOADING = threading.Lock()  # one picture may be given for many edits, and Pillow reads its file when it is first used


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image at the size that the scorer sees."""

    pixels: UInt8[np.ndarray, "h w 3"]  # 0..255, sides multiples of 28
    composited: bool  # the image had transparent parts, which were laid on white
    digest: bytes  # equal for equal pixels: how a batch finds that two items have the same source

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


def prepare_image(image: str | Path | Image.Image, area: int = AREA) -> PreparedImage:
    """Read an image, lay transparent parts on white, resize it to `area` pixels (about; the aspect is kept).

    Raises:
      ImageError: it cannot be read, is no image, or is more than 200 times longer than wide; a file is named.
    """
    rgb, composited = _open(image)
    try:
        height, width = smart_resize(rgb.height, rgb.width, area)
    except ImageError as error:
        raise ImageError(f"image {image}: {error}" if isinstance(image, str | Path) else str(error)) from error
    pixels = np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC))
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, person=f"{height}x{width}".encode())
    return PreparedImage(pixels, composited, digest.digest())


def smart_resize(height: int, width: int, area: int = AREA) -> tuple[int, int]:
    """The (height, width) an image is resized to: multiples of 28 whose product is near `area`.

    Larger images come out at or below the area, smaller ones at or above it: the rule of Qwen2-VL with equal bounds.
    It is not idempotent (364×504 becomes 392×532), so it is applied once, to the image as it came.

    Raises:
      ImageError: for an image without pixels, or of an aspect ratio above 200.
    """
    short, long = sorted((height, width))
    if short < 1 or long > _MAX_ASPECT * short:
        raise ImageError(
            f"{width}×{height} pixels (width×height) cannot be scored: the longer side may be at most {_MAX_ASPECT} "
            "times the shorter; crop or pad the image."
        )
    sides = [max(_FACTOR, round(side / _FACTOR) * _FACTOR) for side in (height, width)]
    # The shape of these expressions belongs to the rule: other floating-point forms round some sizes differently.
    if math.prod(sides) > area:
        shrink = math.sqrt(height * width / area)
        sides = [math.floor(side / shrink / _FACTOR) * _FACTOR for side in (height, width)]
    elif math.prod(sides) < area:
        grow = math.sqrt(area / (height * width))
        sides = [math.ceil(side * grow / _FACTOR) * _FACTOR for side in (height, width)]
    # Only budgets far below the published one can floor a side to nothing.
    return max(_FACTOR, sides[0]), max(_FACTOR, sides[1])


def to_patches(pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "n 1176"]:
    """Normalised patches: the four of a 2×2 block (one token) follow each other, blocks are in reading order.

    A row is (colour, frame, y, x), flattened.
    """
    height, width, _ = pixels.shape
    rows, columns = height // _FACTOR, width // _FACTOR
    unit = (pixels.astype(np.float32) / 255 - _MEAN) / _STD
    blocks = unit.reshape(rows, MERGE, PATCH, columns, MERGE, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return np.repeat(blocks[:, :, :, :, :, None], _FRAMES, axis=5).reshape(-1, PATCH_WIDTH)


def _open(image: str | Path | Image.Image) -> tuple[Image.Image, bool]:
    """The image as upright RGB, and whether any of it was transparent."""
    if not isinstance(image, str | Path | Image.Image):
        kind = type(image).__name__
        raise TypeError(f"an image is a path or a PIL image (Image.fromarray makes one), several a list: not {kind}.")
    if isinstance(image, Image.Image):
        with _LOADING:
            return upright_rgb(image), is_transparent(image)
    with naming(str(image)):
        original = load_image(image)
        return upright_rgb(original), is_transparent(original)
