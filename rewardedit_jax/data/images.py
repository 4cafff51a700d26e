"""Reading images, and resizing them to the size that a network takes.

Sizes are bounded, so that one image of a folder cannot take all memory: an image of more pixels than Pillow's
`Image.MAX_IMAGE_PIXELS` (89,478,485 unless you change it) is not decoded, and no side of an edited image is longer than
`MAX_SIDE`. Of an animation or a file of several pages, the first picture is read.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_SIDE = 4096  # pixels, of an edited image
_MAX_BYTES = 2**30  # of an encoded image: more than one of as many pixels as Pillow decodes needs


class ImageError(ValueError):
    """An image cannot be read; the message names the image where it has a name."""


def read_image(path: str | Path) -> Image.Image:
    """The image of a file, as `upright_rgb`. Raises `ImageError`, naming the file, if it is missing or unreadable."""
    with image_errors(str(path)):
        return upright_rgb(load_image(path))


def decode_image(data: bytes, name: str) -> Image.Image:
    """The image of encoded bytes, as `read_image` returns it; errors call it `name`."""
    with image_errors(name):
        return upright_rgb(_load(data))


def load_image(path: str | Path) -> Image.Image:
    """The image as it is in the file: in any mode, not turned upright. Raises `ImageError` as `read_image`."""
    with image_errors(str(path)):
        return _load(image_bytes(path))


def image_bytes(path: str | Path) -> bytes:
    """The bytes of an image file, not decoded. Raises `ImageError`, naming the file, if they cannot be read."""
    with image_errors(str(path)):
        if not str(path):
            raise ImageError("its name is empty")  # pathlib takes it for the current directory
        if (size := Path(path).stat().st_size) > _MAX_BYTES:
            raise ImageError(f"it has {size:,} bytes, expected at most {_MAX_BYTES:,}")
        return Path(path).read_bytes()


def _load(data: bytes) -> Image.Image:
    with _decoder_errors(), Image.open(io.BytesIO(data)) as image:
        # Image.open() has read the header only. Beyond this number it warns, and beyond twice the number it raises.
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        # Pixels that are missing show here.
        image.load()
        return image


@contextmanager
def _decoder_errors() -> Iterator[None]:
    """Raises `ImageError` with the reason, not yet the name of the image, for any error of Pillow in the block."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError("it is not in an image format that Pillow reads") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        bound = f"{Image.MAX_IMAGE_PIXELS:,} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
        raise ImageError(f"it has more than {bound}; make it smaller") from error
    # Decoders are foreign code. On broken bytes AVIF's raises RuntimeError, DDS's NotImplementedError, others raise
    # AssertionError, struct.error or IndexError: no list of types is complete.
    except Exception as error:
        raise ImageError(str(error) or f"its decoder raised {type(error).__name__}") from error


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Raises `ImageError` with the name of the image for errors of reading it in the block."""
    prefix = f"image {name} cannot be read: "
    try:
        yield
    except ImageError as error:
        # These blocks are nested (`read_image` calls `load_image`), the name belongs there once.
        if str(error).startswith(prefix):
            raise
        raise ImageError(f"{prefix}{error}") from error
    except (OSError, ValueError) as error:  # of the file, not the image: missing, a folder, a zero byte in the name
        raise ImageError(f"{prefix}{getattr(error, 'strerror', None) or error}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB, upright (EXIF orientation applied), transparent parts on white.

    Raises:
      ImageError: for pixels that are not colours (32-bit integers or floats), or if the image was opened, not loaded,
        and turns out to be unreadable.
    """
    image = _upright_8_bits(image)
    if image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode {image.mode} have no defined white; convert them to 8 bits")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it once more
    # convert("RGB") alone would drop alpha and show the colours that lie under it.
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque. Raises `ImageError` as `upright_rgb`."""
    image = _upright_8_bits(image)
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def _upright_8_bits(image: Image.Image) -> Image.Image:
    """The image loaded, upright, and with 8 bits per channel where it had 16; transparency is kept.

    Pillow clips 16-bit grey at 255 instead of scaling it. It scales 16-bit colours, but not the colour that a PNG
    declares transparent.
    """
    with _decoder_errors():
        # A copy, not in place: the palette object of a palette image in an icon file (ICNS) exists in the copy only.
        image = ImageOps.exif_transpose(image)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        grey = np.asarray(image)  # 16 bits; NumPy converts the byte order of the mode
        image = Image.fromarray((grey >> 8).astype(np.uint8))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
    elif isinstance(transparent, tuple) and max(transparent) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return image


def square(image: Image.Image, size: int) -> Image.Image:
    """The image resized to size × size without keeping the aspect ratio (bicubic), as InstructPix2Pix is trained."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


def fit_size(width: int, height: int, resolution: int, multiple: int) -> tuple[int, int]:
    """The (width, height) at which an image is edited: longer side near `resolution`, both multiples of `multiple`.

    The rule of InstructPix2Pix (`edit_cli.py`) and of the Real-Edit evaluation (Multi-Reward as Condition,
    arXiv:2411.04713) in floating point. Its rounding errors are part of it: 1000×667 gives 512×320 as there, where
    exact arithmetic gives 512×384 (the short side scaled by 384/667 is just below 384).
    """
    if min(width, height, resolution, multiple) < 1:
        raise ValueError(f"sizes must be positive, got {width}×{height}, resolution {resolution}, multiple {multiple}.")
    short = min(width, height)
    factor = resolution / max(width, height)
    # Scale such that the short side is the next multiple, then cut the other one down to a multiple.
    factor = math.ceil(short * factor / multiple) * multiple / short
    # At least one multiple: of a very narrow image, the same rounding errors could leave 0.
    return tuple(max(1, int(side * factor // multiple)) * multiple for side in (width, height))


def fit(image: Image.Image, resolution: int, multiple: int) -> Image.Image:
    """The image scaled (Lanczos) and cropped around its centre to `fit_size`: for editing and evaluation.

    Raises:
      ValueError: the resolution is larger than `MAX_SIDE`.
      ImageError: the image is so narrow that its longer side would be: the shorter one has at least `multiple` pixels.
    """
    if resolution > MAX_SIDE:
        raise ValueError(f"resolution={resolution}: expected at most {MAX_SIDE} pixels.")
    size = fit_size(*image.size, resolution, multiple)
    check_sides(*size, f"{image.width}×{image.height} pixels, which would be edited at ")
    return ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)


def check_sides(width: int, height: int, what: str = "") -> None:
    """Raises `ImageError`, whose message begins with `what`, if a side is longer than `MAX_SIDE`."""
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{what}{width}×{height}: expected sides of at most {MAX_SIDE} pixels; crop or shrink it")


def to_unit(image: UInt8[Any, "*shape"]) -> Float[Any, "*shape"]:
    """0..255 → [-1, 1], float32; a JAX array stays on its device."""
    return 2 * (image.astype(np.float32) / 255) - 1
