"""Images that Python callers pass as arrays: NumPy and JAX arrays, and PyTorch tensors in host memory."""

from typing import Any

import numpy as np
from PIL import Image

from rewardedit_jax.arguments import shown
from rewardedit_jax.data.images import ImageError

_BATCH_AXES = 4


def image_list(images: Any) -> list | None:
    """The elements of a list, a tuple or an array [batch, height, width, channels]; None for a single value."""
    if isinstance(images, list | tuple):
        return list(images)
    return list(_on_host(images)) if getattr(images, "ndim", 0) == _BATCH_AXES else None


def array_image(array: Any) -> Image.Image:
    """The image of a uint8 array [height, width], [height, width, 3] or [height, width, 4]: grey, RGB or RGBA.

    Raises:
      ImageError: any other value. Floats are not taken, as nothing says whether they lie in 0..1, -1..1 or 0..255.
    """
    pixels = _on_host(array) if hasattr(array, "shape") else None
    is_image = pixels is not None and pixels.dtype == np.uint8 and pixels.size > 0
    if not is_image or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))):
        what = shown(array) if hasattr(array, "shape") else f"{type(array).__name__} {shown(array)}"
        raise ImageError(
            f"{what} is not an image: expected a path, a PIL image, or an array uint8[height, width, 3] with values "
            "0..255 (also [height, width] for grey and [height, width, 4] for RGBA)."
        )
    return Image.fromarray(pixels)


def _on_host(array: Any) -> np.ndarray:
    try:
        return np.asarray(array)
    except (TypeError, RuntimeError) as error:  # a PyTorch tensor on an accelerator, or one with a gradient
        raise ImageError(f"{shown(array)} cannot be read as an array: {error}") from error
