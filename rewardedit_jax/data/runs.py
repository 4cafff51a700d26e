"""Runs over lists of items: input lists, result files, failed items, shards.

Scoring, editing, labelling and evaluating a list share these rules. A result file has one JSON object per line, which
holds the key of its item, its result or its error, and the fingerprint of what made it. A run appends to the file and
skips the items that it has already, so a stopped run resumes with the same command. Failed items are kept with their
reason, and the next run tries them again. Results that are files of their own, such as images, are written with
`output_files.atomic_write`: a file that exists is complete.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable

import numpy as np
from absl import logging

from rewardedit_jax.data import json_files
from rewardedit_jax.data.output_files import atomic_write, set_lines_aside
from rewardedit_jax.listing import list_lines, list_names

Item = TypeVar("Item", bound=Hashable)


@runtime_checkable
class Result(Protocol):
    """The result of an item, or `Failed`."""

    def to_json(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Failed:
    """An item without a result."""

    reason: str  # a sentence that names the fault, without the name of the item

    @classmethod
    def not_finite(cls, what: str, dtype: Any) -> "Failed":
        """The failure of an item for which networks gave NaN or infinity; `what` it is, computed in `dtype`."""
        used = np.dtype(dtype).name
        remedy = (
            "check the model's weights"
            if used == "float32"
            else 'load the model with dtype="float32" (--dtype float32)'
        )
        return cls(f"{what} is NaN or infinite, computed in {used}: {remedy}.")

    def to_json(self) -> Mapping[str, Any]:
        return {"error": self.reason}


class NonFiniteResults(FloatingPointError):
    """Results of some items are NaN or infinite, as after an overflow of float16; the message names the items.

    `results` has one entry for each item: its result, or `Failed`.
    """

    def __init__(self, results: Sequence[Any]):
        failed = [i for i, result in enumerate(results) if isinstance(result, Failed)]
        which = f"edits {', '.join(map(str, failed))} of {len(results)}: " if len(results) > 1 else ""
        super().__init__(which + results[failed[0]].reason)
        self.results = results


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count` parts of a list: item k (from 0) with k mod count = index - 1.

    Neighbours go to different shards, so shards of a list that is sorted by size have about equal work.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard "I/N". Raises ValueError unless 1 ≤ I ≤ N."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"shard {text!r}: expected I/N with 1 ≤ I ≤ N, such as 1/4.")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items of this shard, in their order. An item that occurs several times belongs to one shard."""
        # Without duplicates, because two shards with the same item could not be merged.
        return list(dict.fromkeys(items))[self.index - 1 :: self.count]


def read_list(
    listing: Path, line_type: Any, parse: Callable[[int, Any], Sequence[Item]], example: str
) -> tuple[list[Item], list[str]]:
    """The items of a .jsonl file with one object per line (or of a .json file with a list of them).

    Args:
      line_type: a `msgspec.Struct` with the fields of an object.
      parse: number of the object (from 0) and object → items. It may raise ValueError.
      example: a valid line, for errors.
    Returns:
      The items, and for each line that is bad a sentence with the name of the file and the line.
    Raises:
      ValueError: the file has no lines, or all of them are bad; or it cannot be read as a whole (`BadRecords`).
    """
    entries, faults = json_files.read_list(listing, line_type)
    parsed, more = json_files.convert(entries, lambda entry: parse(entry.number, entry.value))
    items, faults = [item for entry in parsed for item in entry.value], faults + more
    if not items:
        heading = f"{listing}: all lines are bad" if faults else f"{listing} is empty"
        raise ValueError(list_lines(f"{heading}; expected lines such as {example}.", faults))
    return items, [f"{listing}, {fault}" for fault in faults]


@dataclass(frozen=True)
class ResultFile:
    """A .jsonl file of results."""

    path: Path
    key_fields: tuple[str, ...]  # attributes of an item and fields of its line, whose values are its key
    maker: str  # the field that holds the fingerprint of what made the result, such as "scorer"

    def run(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Iterable[tuple[Item, Result]]],
        fingerprint: str,
        *,
        is_complete: Callable[[Mapping[str, Any]], bool] = lambda line: True,
        retries: int = 0,
    ) -> dict[Item, Failed]:
        """Append the results of the items that the file does not have yet.

        Args:
          items: an item that occurs several times is worked on once.
          work: items → (item, result) for each.
          fingerprint: of what makes the results.
          is_complete: whether a stored line needs no new result.
          retries: how often failed items are tried again before their errors are written.
        Returns:
          The items that failed.
        Raises:
          ValueError: the file holds anything else, or results with another fingerprint.
        """
        # Before `work` starts, so that a wrong file fails at once.
        due, failed = self._due(items, fingerprint, is_complete), {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            for attempt in range(1 + retries):
                if due:
                    failed = self._append(file, work(due), fingerprint, with_errors=attempt == retries)
                    due = list(failed)
        return failed

    def merge(self, parts: Sequence[Path], items: Sequence[Item]) -> dict[Item, Failed]:
        """Write the results of all shards, in the order of `items`, to this file.

        Returns:
          The items that failed. A run over the merged file tries them again.
        Raises:
          FileExistsError: this file exists.
          ValueError: an item is missing, occurs twice or is not in the list; parts have different fingerprints.
        """
        if self.path.exists():
            raise FileExistsError(f"{self.path} exists: remove it, or merge into another file.")
        items = list(dict.fromkeys(items))
        counts, lines, errors, makers = Counter(), {}, {}, set()
        for raw, line in chain.from_iterable(self._scan(part, None) for part in parts):
            # A half-written last line is left out here, and its item is then reported as missing.
            if line is None:
                continue
            key = self._key_of_line(line)
            counts[key] += 1
            lines[key] = raw
            makers.add(str(line[self.maker]))
            if "error" in line:
                errors[key] = Failed(line["error"])
        if len(makers) > 1:
            raise ValueError(f"the parts come from different {self.maker}s: {', '.join(sorted(makers))}.")
        self._check_parts(counts, items)
        # Errors are merged too: an item that failed is not missing.
        self._write(lines[self._key(item)] for item in items)
        return {item: errors[key] for item in items if (key := self._key(item)) in errors}

    def _check_parts(self, counts: Mapping[tuple[Any, ...], int], items: Sequence[Item]) -> None:
        expected = dict.fromkeys(map(self._key, items))
        faults = {
            "missing": [key for key in expected if key not in counts],
            "found twice": [key for key, count in counts.items() if count > 1],
            "not in the list": [key for key in counts if key not in expected],
        }
        if any(faults.values()):
            found = ". ".join(_listed(name, keys) for name, keys in faults.items() if keys)
            raise ValueError(f"the parts do not make up the list of {len(items)} items. {found}.")

    def _append(
        self, file: BinaryIO, results: Iterable[tuple[Item, Result]], fingerprint: str, with_errors: bool
    ) -> dict[Item, Failed]:
        """Write results as they come; returns the failed items, whose errors are written only `with_errors`."""
        failed = {}
        for item, result in results:
            if isinstance(result, Failed):
                failed[item] = result
            if with_errors or not isinstance(result, Failed):
                key = dict(zip(self.key_fields, self._key(item), strict=True))
                file.write(json_files.to_line({**key, **result.to_json(), self.maker: fingerprint}))
                # A run that is killed loses only the items in progress.
                file.flush()
        return failed

    def _due(
        self, items: Sequence[Item], fingerprint: str, is_complete: Callable[[Mapping[str, Any]], bool]
    ) -> list[Item]:
        """The items without a complete result. Lines of failed or incomplete results are removed from the file."""
        done, unread, again = set(), [], 0

        def is_kept(line: Mapping[str, Any] | None) -> bool:
            return line is not None and "error" not in line and is_complete(line)

        for raw, line in self._scan(self.path, fingerprint) if self.path.is_file() else ():
            if is_kept(line):
                done.add(self._key_of_line(line))
                continue
            again += 1
            if line is None and raw.endswith(b"\n"):
                unread.append(raw.removesuffix(b"\n"))
        if unread:
            set_lines_aside(self.path, unread)
        # A half-written last line must go, because the next result would be appended to it.
        if again:
            logging.info("%s: %d items are tried again.", self.path, again)
            self._write(raw for raw, line in self._scan(self.path, fingerprint) if is_kept(line))
        due = [item for item in dict.fromkeys(items) if self._key(item) not in done]
        if done:
            logging.info("%s has %d items; %d are to do.", self.path, len(done), len(due))
        return due

    def results(self) -> Iterator[dict[str, Any]]:
        """The lines of the file, one by one, errors included. Raises ValueError for anything else in it."""
        return (line for _, line in self._scan(self.path, None) if line is not None)

    def _scan(self, path: Path, fingerprint: str | None) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        """The lines of a result file, each with its result, checked; None for lines that are damaged or half-written.

        Line by line: a file of two million results does not fit into memory as objects.
        """
        cut, damaged, found = json_files.NotJson(0, "half-written"), None, False
        # As bytes: a line may be cut within a character, which then is not valid UTF-8.
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                entry, name = json_files.parse_json(raw) if raw.endswith(b"\n") else cut, f"line {number} of {path}"
                if isinstance(entry, json_files.NotJson):
                    damaged = damaged or (None if entry is cut else (entry, name))
                    yield raw, None
                else:
                    found = True
                    yield raw, self._check(entry, name, fingerprint)
        # A file without any JSON was not written by a run: its lines are refused as other foreign lines are.
        if damaged and not found:
            self._check(*damaged, fingerprint)

    def _check(self, entry: Any, where: str, fingerprint: str | None) -> dict[str, Any]:
        """The result of a line. Raises ValueError unless it is one, with this fingerprint (None: any)."""
        required = (*self.key_fields, self.maker)
        # Only scalars can be keys; a list of scores may have the same field names with lists in them.
        if not (
            isinstance(entry, dict)
            and entry.keys() >= set(required)
            and all(isinstance(entry[name], str | int) for name in self.key_fields)
        ):
            raise ValueError(f"{where} is not a result: expected an object with {', '.join(required)}.")
        if fingerprint not in (None, entry[self.maker]):
            raise ValueError(
                f"{where} has {self.maker} {entry[self.maker]!r}, which differs from this run's {fingerprint!r} in its "
                "weights, settings or precision: give another output file."
            )
        return entry

    def _write(self, lines: Iterable[bytes]) -> None:
        with atomic_write(self.path) as unfinished, unfinished.open("wb") as file:
            file.writelines(lines)

    def _key(self, item: Item) -> tuple[Any, ...]:
        return tuple(getattr(item, name) for name in self.key_fields)

    def _key_of_line(self, line: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(line[name] for name in self.key_fields)


def _listed(name: str, keys: Sequence[tuple[Any, ...]]) -> str:
    """`3 missing: a b c`: the number of keys and the first of them."""
    return f"{len(keys)} {name}: {list_names([' '.join(map(str, key)) for key in keys], '; ')}"
