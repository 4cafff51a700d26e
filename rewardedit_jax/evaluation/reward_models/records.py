"""Types of the records in the files of benchmarks, and how a record is checked.

A list without records, or an empty text, is a fault.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from rewardedit_jax.data import json_files
from rewardedit_jax.data.records import BadRecords, count_noun, list_lines

Record = TypeVar("Record")
Records = Annotated[list[Record], msgspec.Meta(min_length=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]  # finite


class EmbeddedImage(msgspec.Struct):
    """A cell of a parquet file."""

    bytes: Annotated[bytes, msgspec.Meta(min_length=1)]


def check_record(value: Any, type_: type[Record], name: str) -> Record:
    """The value as `type_`. Raises `BadRecords`, naming the value and its field, if it is not of that type."""
    entries, faults = json_files.validate([(name, value)], type_)
    if faults:
        raise BadRecords(faults[0])
    return entries[0].value


def read_records(file: Path, type_: type[Record], parse: Callable[[str, Record], Any]) -> list[Any]:
    """`parse(name, record)` of every record of a JSON list. Raises `BadRecords` with all faults, as `parse` does."""
    records = json_files.read_json(file, Records[Any])
    entries, faults = json_files.validate(((f"item {i}", record) for i, record in enumerate(records)), type_)
    parsed, more = json_files.convert(entries, lambda entry: parse(f"{file}, {entry.name}", entry.value))
    if faults := faults + more:
        # None is left out: that would change the denominator.
        heading = f"{file}: {count_noun(len(faults), 'bad record')} of {len(records)}:"
        raise BadRecords(list_lines(heading, faults))
    return [entry.value for entry in parsed]
