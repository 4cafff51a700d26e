"""Rows of parquet files by number.

Parquet is read by row group, not by row. In order, each group is read once; shuffled, almost every row costs a whole
group.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from jaxtyping import UInt8
from pyarrow import parquet

from rewardedit_jax.data.bad_records import BadRecords
from rewardedit_jax.data.images import decode_image


class ParquetRows:
    """The rows of some files, in their order; of a directory, of all `*.parquet` under it by name."""

    def __init__(self, files: str | Path | Sequence[str | Path], columns: Sequence[str], expected: str):
        """Reads the footer of every file. `expected`: the layout, told when files or columns are missing.

        Raises:
          FileNotFoundError: if the directory, its parquet files or a named file are missing.
          BadRecords: naming the file that is not parquet or lacks one of `columns`.
        """
        self._columns = list(columns)
        self._paths = _listed(files, expected)
        groups = [(path, i, size) for path in self._paths for i, size in enumerate(_sizes(path, columns, expected))]
        self._groups = [(path, i) for path, i, _ in groups]
        self._starts = list(accumulate((size for *_, size in groups), initial=0))  # and the end
        self._last: tuple[int, pyarrow.Table] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row as Python objects, column → value; 0 ≤ index < len."""
        number = bisect_right(self._starts, index) - 1
        return self._group(number).slice(index - self._starts[number], 1).to_pylist()[0]

    def name(self, index: int) -> str:
        """What an error calls the row."""
        number = bisect_right(self._starts, index) - 1
        return f"{self._groups[number][0]} row {index} of all"

    def only(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """All rows with these columns alone; reads nothing of the others."""
        rows = []
        for path in self._paths:
            with parquet.ParquetFile(path) as file:
                rows += file.read(columns=list(columns)).to_pylist()
        return rows

    def _group(self, number: int) -> pyarrow.Table:
        last = self._last  # read once: another thread may put its own group there at any time
        if last is None or last[0] != number:
            path, group = self._groups[number]
            with parquet.ParquetFile(path) as file:
                last = self._last = (number, file.read_row_group(group, columns=self._columns))
        return last[1]


def embedded_image(cell: Any, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB image of a cell {bytes, path}. Raises `BadRecords` or `ImageError`, with `name`, if there is none."""
    if not isinstance(cell, dict) or not cell.get("bytes"):
        raise BadRecords(f"{name}: no image bytes.")
    return np.asarray(decode_image(cell["bytes"], name))


def _listed(files: str | Path | Sequence[str | Path], expected: str) -> list[Path]:
    if isinstance(files, str | Path):
        place, files = files, sorted(Path(files).rglob("*.parquet")) if Path(files).is_dir() else [files]
        if not files:
            raise FileNotFoundError(f"no parquet file under {place}; {expected}")
    paths = [Path(file) for file in files]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"no file {', '.join(missing)}; {expected}")
    return paths


def _sizes(path: Path, columns: Sequence[str], expected: str) -> list[int]:
    try:
        with parquet.ParquetFile(path) as file:
            present, metadata = file.schema_arrow.names, file.metadata
    except pyarrow.ArrowInvalid as error:
        raise BadRecords(f"{path} is not parquet: {error}") from error
    if lacking := [column for column in columns if column not in present]:
        raise BadRecords(f"{path} lacks {', '.join(lacking)}; {expected}")
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
