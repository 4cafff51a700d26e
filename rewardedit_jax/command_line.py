"""What the commands in launch/ share: one-sentence errors, and logs without the advice of other packages."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import flags
from absl import logging as absl_logging

# Exceptions that wrong input raises. Any other exception is a bug, and its traceback is printed.
_USER_ERRORS = (ValueError, OSError, FloatingPointError)
# What absl and ml_collections raise for a field that the recipe does not have, or a value of another type.
OVERRIDE_ERRORS = (flags.Error, AttributeError, LookupError, TypeError)
_SHOW_TRACEBACK = "REWARDEDIT_TRACEBACK"
_PACKAGE = str(Path(__file__).parent)


@contextmanager
def complain_clearly(*more: type[Exception]) -> Iterator[None]:
    """Turn an error of the user's input into its message on stderr and exit status 1; print a warning as one line.

    Args:
      more: further exceptions that wrong input raises in this block.
    """
    format_before, warnings.formatwarning = warnings.formatwarning, lambda message, *_: f"warning: {message}\n"
    try:
        yield
    except (*_USER_ERRORS, *more) as error:
        if os.environ.get(_SHOW_TRACEBACK):
            traceback.print_exc()
        # A string as exit code is printed to stderr, with exit status 1.
        sys.exit(f"error: {error_message(error)}\n({_SHOW_TRACEBACK}=1 shows where in the program this was found.)")
    except KeyboardInterrupt:
        sys.exit("interrupted.")
    finally:
        warnings.formatwarning = format_before


def error_message(error: Exception) -> str:
    """What is wrong, in one sentence."""
    text = str(error)
    # ml_collections reports an unknown field by its bare name.
    if (name := text.strip("\"'")).isidentifier():
        return f"the recipe has no field {name!r}: see its file in configs/"
    # ml_collections reports an error in a recipe as the text of its traceback, whose last line is the message.
    return text.strip().splitlines()[-1] if "Traceback (most recent call last)" in text else text


def parse_flags(argv: list[str]) -> list[str]:
    """Parse absl flags with one-sentence errors; returns the other arguments.

    Unless a verbosity is asked for, the log shows the warnings of this package, and errors of all packages.
    """
    with complain_clearly(*OVERRIDE_ERRORS):
        rest = flags.FLAGS(argv)
    if flags.FLAGS["verbosity"].using_default_value:
        absl_logging.set_verbosity(absl_logging.WARNING)
        absl_logging.get_absl_handler().addFilter(_is_relevant)
    return rest


def _is_relevant(record: logging.LogRecord) -> bool:
    """A log filter. Warnings of other packages advise on settings that the commands here do not offer."""
    return record.levelno >= logging.ERROR or record.pathname.startswith(_PACKAGE)


def png_file(name: str) -> Path:
    """An argparse type: the name of a PNG. Refuses other names before the work is done."""
    if not name.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{name}: expected a name that ends in .png")
    return Path(name)
