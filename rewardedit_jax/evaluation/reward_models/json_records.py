"""JSON files of benchmarks, with one clear sentence for each way in which they may not be what they should."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MOST_LISTED = 10


def read_json(file: Path, what: str) -> Any:
    """The content of a JSON file; `what` it is, an error says.

    Raises:
      FileNotFoundError, ValueError: if it is missing or no JSON.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; it should hold {what}.")
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:  # also of bytes that are no UTF-8
        raise ValueError(f"{file} is no JSON: {error}; it should hold {what}.") from error


def read_records(file: Path, keys: Iterable[str], what: str) -> list[dict[str, Any]]:
    """The objects of a JSON list, each with all the keys.

    Raises:
      FileNotFoundError, ValueError: if the file is missing, no list, empty, or an item lacks a key.
    """
    records = read_json(file, what)
    if not isinstance(records, list) or not records:
        raise ValueError(f"{file} holds no list of objects with the keys {', '.join(keys)}; it should hold {what}.")
    for i, record in enumerate(records):
        lacking = [key for key in keys if not isinstance(record, dict) or key not in record]
        if lacking:
            raise ValueError(f"{file}, item {i}: no {', '.join(lacking)}; it should hold {what}.")
    return records


def listed(names: Iterable[Any], between: str = ", ") -> str:
    """Names in one line, the first of them where there are many."""
    names = [str(name) for name in names]
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return between.join(names[:MOST_LISTED]) + more


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
