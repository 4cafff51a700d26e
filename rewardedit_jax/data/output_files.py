"""Output files that survive a kill: complete or absent, and what is damaged is renamed, never deleted."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from absl import logging

from rewardedit_jax.listing import count_noun

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an `OSError`: the disk, a quota or a file is full


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """The path of a temporary file beside `file`, which replaces `file` when the block ends without an error."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(file)
    try:
        yield unfinished
        unfinished.replace(file)
    except OSError as error:
        # Python names a file that it cannot open, but not one for whose next bytes there is no room.
        if error.errno not in NO_ROOM or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(file)) from error
    finally:
        unfinished.unlink(missing_ok=True)  # only after an error


def unwritable(file: Path) -> str | None:
    """Why a file of this name cannot be written by `atomic_write`, such as its length; None if the name is fine."""
    try:
        os.lstat(_unfinished(file))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "it is a folder" if file.is_dir() else None


def _unfinished(file: Path) -> Path:
    # In the same folder: renaming is atomic within a file system only.
    return file.with_name(f".{file.name}.part")


def set_aside(path: Path, state: str) -> Path:
    """Rename a file or directory to a free name beside it, such as NAME.damaged1 for the state "damaged"."""
    return path.rename(_free_name(path, state))


def set_lines_aside(file: Path, lines: Sequence[bytes]) -> None:
    """Write damaged lines of a file to NAME.damaged1, or the next free name, with a warning."""
    kept = _free_name(file, "damaged")
    kept.write_bytes(b"".join(line + b"\n" for line in lines))
    logging.warning("%s has %s, kept in %s", file, count_noun(len(lines), "damaged line"), kept.name)


def _free_name(path: Path, state: str) -> Path:
    names = (path.with_name(f"{path.name}.{state}{n}") for n in count(1))
    return next(name for name in names if not os.path.lexists(name))
