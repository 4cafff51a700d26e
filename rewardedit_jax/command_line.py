"""What the commands in launch/ share: one-sentence errors, bad items, quiet logs, local outputs."""

import argparse
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
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
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two characters at least: "C:/" is a drive


@contextmanager
def complain_clearly(*more: type[Exception]) -> Iterator[None]:
    """Turn an error of the user's input into its message on stderr and exit status 1; print a warning as one line.

    Args:
      more: further exceptions that wrong input raises in this block.
    """
    format_before, warnings.formatwarning = warnings.formatwarning, lambda message, *_: f"warning: {message}\n"
    # A terminal that cannot show a character, such as "×" or a name in another script, must not end the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
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
        hide_other_packages()
    return rest


def hide_other_packages() -> None:
    """From now on the log shows the messages of this package, and errors of all packages."""
    # Of the logger: which handler prints its messages depends on how the program was started.
    absl_logging.get_absl_logger().addFilter(_is_relevant)


def _is_relevant(record: logging.LogRecord) -> bool:
    """A log filter. Warnings of other packages advise on settings that the commands here do not offer."""
    return record.levelno >= logging.ERROR or record.pathname.startswith(_PACKAGE)


def set_up_command() -> None:
    """The first call of a command: its log shows progress, and compiled programs are kept (`start_quickly`)."""
    # Imported here, with JAX: `launch/label.py` asks an endpoint without it, and starts in half a second.
    from rewardedit_jax.startup import start_quickly

    absl_logging.set_verbosity(absl_logging.INFO)
    hide_other_packages()
    start_quickly()


class _NotLocal(argparse.ArgumentTypeError, ValueError):
    """A URL where a local path is expected; argparse prints the message of its own type only."""


def local_path(name: str | Path) -> Path:
    """The path of an output; also an argparse type. Refuses a URL, which would become a local folder named "gs:"."""
    # A Path has one slash where the URL had two.
    if found := _SCHEME.match(str(name)):
        scheme = found[0].removesuffix("/")
        raise _NotLocal(f"{name}: expected a local path, got a {scheme} URL: give a local or mounted directory.")
    return Path(name)


def png_file(name: str) -> Path:
    """An argparse type: the name of a local PNG. Refuses other names before the work is done."""
    if not name.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{name}: expected a name that ends in .png")
    return local_path(name)


def add_allow_outside(parser: argparse.ArgumentParser, what: str = "a list may name images outside its folder") -> None:
    """Add the flag `--allow-outside` (`data.paths.inside`)."""
    parser.add_argument("--allow-outside", action="store_true", help=what)


def add_skip_bad(parser: argparse.ArgumentParser, what: str = "items that cannot be read or scored") -> None:
    """Add the argument `--skip-bad N`."""
    help_text = f"allow up to N {what}; they are listed (default: 0)"
    parser.add_argument("--skip-bad", type=whole_number, default=0, metavar="N", help=help_text)


def report_bad(faults: Sequence[str], total: int, done: str, skip_bad: int, count: int | None = None) -> None:
    """List the bad items of a run on stderr. More than `skip_bad` of them end the process with exit status 1.

    Args:
      faults: a sentence for each bad item, or for the first ones.
      total: the number of all items.
      done: what did not happen to the bad ones, such as "images were not edited".
      count: the number of bad items, if `faults` has the first ones only.
    """
    if not faults:
        return
    count = len(faults) if count is None else count
    more = [f"... and {count - len(faults)} more"] if count > len(faults) else []
    lines = "\n".join([f"{count} of {total} {done}:", *faults, *more])
    if count > skip_bad:
        sys.exit(f"error: {lines}")
    print(f"warning: {lines}", file=sys.stderr)


def not_blank(text: str) -> str:
    """An argparse type: a text with a visible character."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a text that is not blank")
    return text


def whole_number(text: str, least: int = 0) -> int:
    """An argparse type: a whole number, not below `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, {least} or more")
    return int(text)
