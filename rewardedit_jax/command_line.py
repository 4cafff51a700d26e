"""What the commands under launch/ have in common: errors in one sentence, and a log of what concerns the user."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What bad input raises. Anything else is a fault of the program and keeps its traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError)
_SHOW_TRACEBACK = "REWARDEDIT_TRACEBACK"
_PACKAGE = str(Path(__file__).parent)


def png_file(name: str) -> Path:
    """For argparse: a picture to be written, found out to be no PNG before the work is done."""
    if not name.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"the picture is a PNG; give a name that ends in .png, not {name}")
    return Path(name)


@contextmanager
def complain_clearly(*more: type[Exception]) -> Iterator[None]:
    """Turns an error of the user's input into its message on stderr and exit status 1; a warning into one line.

    Args:
      more: what else stands for bad input where this is used.
    """
    with_place, warnings.formatwarning = warnings.formatwarning, lambda message, *_: f"warning: {message}\n"
    try:
        yield
    except (*_USER_ERRORS, *more) as error:
        if os.environ.get(_SHOW_TRACEBACK):
            traceback.print_exc()
        sys.exit(f"error: {_told(error)}\n({_SHOW_TRACEBACK}=1 shows where in the program this was found.)")
    except KeyboardInterrupt:
        sys.exit("interrupted.")
    finally:
        warnings.formatwarning = with_place


def _told(error: Exception) -> str:
    text = str(error)
    if (name := text.strip("\"'")).isidentifier():  # of a missing key, or field of a recipe, errors say nothing else
        return f"there is no {name}"
    # What fails in a recipe reaches us as a printed traceback; it ends in the message.
    return text.strip().splitlines()[-1] if "Traceback (most recent call last)" in text else text


def only_our_warnings(record: logging.LogRecord) -> bool:
    """A log filter: other packages' warnings advise on their own settings, which no command here offers."""
    return record.levelno >= logging.ERROR or record.pathname.startswith(_PACKAGE)
