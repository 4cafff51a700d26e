"""Many names or faults in one message: the first ones and the number of the others."""

from collections.abc import Iterable, Sequence
from typing import Any

# A file with the wrong layout has a fault in every entry: the first ones are enough to see what is wrong.
_MAX_LINES = 40
MAX_NAMES = 10  # in one line


def count_noun(count: int, noun: str) -> str:
    """The count and the noun, in the plural unless the count is 1: "1 pair", "2 pairs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def list_lines(heading: str, lines: Sequence[str]) -> str:
    """The heading and, indented below it, the first 40 lines and the number of the others."""
    more = [f"... and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
    return "\n  ".join([heading, *lines[:_MAX_LINES], *more])


def list_names(names: Iterable[Any], separator: str = ", ") -> str:
    """The first ten names in one line, and the number of the others."""
    names = [str(name) for name in names]
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return separator.join(names[:MAX_NAMES]) + more
