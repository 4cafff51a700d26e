"""What is wrong with a weight file: the error of every loader, and what a failed download leaves in place of a file."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

AGAIN = "Copy or download it again."
# How the content begins → what it is, and what to do.
_IMPOSTORS = {
    (b"version https://git-lfs",): "it is a pointer of Git LFS: fetch the file itself with `git lfs pull`.",
    (b"<!doctype", b"<html", b"<?xml"): "it is a web page: download the file itself, from the address with /resolve/.",
}


class WeightFileError(ValueError):
    """Weight files that are missing, damaged or unsafe, or a config.json that is not supported."""


def impostor(file: Path) -> str | None:
    """What is there in place of a file, with the remedy: the pointer of Git LFS or a web page; None: neither."""
    with suppress(OSError), file.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
        return next((what for begins, what in _IMPOSTORS.items() if start.startswith(begins)), None)
    return None


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Errors of the block become a WeightFileError, or stay one of its subclasses, and name the file."""
    try:
        yield
    except WeightFileError as error:
        raise type(error)(f"cannot read {file}: {error}") from error
    except OSError as error:
        raise WeightFileError(f"cannot read {file}: {error}. {AGAIN}") from error
