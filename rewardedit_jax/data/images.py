"""Reading images, and the two ways of bringing them to the size that a network wants."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError


class ImageError(ValueError):
    """An image could not be read; the message names it where it has a name."""


def read_image(path: str | Path) -> Image.Image:
    """The image of a file as RGB, upright (EXIF orientation applied), transparent parts on white.

    Raises:
      ImageError: naming the file, if it is missing or unreadable.
    """
    with naming(str(path)):
        return upright_rgb(load_image(path))


def decode_image(data: bytes, name: str) -> Image.Image:
    """As `read_image`, of an encoded image in memory; `name` is what an error calls it."""
    with naming(name):
        return upright_rgb(_load(data))


def load_image(path: str | Path) -> Image.Image:
    """The image as it is in the file: of any mode, unturned. Raises `ImageError` as `read_image`."""
    with naming(str(path)):
        return _load(Path(path).read_bytes())


def _load(data: bytes) -> Image.Image:
    with _decoding(), Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


@contextmanager
def _decoding() -> Iterator[None]:
    """Turns what Pillow raises on a bad image into an `ImageError` that says why, not yet of which image."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError("it is in no image format that Pillow knows") from error
    # Decoders are foreign code. On broken bytes AVIF's raises RuntimeError, DDS's NotImplementedError, others assert,
    # or unpack or index past the end: no list of types stays complete.
    except Exception as error:
        raise ImageError(str(error) or f"its decoder raised {type(error).__name__}") from error


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turns what reading an image raises into an `ImageError` that names it."""
    told = f"image {name} cannot be read: "
    try:
        yield
    except ImageError as error:
        if str(error).startswith(told):
            raise
        raise ImageError(f"{told}{error}") from error
    except (OSError, ValueError) as error:  # of the file, not of the image: missing, a folder, a name with a zero byte
        raise ImageError(f"{told}{getattr(error, 'strerror', None) or error}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB, upright (EXIF orientation applied), transparent parts on white.

    Raises:
      ImageError: for pixels that are no colours (32-bit integers or floats), or an opened file that turns out
        unreadable, as Pillow reads it here.
    """
    image = _plain(image)
    if image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode {image.mode} have no defined white; convert them to 8 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    """Whether any part of it lets something behind it through. Raises `ImageError` for an unreadable file."""
    image = _plain(image)
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def _plain(image: Image.Image) -> Image.Image:
    """The image read in full, upright, and with 8 bits where it had 16; what is transparent by its value stays so.

    Pillow would clip 16-bit grey at 255. Colours it has cut to their high bytes already, but not the transparent one.
    """
    with _decoding():
        # A copy: of a palette image inside an icon file (ICNS), only that has the palette object Pillow counts on.
        image = ImageOps.exif_transpose(image)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)  # in whichever byte order
        image = Image.fromarray((deep >> 8).astype(np.uint8))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8)))
    elif isinstance(transparent, tuple) and max(transparent) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return image


def square(image: Image.Image, size: int) -> Image.Image:
    """The image resized straight to size×size, aspect not kept (bicubic): what the editor was trained on."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


def fit_size(width: int, height: int, resolution: int, multiple: int) -> tuple[int, int]:
    """The (width, height) an image is edited at: longer side near `resolution`, both multiples of `multiple`.

    The rule of InstructPix2Pix and of the Real-Edit evaluation, in its floating-point form. Rounding belongs to it:
    1000×667 gives 512×320, as theirs does, where exact arithmetic would give 512×384 (the short side scaled by 384/667
    lands just below 384).
    """
    if min(width, height, resolution, multiple) < 1:
        raise ValueError(f"sizes must be positive, got {width}×{height}, resolution {resolution}, multiple {multiple}.")
    short = min(width, height)
    factor = resolution / max(width, height)
    factor = math.ceil(short * factor / multiple) * multiple / short
    # The same rounding could leave nothing of a very narrow image.
    return tuple(max(1, int(side * factor // multiple)) * multiple for side in (width, height))


def fit(image: Image.Image, resolution: int, multiple: int) -> Image.Image:
    """The image scaled (Lanczos) and cropped around its centre to `fit_size`: for editing and evaluation."""
    size = fit_size(*image.size, resolution, multiple)
    return ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)


def to_unit(image: UInt8[Array | np.ndarray, "*shape"]) -> Float[Array | np.ndarray, "*shape"]:
    """0..255 → [-1, 1], float32; on the device or in NumPy, wherever the image is."""
    return 2 * (image.astype(np.float32) / 255) - 1
