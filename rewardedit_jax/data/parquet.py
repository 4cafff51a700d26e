"""Rows of parquet files by number.

Parquet is read by row group, not by row. In order, each group is read once; in shuffled order, almost every row needs
a whole group to be read.
"""

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow
from pyarrow import parquet

from rewardedit_jax.data.records import BadRecords


class ParquetRows:
    """The rows of some files, in the order of the files; of a directory, those of `list_files`."""

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        columns: Sequence[str],
        expected: str,
        pattern: str = "*.parquet",
    ):
        """Reads the footer of every file.

        Args:
          pattern: of the names of files that are read of a directory.
        Raises:
          FileNotFoundError: a file is missing, or the directory has none; shows the `expected` layout.
          BadRecords: a file is not parquet or lacks one of `columns`; names it.
        """
        self._columns = list(columns)
        self._paths = list_files(files, pattern, expected)
        groups = [(path, i, n) for path in self._paths for i, n in enumerate(_group_sizes(path, columns, expected))]
        self._groups = [(path, i) for path, i, _ in groups]
        self._starts = list(accumulate((n for *_, n in groups), initial=0))  # first row of each group; last: the end
        # The groups read last, decoded. Two: threads that read in order are in one group or the next. Not more, as the
        # images of a group may take a gigabyte.
        self._cached: dict[int, Future[pyarrow.Table]] = {}  # of a group in work: others wait for it
        self._lock = Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        # A copy for another process does not carry the cached groups.
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {"_cached": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": Lock()}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row as Python objects, column → value; 0 ≤ index < len. Raises `BadRecords` if its group is damaged."""
        group = self._group_of(index)
        return self._read(group).slice(index - self._starts[group], 1).to_pylist()[0]

    def name(self, index: int) -> str:
        """The file and the row number, as errors name the row."""
        return f"{self._groups[self._group_of(index)][0]} row {index} of all"

    def only(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """All rows with these columns alone; the other columns are not read."""
        rows = []
        for path in self._paths:
            with parquet.ParquetFile(path) as file:
                rows += file.read(columns=list(columns)).to_pylist()
        return rows

    def _group_of(self, index: int) -> int:
        # From the right: empty groups share their start with the next one.
        return bisect_right(self._starts, index) - 1

    def _read(self, group: int) -> pyarrow.Table:
        with self._lock:
            is_due = group not in self._cached
            if is_due:
                # The older one goes before the next is read: at most two are kept.
                while len(self._cached) > 1:
                    del self._cached[next(iter(self._cached))]
                self._cached[group] = Future()
            table = self._cached[group]
        if is_due:
            try:
                table.set_result(self._decode(*self._groups[group]))
            except BaseException as error:
                # Not kept: the next thread that needs the group tries again, as after a fault of a network disk.
                with self._lock:
                    self._cached.pop(group, None)
                table.set_exception(error)
        return table.result()

    def _decode(self, path: Path, number: int) -> pyarrow.Table:
        try:
            with parquet.ParquetFile(path) as file:
                return file.read_row_group(number, columns=self._columns)
        except (OSError, pyarrow.ArrowException) as error:
            raise BadRecords(f"{path}: row group {number} cannot be read: {error}") from error


def embedded_bytes(cell: Any, name: str) -> bytes:
    """The encoded image of a cell {bytes, path}. Raises `BadRecords`, with `name`, if there is none."""
    if not isinstance(cell, dict) or not cell.get("bytes"):
        raise BadRecords(f"{name}: no image bytes.")
    return cell["bytes"]


def list_files(files: str | Path | Sequence[str | Path], pattern: str, expected: str) -> list[Path]:
    """The files; of a directory, those under it whose name has the pattern, by name.

    Raises:
      FileNotFoundError: there is none, or one is missing; shows the `expected` layout.
    """
    if isinstance(files, str | Path):
        # Without hidden files, such as macOS's `._train.parquet`.
        below = (file for file in Path(files).rglob(pattern) if not file.name.startswith("."))
        place, files = files, sorted(below) if Path(files).is_dir() else [files]
        if not files:
            raise FileNotFoundError(f"no file {pattern} under {place}; {expected}")
    paths = [Path(file) for file in files]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"no file {', '.join(missing)}; {expected}")
    return paths


def _group_sizes(path: Path, columns: Sequence[str], expected: str) -> list[int]:
    """The number of rows of each row group of a file."""
    try:
        with parquet.ParquetFile(path) as file:
            present, metadata = file.schema_arrow.names, file.metadata
    except pyarrow.ArrowInvalid as error:
        raise BadRecords(f"{path} is not parquet: {error}") from error
    if lacking := [column for column in columns if column not in present]:
        raise BadRecords(f"{path} lacks {', '.join(lacking)}; {expected}")
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
