"""InstructPix2Pix in the parquet layout of the Hugging Face hub.

Parquet is read by row group, not by row. In order, each group is read once; shuffled, almost every record
costs a whole group. Good for looking at the data or converting it; train from folders.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from rewardedit_jax.data.bad_records import BadRecords, ReadingSource
from rewardedit_jax.data.images import decode_image
from rewardedit_jax.data.records import EditRecord

_COLUMNS = ("original_image", "edit_prompt", "edited_image")
_EXPECTED = """expected:
  <root>/
    *.parquet   columns original_image {bytes, path}, edit_prompt text, edited_image {bytes, path}
Hugging Face hub: timbrooks/instructpix2pix-clip-filtered, folder data."""


class InstructPix2PixParquet(ReadingSource):
    """The rows of parquet files, in the order of the files; of a directory, all `*.parquet` in it by name."""

    def __init__(self, files: str | Path | Sequence[str | Path], *, skip_bad: bool = False):
        """Reads the footer of every file.

        Raises:
          FileNotFoundError: if the directory, its parquet files or a named file are missing.
          BadRecords: naming the file that is not parquet or lacks a column; `skip_bad` is about rows, not
            files.
        """
        super().__init__(skip_bad)
        self._groups: list[tuple[Path, int]] = []
        rows: list[int] = []
        for path in _listed(files):
            sizes = _row_group_sizes(path)
            self._groups += [(path, i) for i in range(len(sizes))]
            rows += sizes
        self._starts = list(accumulate(rows, initial=0))  # and the end
        self._last: tuple[int, pyarrow.Table] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def read(self, index: int) -> EditRecord:
        number = bisect_right(self._starts, index) - 1
        row = self._group(number).slice(index - self._starts[number], 1).to_pylist()[0]
        name = f"{self._groups[number][0]} row {index} of all"
        if not isinstance(row["edit_prompt"], str):
            raise BadRecords(f"{name}: edit_prompt is {row['edit_prompt']!r}, not a text.")
        source, edited = (_image(row[column], f"{column} of {name}") for column in ("original_image", "edited_image"))
        return EditRecord(f"{index:06d}", row["edit_prompt"], source, edited, scores=None, feedback=None)

    def _group(self, number: int) -> pyarrow.Table:
        last = self._last  # read once: another thread may put its own group there at any time
        if last is None or last[0] != number:
            path, group = self._groups[number]
            with parquet.ParquetFile(path) as file:
                last = self._last = (number, file.read_row_group(group, columns=list(_COLUMNS)))
        return last[1]


def _image(cell: Any, name: str) -> np.ndarray:
    if not isinstance(cell, dict) or not cell.get("bytes"):
        raise BadRecords(f"{name}: no image bytes.")
    return np.asarray(decode_image(cell["bytes"], name))


def _listed(files: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(files, str | Path):
        files = sorted(Path(files).glob("*.parquet")) if Path(files).is_dir() else [files]
        if not files:
            raise FileNotFoundError(f"no parquet file there; {_EXPECTED}")
    paths = [Path(file) for file in files]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"no file {', '.join(missing)}; {_EXPECTED}")
    return paths


def _row_group_sizes(path: Path) -> list[int]:
    try:
        with parquet.ParquetFile(path) as file:
            columns, metadata = file.schema_arrow.names, file.metadata
    except pyarrow.ArrowInvalid as error:
        raise BadRecords(f"{path} is not parquet: {error}") from error
    if lacking := [column for column in _COLUMNS if column not in columns]:
        raise BadRecords(f"{path} lacks {', '.join(lacking)}; {_EXPECTED}")
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
