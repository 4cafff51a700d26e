"""Which files a folder or a data file means: the images of a folder, and paths that must stay below a root.

Data files come from other people. A path in one of them is read below its root, and written below the output folder,
unless the user allows other places (`--allow-outside`, in a recipe `data.allow_outside=True`).
"""

import ntpath
import os
from pathlib import Path, PureWindowsPath

from absl import logging
from PIL import Image, UnidentifiedImageError

from rewardedit_jax.listing import list_names

# A file with one of these is listed without a look into it, so that a folder of 100,000 images is listed in seconds,
# and a damaged image fails by its name. The content decides about other files.
_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic"),
    *(".heif", ".jp2", ".ppm", ".pgm", ".pnm", ".tga"),
)
# Pillow identifies these formats, but needs other programs to decode them.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def image_files(folder: Path) -> list[Path]:
    """The images of `find_images`. Raises ValueError if there are none; a warning counts and names what is no image."""
    images, others = find_images(folder)
    named = list_names(others)
    if not images:
        raise ValueError(f"no images in {folder}: {f'found only {named}' if others else 'it is empty'}.")
    if others:
        total = len(images) + len(others)
        logging.warning("%d of %d entries of %s are no images and are left out: %s", len(others), total, folder, named)
    return images


def find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """The images directly in a folder, and the names of the other entries, both sorted.

    An image is a file whose suffix is that of an image format, or whose content is in a format that Pillow identifies
    by its first bytes. Hidden files, such as macOS's `._a.png` and `.DS_Store`, are no images, whatever they hold.
    """
    with os.scandir(folder) as entries:
        is_image = {entry.name: _is_image(entry) for entry in entries}
    names = sorted(is_image)
    return [Path(folder, name) for name in names if is_image[name]], [name for name in names if not is_image[name]]


def _is_image(entry: os.DirEntry) -> bool:
    if entry.name.startswith(".") or not _is_file(entry):
        return False
    return Path(entry.name).suffix.lower() in _SUFFIXES or _has_image_header(entry.path)


def _is_file(entry: os.DirEntry) -> bool:
    """Neither a folder nor a pipe, which would block. A broken link counts, so that it fails by its name."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _has_image_header(path: str) -> bool:
    try:
        with Image.open(path, formats=_identified_formats()):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # too many pixels, a file without permission: reading the image names the reason
        return True


def _identified_formats() -> tuple[str, ...]:
    """Pillow's formats that have a signature. Without one, almost any file could be a TGA."""
    Image.init()
    return tuple(name for name, (_, accept) in Image.OPEN.items() if accept and name not in _NOT_DECODED)


def inside(root: str | Path, name: str, *, allow_outside: bool = False) -> Path:
    """The path `name` of a data file, relative to `root`; an absolute path is taken as it is.

    The path is followed as it is written: a symbolic link below `root` may lead elsewhere, because the user made it
    (the files of a Hugging Face download are such links).

    Raises:
      ValueError: the path leads out of `root` by "..", as an absolute path or by a drive of Windows, and
        `allow_outside` is false; or no file can have this name.
    """
    if not _can_be_a_file(name):
        raise ValueError(f"{name!r}: expected a path without zero bytes and lone surrogates")
    if allow_outside:
        return Path(root, name)
    if _leaves(root, name):
        raise _outside(root, name)
    # Without "..", which would lead elsewhere behind a symbolic link.
    return Path(root, os.path.normpath(name))


def output_inside(root: str | Path, name: str, *, allow_outside: bool = False) -> Path:
    """As `inside`, for a file to write: symbolic links must not lead out of `root` either."""
    path = inside(root, name, allow_outside=allow_outside)
    folder = Path(root, os.path.dirname(os.path.normpath(name)))  # not path.parent: of "." that is above the root
    if not allow_outside and not _is_below(os.path.realpath(folder), os.path.realpath(root)):
        raise _outside(root, name)
    return path


def _can_be_a_file(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _leaves(root: str | Path, name: str) -> bool:
    normal = os.path.normpath(name)
    if os.path.isabs(normal):
        return not any(_is_below(normal, full(root)) for full in (os.path.abspath, os.path.realpath))
    # Windows' rules include those of other systems; a data file is the same on all of them.
    path = PureWindowsPath(ntpath.normpath(name))
    return bool(path.anchor) or path.parts[:1] == ("..",)


def _is_below(path: str, root: str) -> bool:
    return Path(path).is_relative_to(root)


def _outside(root: str | Path, name: str) -> ValueError:
    return ValueError(
        f"{name!r} lies outside the folder {root}: give a path below it, or allow it by --allow-outside (in a "
        "recipe data.allow_outside=True)"
    )
