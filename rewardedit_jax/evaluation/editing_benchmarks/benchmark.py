"""What an editing benchmark consists of: its requests, the questions about each edit, how their answers are counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from rewardedit_jax.data.encoded import AskedEdits, EncodedRequest, RequestLabel, Stored
from rewardedit_jax.data.json_files import read_list
from rewardedit_jax.data.layouts import LAYOUTS, Options
from rewardedit_jax.data.preparing import BAD_FILE
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome
from rewardedit_jax.judging.images import SIDE
from rewardedit_jax.judging.rubrics import Rubric
from rewardedit_jax.listing import count_noun, list_names

RUBRICS = Path(__file__).parent / "rubrics"  # a folder for each set of texts that ships
LEFT_OUT = "left out"  # the type of requests that a prepared data set lacks


@dataclass(frozen=True)
class Item:
    """One edit to make and to judge."""

    label: RequestLabel
    number: int  # in the whole benchmark, from 0: decides the seed
    file: str  # of the edit, below the folder of edits
    group: str  # items of one photograph are not independent of each other
    previous: str | None = None  # key of the item whose edit is the source; None: the benchmark has the source
    is_paired: bool = True  # whether metrics compare the edit with its target and source

    @property
    def key(self) -> str:
        return self.label.key


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of a benchmark, those included whose image is missing."""

    items: Sequence[Item]
    read: Callable[[Item], EncodedRequest]  # raises ValueError where there is no image
    target: Callable[[Item], EncodedRequest] | None = None  # the same for the edited image that is right, as `source`


@dataclass(frozen=True, eq=False)
class Benchmark:
    """One editing benchmark."""

    name: str
    title: str
    version: int  # of what is asked and how it is counted: results of different versions are not compared
    asked: Sequence[Rubric]  # without texts
    rubrics: Path  # the folder of the texts that ship
    open: Callable[..., Requests]  # of a path, and of `options` by their names
    measures: Sequence[str]  # of the report: those of `asked`, and others that follow from them
    image_sizes: Sequence[str] = (SIDE,)  # ways of sizing images that a judge can be shown; the first is the default
    derived: Callable[[Mapping[str, Outcome]], Mapping[str, Outcome]] = dict  # outcomes that follow from the judge's
    sets: Callable[[Item], Sequence[str]] = lambda item: ()  # the subsets with numbers of their own that it is in
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the command line, for argparse
    metrics: Sequence[str] = ()  # of `metrics.suite` that are measured unless arguments say otherwise
    has_whole: bool = True  # whether numbers over all items mean something
    takes_perspectives: bool = True  # whether a judge may be asked that has scores of perspectives only

    @property
    def with_yes(self) -> set[str]:
        """The measures that have a yes or no."""
        return {rubric.measure for rubric in self.asked if rubric.form.yes_no}


def open_requests(
    path: Path,
    name: str,
    file_of: Callable[[RequestLabel], str] = lambda label: f"{label.key}.png",
    group_of: Callable[[RequestLabel], str] = lambda label: label.key,
) -> Requests:
    """The requests of a folder in the benchmark's published layout, or of a prepared data set of it.

    A prepared data set names the inputs that it has left out; they count as requests without an image.

    Raises:
      FileNotFoundError, BadRecords: as the readers; also if two requests have one key, or the data set is another one.
    """
    if (path / "dataset_info.json").is_file():
        from rewardedit_jax.data.prepared_requests import PreparedRequests  # with TFDS, which takes a second

        stored, missing = _prepared(path, name, PreparedRequests)
    else:
        stored, missing = LAYOUTS[name].open(path, Options()), {}
        _check_complete(stored, path, name)
    labels = _labels(stored.labels(), missing, path, name)
    items = [Item(label, number, file_of(label), group_of(label)) for number, label in enumerate(labels)]

    def read(item: Item) -> EncodedRequest:
        if item.key in missing:
            raise BadRecords(f"left out when {path} was prepared: {missing[item.key]}")
        return stored.encoded(item.number)

    return Requests(items, read)


def _check_complete(stored: Stored, path: Path, name: str) -> None:
    if stored.faults:
        faults = list_names(stored.faults, "; ")
        raise BadRecords(f"{path} is not {name} as it was published, {len(stored.faults)} bad entries: {faults}")


class _Bad(msgspec.Struct):
    number: int
    reason: str


def _prepared(path: Path, name: str, reader: Callable[[Path], Any]) -> tuple[Any, dict[str, str]]:
    """The prepared data set, and for each input that it lacks a key and the reason."""
    stored = reader(path)
    if stored.info.name != name:
        raise BadRecords(f"{path} has the data set {stored.info.name}: expected {name}.")
    listed, _ = read_list(path / BAD_FILE, _Bad) if (path / BAD_FILE).is_file() else ([], [])
    return stored, {f"input {entry.value.number}": entry.value.reason for entry in listed}


def _labels(known: Sequence[RequestLabel], missing: Iterable[str], path: Path, name: str) -> list[RequestLabel]:
    """The labels of all requests, last of those that a prepared data set lacks."""
    labels = [*known, *(RequestLabel(key, "", LEFT_OUT) for key in missing)]
    if doubled := [key for key, count in Counter(label.key for label in labels).items() if count > 1]:
        raise BadRecords(f"{path}: {count_noun(len(doubled), 'key')} of {name} occur twice: {list_names(doubled)}.")
    return labels


def open_edits_of(
    path: Path, name: str, published: Callable[[Path], AskedEdits]
) -> tuple[AskedEdits, list[RequestLabel], dict[str, str]]:
    """A benchmark that has an edited image for each request, as published or prepared.

    Returns:
      The edits; the labels of all requests; the key and the reason of each that a prepared data set lacks.
    """
    if (path / "dataset_info.json").is_file():
        from rewardedit_jax.data.prepared import PreparedEdits

        stored, missing = _prepared(path, name, PreparedEdits)
    else:
        stored, missing = published(path), {}
        _check_complete(stored, path, name)
    return stored, _labels(stored.labels(), missing, path, name), missing


def requests_of(stored: AskedEdits, items: Sequence[Item], missing: Mapping[str, str]) -> Requests:
    """The requests of edits: item number i asks for edit i, whose edited image is the target."""

    def read(item: Item, target: bool) -> EncodedRequest:
        if item.key in missing:
            raise BadRecords(f"left out when the data set was prepared: {missing[item.key]}")
        edit = stored.encoded(item.number)
        image, name = (edit.edited, edit.names[1]) if target else (edit.source, edit.names[0])
        return EncodedRequest(edit.key, edit.instruction, image, item.label.edit_type, edit.extra, name)

    return Requests(items, lambda item: read(item, False), lambda item: read(item, True))
