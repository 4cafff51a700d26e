"""JSON files: one reader for .json and .jsonl, the validation of entries against msgspec types, and lines to write.

The text is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one. Keys that a type does not name are
ignored.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rewardedit_jax.data.records import BadRecords

# msgspec appends the place of the fault to its messages: "Expected `str`, got `int` - at `$.scores[1]`".
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_STEPS = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")
_NOT_BLANK = r"`str` matching regex '\\S'"  # what msgspec says of `records.Instruction`
_MAX_VALUE = 60  # characters of a bad value that a message shows


class Entry(NamedTuple):
    """A valid entry of a list."""

    number: int  # from 0, bad entries included
    name: str  # in error messages: "entry 3", or in .jsonl files "line 4"
    value: Any  # of the type that was asked for


class NotJson(NamedTuple):
    """The value of a text that cannot be parsed, so that a bad line is listed with the other bad entries."""

    line: int  # where the parser stopped, from 1
    reason: str


def read_json(path: str | Path, type_: Any = Any) -> Any:
    """The value of a .json file, as `type_`. `BadRecords` names the line that is not JSON, or the field at fault."""
    value = parse_json(read_text(path))
    if isinstance(value, NotJson):
        raise BadRecords(f"{path}: line {value.line}: {value.reason}")
    entries, faults = validate([(str(path), value)], type_)
    if faults:
        raise BadRecords(faults[0])
    return entries[0].value


def read_list(path: str | Path, type_: Any) -> tuple[list[Entry], list[str]]:
    """The entries of a JSON list, or of a .jsonl file with one entry per line.

    Returns:
      The valid entries in the order of the file, and one line for each of the others that says what is wrong with it.
      A file that as a whole is not UTF-8 or not a JSON list is `BadRecords`.
    """
    if Path(path).suffix.lower() == ".jsonl":
        # Not splitlines(): strings in JSON may contain U+2028 and other characters that it splits at.
        # A mark may begin any line, where files with marks were joined.
        lines = [line.removeprefix("\ufeff") for line in read_text(path).split("\n")]
        return validate([(f"line {n}", parse_json(line)) for n, line in enumerate(lines, 1) if line.strip()], type_)
    values = read_json(path)
    if not isinstance(values, list):
        raise BadRecords(f"{path}: expected a JSON list, got {type(values).__name__}.")
    return validate([(f"entry {i}", value) for i, value in enumerate(values)], type_)


def validate(named: Iterable[tuple[str, Any]], type_: Any) -> tuple[list[Entry], list[str]]:
    """The valid values, as `type_`, and for each of the others one line that begins with its name."""
    entries, faults = [], []
    for number, (name, value) in enumerate(named):
        if isinstance(value, NotJson):
            # The name holds the line: that of the parser is always 1 within a line.
            faults.append(f"{name}: {value.reason}")
            continue
        try:
            entries.append(Entry(number, name, msgspec.convert(value, type_)))
        except msgspec.ValidationError as error:
            faults.append(f"{name}: {_describe(str(error), value)}")
    return entries, faults


def convert(entries: Iterable[Entry], function: Callable[[Entry], Any]) -> tuple[list[Entry], list[str]]:
    """The entries with a function's results as values, and as in `validate` those for which it raises ValueError."""
    converted, faults = [], []
    for entry in entries:
        try:
            converted.append(entry._replace(value=function(entry)))
        except ValueError as error:
            faults.append(f"{entry.name}: {error}")
    return converted, faults


def _describe(message: str, value: Any) -> str:
    """The message of msgspec with the field and its value first: "scores[1]=7: expected `float` <= 5.0"."""
    reason, field, *_ = *_PLACE.split(message), ""
    reason = (reason[0].lower() + reason[1:]).replace(_NOT_BLANK, "a text that is not blank")
    # msgspec writes "[...]" for a key of a dict: then the value that contains it is shown.
    for index, key in _STEPS.findall(field.partition("[...]")[0]):
        value = value[int(index)] if index else value[key]
    shown = repr(value)
    if len(shown) > _MAX_VALUE:
        shown = f"{shown[:_MAX_VALUE]}..."
    return f"{field}={shown}: {reason}" if field else f"{reason}: {shown}"


def read_text(path: str | Path) -> str:
    """The text of a file, without its byte order mark. Raises `BadRecords` if the file is not in a Unicode encoding."""
    data = Path(path).read_bytes()
    try:
        # By the byte order mark that editors on Windows write; it is not part of the text.
        return data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise BadRecords(f"{path}: not UTF-8 text ({error}); save it as UTF-8.") from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, or `NotJson`."""
    try:
        # Not by msgspec: it refuses a whole file for one NaN or Infinity, which Python writes. Here they pass, and
        # `validate` names the entry and the field: no range of numbers contains NaN.
        return json.loads(text)
    except json.JSONDecodeError as error:
        return NotJson(error.lineno, f"not JSON: {error.msg} at column {error.colno}")
    except UnicodeDecodeError as error:
        return NotJson(1, f"not UTF-8: {error}")


def to_line(entry: Mapping[str, Any]) -> bytes:
    """A line of a .jsonl file, in UTF-8."""
    # Without ASCII escapes, so that instructions in other scripts stay readable. Only lone surrogates are escaped, in
    # JSON as in Python, which puts them into file names that are not valid UTF-8.
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
