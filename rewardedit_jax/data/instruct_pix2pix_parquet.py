"""InstructPix2Pix in the parquet layout of the Hugging Face hub.

Good for looking at the data or converting it; train from folders: shuffled, rows of parquet are slow (`parquet_rows`).
"""

from collections.abc import Sequence
from pathlib import Path

from rewardedit_jax.data.bad_records import BadRecords, ReadingSource
from rewardedit_jax.data.parquet_rows import ParquetRows, embedded_image
from rewardedit_jax.data.records import EditRecord

_COLUMNS = ("original_image", "edit_prompt", "edited_image")
_EXPECTED = """expected:
  <root>/
    *.parquet   columns original_image {bytes, path}, edit_prompt text, edited_image {bytes, path}
Hugging Face hub: timbrooks/instructpix2pix-clip-filtered, folder data."""


class InstructPix2PixParquet(ReadingSource):
    """The rows of parquet files, in the order of the files; of a directory, all `*.parquet` under it by name."""

    def __init__(self, files: str | Path | Sequence[str | Path], *, skip_bad: bool = False):
        """Reads the footer of every file.

        Raises:
          FileNotFoundError: if the directory, its parquet files or a named file are missing.
          BadRecords: naming the file that is not parquet or lacks a column; `skip_bad` is about rows, not
            files.
        """
        super().__init__(skip_bad)
        self._rows = ParquetRows(files, _COLUMNS, _EXPECTED)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> EditRecord:
        row, name = self._rows[index], self._rows.name(index)
        if not isinstance(row["edit_prompt"], str):
            raise BadRecords(f"{name}: edit_prompt is {row['edit_prompt']!r}, not a text.")
        images = (embedded_image(row[column], f"{column} of {name}") for column in ("original_image", "edited_image"))
        return EditRecord(f"{index:06d}", row["edit_prompt"], *images, scores=None, feedback=None)
