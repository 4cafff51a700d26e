"""Images as CLIP and DINO take them: the shortest edge resized, the centre cropped, colours normalised.

The rules are those of transformers' `CLIPImageProcessor` and `BitImageProcessor` with Pillow, and agree with
torchvision's `Resize` and `CenterCrop` on Pillow images, which the published evaluation scripts use, but for one case:
where 3, 7, 11, ... pixels are to be cut off, torchvision cuts one more of them at the left or at the top.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from rewardedit_jax.models.clip_vision import CLIP_MEAN, CLIP_STD


class Statistics(NamedTuple):
    """Mean and standard deviation of the red, green and blue of the training images, in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CLIP = Statistics(CLIP_MEAN, CLIP_STD)
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def resize_and_crop(image: UInt8[np.ndarray, "h w 3"], edge: int, crop: int) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """The shortest edge resized to `edge` pixels (bicubic), then the central square of `crop` pixels; `crop` ≤ `edge`.

    The resized image is rounded to 8 bits, as Pillow returns it.
    """
    short = min(image.shape[:2])
    height, width = (int(edge * side / short) for side in image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - crop) // 2, (width - crop) // 2
    return np.asarray(resized.crop((left, top, left + crop, top + crop)))


def normalise(image: UInt8[np.ndarray, "h w 3"], statistics: Statistics) -> Float32[Any, "h w 3"]:
    """0..255 → colours in 0..1, less their mean, divided by their deviation."""
    unit = (image * (1 / 255)).astype(np.float32)  # rounded after the product, as transformers does
    mean, std = np.asarray(statistics, np.float32)
    return (unit - mean) / std
