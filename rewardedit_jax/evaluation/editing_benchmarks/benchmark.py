"""What an editing benchmark consists of: its requests, the questions about each edit, how their answers are counted."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rewardedit_jax.data.encoded import EncodedRequest, RequestLabel, StoredRequests
from rewardedit_jax.data.json_files import read_list
from rewardedit_jax.data.layouts import LAYOUTS, Options
from rewardedit_jax.data.preparing import BAD_FILE
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome
from rewardedit_jax.judging.images import SIDE
from rewardedit_jax.judging.rubrics import Rubric
from rewardedit_jax.listing import count_noun, list_names

RUBRICS = Path(__file__).parent / "rubrics"
LEFT_OUT = "left out"  # the type of requests that a prepared data set lacks


@dataclass(frozen=True)
class Item:
    """One edit to make and to judge."""

    label: RequestLabel
    number: int  # in the whole benchmark, from 0: decides the seed
    file: str  # of the edit, below the folder of edits
    group: str  # items of one photograph are not independent of each other
    previous: str | None = None  # key of the item whose edit is the source; None: the benchmark has the source

    @property
    def key(self) -> str:
        return self.label.key


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of a benchmark, those included whose image is missing."""

    items: Sequence[Item]
    read: Callable[[Item], EncodedRequest]  # raises ValueError where there is no image


@dataclass(frozen=True, eq=False)
class Benchmark:
    """One editing benchmark."""

    name: str
    title: str
    version: int  # of what is asked and how it is counted: results of different versions are not compared
    asked: Sequence[Rubric]  # without texts, which lie in `RUBRICS`/name
    open: Callable[[Path], Requests]
    measures: Sequence[str]  # of the report: those of `asked`, and others that follow from them
    image_sizes: Sequence[str] = (SIDE,)  # ways of sizing images that a judge can be shown; the first is the default
    derived: Callable[[Mapping[str, Outcome]], Mapping[str, Outcome]] = dict  # outcomes that follow from the judge's
    sets: Callable[[Item], Sequence[str]] = lambda item: ()  # the subsets with numbers of their own that it is in
    has_whole: bool = True  # whether numbers over all items mean something
    takes_perspectives: bool = True  # whether a judge may be asked that has scores of perspectives only

    @property
    def rubrics(self) -> Path:
        """The folder of the texts that ship."""
        return RUBRICS / self.name

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
        stored, missing = _prepared(path, name)
    else:
        stored, missing = LAYOUTS[name].open(path, Options()), {}
        if stored.faults:
            heading = f"{path} is not {name} as it was published, {count_noun(len(stored.faults), 'bad entry')}"
            raise BadRecords(f"{heading}: {list_names(stored.faults, '; ')}")
    labels = [*stored.labels(), *(RequestLabel(key, "", LEFT_OUT) for key in missing)]
    if doubled := [key for key, count in Counter(label.key for label in labels).items() if count > 1]:
        raise BadRecords(f"{path}: {count_noun(len(doubled), 'key')} of {name} occur twice: {list_names(doubled)}.")
    items = [Item(label, number, file_of(label), group_of(label)) for number, label in enumerate(labels)]

    def read(item: Item) -> EncodedRequest:
        if item.key in missing:
            raise BadRecords(f"left out when {path} was prepared: {missing[item.key]}")
        return stored.encoded(item.number)

    return Requests(items, read)


class _Bad(msgspec.Struct):
    number: int
    reason: str


def _prepared(path: Path, name: str) -> tuple[StoredRequests, dict[str, str]]:
    """The prepared data set, and for each input that it lacks a key and the reason."""
    from rewardedit_jax.data.prepared_requests import PreparedRequests  # with TFDS, which takes a second

    stored = PreparedRequests(path)
    if stored.info.name != name:
        raise BadRecords(f"{path} has the data set {stored.info.name}: expected {name}.")
    listed, _ = read_list(path / BAD_FILE, _Bad) if (path / BAD_FILE).is_file() else ([], [])
    return stored, {f"input {entry.value.number}": entry.value.reason for entry in listed}
