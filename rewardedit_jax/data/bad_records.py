"""How bad records are treated, by every source alike: an error, or counted and left out; never silently.

What can be told from the index files is told at once, all faults in one error. What only shows when a record
is read (an image cut short) is an error then, which names the file. A source made with `skip_bad=True` leaves
out what it finds at once, and puts the next readable record in the place of one that turns out bad when read.
Which record that is depends on the data alone, not on what was read before: a resumed run sees what the first
saw. (Of judged pairs it is a row drawn by seed and place in line, which brings its own order: `scoring.pairs`.)
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from absl import logging

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.records import EditRecord

_MOST_LISTED = 40


class BadRecords(ValueError):
    """Records do not have the published layout; the message lists them."""


def settle(faults: Sequence[str], where: str, skip_bad: bool) -> None:
    """Raises `BadRecords` with the faults of an index, a line each; with `skip_bad`, logs them."""
    if not faults:
        return
    message = indented(f"{where}: {counted(len(faults), 'bad record')}", faults)
    if not skip_bad:
        raise BadRecords(message + "\nskip_bad=True leaves them out.")
    logging.warning("%s\nleft out, as asked.", message)


def counted(count: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def indented(heading: str, lines: Sequence[str]) -> str:
    """The heading and the first of the lines below it."""
    more = [f"... and {len(lines) - _MOST_LISTED} more"] if len(lines) > _MOST_LISTED else []
    return "\n  ".join([heading, *lines[:_MOST_LISTED], *more])


class ReadingSource(ABC):
    """A source whose records are read from files at access.

    Attributes:
      skip_bad: whether the next readable record stands in for one that cannot be read.
      unreadable: the numbers of the records found so far that cannot be read; only a count for the log.
    """

    def __init__(self, skip_bad: bool):
        self.skip_bad = skip_bad
        self.unreadable: set[int] = set()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> EditRecord:
        """The record; raises `ImageError` or `BadRecords`, naming the file, if it cannot be read."""

    def __getitem__(self, index: int) -> EditRecord:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"record {index} of {size}")
        index %= size
        if not self.skip_bad:
            return self.read(index)
        for i in range(index, index + size):
            try:
                return self.read(i % size)
            except (ImageError, BadRecords) as error:
                self._note(i % size, error)
        raise BadRecords(f"none of the {size} records can be read.")

    def _note(self, index: int, error: ValueError) -> None:
        if index not in self.unreadable:
            self.unreadable.add(index)
            logging.warning("record %d left out (%d so far): %s", index, len(self.unreadable), error)
