"""Rows of Arrow files by number, as `datasets.Dataset.save_to_disk` writes them."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow

from rewardedit_jax.data.parquet import list_files
from rewardedit_jax.data.records import BadRecords


class ArrowRows:
    """The rows of all `*.arrow` files under a directory, by name, or of one file. Has the methods of `ParquetRows`."""

    def __init__(self, place: str | Path, columns: Sequence[str], expected: str):
        """Maps the files into memory: rows are read from the disk at access.

        Raises:
          FileNotFoundError: there is no file; shows the `expected` layout.
          BadRecords: a file is not Arrow or lacks one of `columns`; names it.
        """
        self._paths = list_files(place, "*.arrow", expected)
        self._tables = [_open(path, columns, expected) for path in self._paths]
        self._starts = list(accumulate((table.num_rows for table in self._tables), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row as Python objects, column → value; 0 ≤ index < len."""
        table = bisect_right(self._starts, index) - 1
        return self._tables[table].slice(index - self._starts[table], 1).to_pylist()[0]

    def name(self, index: int) -> str:
        """The file and the row number, as errors name the row."""
        return f"{self._paths[bisect_right(self._starts, index) - 1]} row {index} of all"

    def only(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """All rows with these columns alone; the other columns are not read."""
        return [row for table in self._tables for row in table.select(list(columns)).to_pylist()]


def _open(path: Path, columns: Sequence[str], expected: str) -> pyarrow.Table:
    try:
        table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    except pyarrow.ArrowInvalid as error:
        raise BadRecords(f"{path} is not an Arrow stream: {error}") from error
    if lacking := [column for column in columns if column not in table.column_names]:
        raise BadRecords(f"{path} lacks {', '.join(lacking)}; {expected}")
    return table.select(list(columns))
