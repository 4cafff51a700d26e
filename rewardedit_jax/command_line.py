"""What the commands under launch/ have in common: errors in one sentence."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

# What bad input raises. Anything else is a fault of the program and keeps its traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError)
_SHOW_TRACEBACK = "REWARDEDIT_TRACEBACK"


@contextmanager
def complain_clearly() -> Iterator[None]:
    """Turns an error of the user's input into its message on stderr and exit status 1."""
    try:
        yield
    except _USER_ERRORS as error:
        if os.environ.get(_SHOW_TRACEBACK):
            traceback.print_exc()
        sys.exit(f"error: {error}\n({_SHOW_TRACEBACK}=1 shows where in the program this was found.)")
