"""Records in the files of benchmarks, and scores of edits in a file of launch/score.py.

A list without records, or an empty text, is a fault.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from rewardedit_jax.data import json_files
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.listing import count_noun, list_lines

INSIDE_PARQUET = (
    "--scores identifies edits by their image files, but the images of this benchmark are inside its parquet files: "
    "measure a scorer with --model; or write the images to files, list them in EditReward's JSON layout of this "
    "benchmark, score those files, and give that list together with --scores"
)

Picture = Path | bytes  # an image file, or an encoded image
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


# Stored scores.

_Key = tuple[Path, Path, str]  # absolute source, absolute edited, instruction
_Triple = tuple[float, float, float]  # following, quality, overall


@dataclass(frozen=True)
class StoredScores:
    """Scores read from a file. A missing score of following or quality is replaced by the overall score."""

    file: Path
    scores: Mapping[_Key, _Triple]
    errors: Mapping[_Key, str]  # why an edit of the file has no score

    def find(self, source: Picture, edited: Picture, instruction: str) -> _Triple | str:
        """The scores of an edit, or why it has none. Raises ValueError for images that are no files."""
        if isinstance(source, bytes) or isinstance(edited, bytes):
            raise ValueError(INSIDE_PARQUET)
        key = source.resolve(), edited.resolve(), instruction
        return self.scores.get(key) or self.errors.get(key, f"{key[1]} has no score in {self.file}")


class _Mean(msgspec.Struct):
    mean: Number


_FileName = Annotated[str, msgspec.Meta(pattern=r"\A[^\0]+\Z")]


class _EditLine(msgspec.Struct):
    source: _FileName
    edited: _FileName
    instruction: str


class _ScoreLine(msgspec.Struct):
    overall: _Mean | None = None
    following: _Mean | None = None
    quality: _Mean | None = None
    error: str | None = None


def read_scores(file: Path) -> StoredScores:
    """The scores of a .jsonl file, as written by launch/score.py --output or in that form.

    A line is an object with `source`, `edited`, `instruction`, `overall` ({"mean": number}) and optionally `following`
    and `quality` in the same form; or with `error` instead of scores. Other keys are ignored. Relative paths are
    relative to the working directory; edits are found by file, whatever the spelling of the path.

    An edit with an error, with scores that are no finite numbers, or with two different scores has no score. That
    matters if a benchmark asks for it. A line that names no edit is an error.
    """
    lines, faults = json_files.read_list(file, dict[str, Any])
    named, more = json_files.validate([(name, line) for _, name, line in lines], _EditLine)
    if faults := faults + more:
        raise BadRecords(list_lines(f"{file}:", faults))
    scores: dict[_Key, _Triple] = {}
    errors: dict[_Key, str] = {}
    contradictory: dict[_Key, str] = {}
    for (_, name, line), entry in zip(lines, named, strict=True):
        key = Path(entry.value.source).resolve(), Path(entry.value.edited).resolve(), entry.value.instruction
        means = _means(line, name)
        if isinstance(means, str):
            errors.setdefault(key, f"{key[1]} was not scored ({means})")
        elif scores.setdefault(key, means) != means:
            contradictory[key] = f"{key[1]} has different scores, the last in {name}; keep one of them"
    known = {key: means for key, means in scores.items() if key not in contradictory}
    return StoredScores(file, known, errors | contradictory)


def _means(line: Mapping[str, Any], name: str) -> _Triple | str:
    """The means of following, quality and overall in a line, or why it has none."""
    valid, faults = json_files.validate([(name, line)], _ScoreLine)
    if faults:
        return faults[0]
    found = valid[0].value
    if found.error is not None:
        return f"{name}: {found.error}"
    # Only `overall` is required: published benchmarks use nothing else, and other judges may have nothing else.
    if found.overall is None:
        return f"{name}: expected overall or error"
    return tuple((part or found.overall).mean for part in (found.following, found.quality, found.overall))
