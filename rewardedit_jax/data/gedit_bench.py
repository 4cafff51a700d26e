"""GEdit-Bench: 606 images with an instruction in English and in Chinese (Step1X-Edit, arXiv:2504.17761)."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from rewardedit_jax.data.arrow import ArrowRows
from rewardedit_jax.data.encoded import EncodedRequest, RequestLabel, StoredRequests
from rewardedit_jax.data.json_files import validate
from rewardedit_jax.data.parquet import ParquetRows, embedded_bytes
from rewardedit_jax.data.records import Instruction, raise_or_log

_IMAGE = "input_image"
_LAYOUT = """expected:
  <root>/
    data-*.arrow (or *.parquet)   columns key, task_type, instruction, instruction_language (en | cn),
                                  Intersection_exist, input_image {bytes, path}
Hugging Face hub: stepfun-ai/GEdit-Bench."""


class _Row(msgspec.Struct):
    """The columns without the image."""

    key: str
    task_type: str
    instruction: Instruction
    instruction_language: Literal["en", "cn"]
    Intersection_exist: bool  # whether all models that the benchmark compares have answered


class GEditBench(StoredRequests):
    """The rows in the order of the files. Keys are "language/key"; `extra` has "language" and "intersection".

    The source is `input_image`, of about 512² pixels; `input_image_raw` is not read.
    """

    def __init__(self, root: str | Path, *, skip_bad: bool = False):
        """Reads all columns but the images.

        Raises:
          FileNotFoundError, BadRecords: as `ArrowRows` and `ParquetRows`.
          BadRecords: listing every malformed row, unless `skip_bad` leaves them out.
        """
        columns = _Row.__struct_fields__
        is_arrow = Path(root).suffix == ".arrow" or any(Path(root).rglob("*.arrow"))
        self._rows = (ArrowRows if is_arrow else ParquetRows)(root, (*columns, _IMAGE), _LAYOUT)
        named = ((self._rows.name(number), row) for number, row in enumerate(self._rows.only(columns)))
        self._entries, faults = validate(named, _Row)
        self.faults = raise_or_log(faults, str(root), skip_bad)

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> list[str]:
        return [_key(entry.value) for entry in self._entries]

    def fingerprint_texts(self) -> list[str]:
        return [str(entry.value) for entry in self._entries]

    def labels(self) -> list[RequestLabel]:
        rows = (entry.value for entry in self._entries)
        return [RequestLabel(_key(row), row.instruction, row.task_type, _extra(row)) for row in rows]

    def encoded(self, index: int) -> EncodedRequest:
        number, place, row = self._entries[index]
        name = f"{_IMAGE} of {place}"
        image = embedded_bytes(self._rows[number][_IMAGE], name)
        return EncodedRequest(_key(row), row.instruction, image, row.task_type, _extra(row), name)


def _extra(row: _Row) -> dict[str, Any]:
    return {"language": row.instruction_language, "intersection": row.Intersection_exist}


def _key(row: _Row) -> str:
    return f"{row.instruction_language}/{row.key}"
