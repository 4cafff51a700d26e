"""The order of examples, and the replacement of bad records while they are read.

The batch that a step sees follows from (seed, step) alone. The records are shuffled anew in every epoch and laid end to
end; the batch of step s is records s·B .. (s+1)·B of that line. Each of `hosts` hosts reads its own slice of every
batch, so that the concatenation over hosts is the same batch whatever their number, and any step can be read without
those before it.

A record is bad if reading or preparing it raises ValueError, such as `ImageError` and `BadRecords`. By default that is
an error. With `skip_bad`, it is replaced by a record drawn from all. The draw depends on the seed and the place in line
only, so a resumed run draws the same. The next record would be a bad choice: the one behind a folder of broken images
would be trained on a thousand times, and one of the two rows of a tie more often than the other.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grain
import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.listing import count_noun

# With half of the records bad, 32 bad draws in a row happen once in 2³² records; with 9 in 10 bad, once in 30.
_MAX_DRAWS = 32
_REMEDY = "Repair or remove it, or set data.skip_bad=True to replace it by another record."


def ordered_batches(
    records: Any,
    prepare: Callable[[Any, int], Any],
    collate: Callable[[Sequence[Any]], Any],
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    shuffle: bool = True,
    repeat: bool = True,
    threads: int = 2,
    skip_bad: bool = False,
    name: Callable[[int], str] = "record {}".format,
) -> Iterator[Any]:
    """This host's part of the batches of steps `start`, `start + 1`, ...

    Args:
      records: random access, with a length.
      prepare: record and its place in line (from 0) → example. What is random about it must follow from the place.
      collate: examples, whose places follow one another, → batch.
      batch_size: B, over all hosts; a host's batches have `batch_size // hosts` examples.
      seed: 0 .. 2³²-1.
      repeat: False ends after one epoch; records that do not fill a batch are left out, with a warning in the log.
      threads: the number of batches that are read at the same time; 0 reads in the calling thread.
      skip_bad: whether bad records are replaced; the log names each once, with their number so far.
      name: number of a record → its name in messages. Records with one name are counted as one.
    Raises:
      ValueError: if the numbers do not fit each other. The iterator raises errors of reading: BadRecords for a bad
        record, or with `skip_bad` for 32 of them drawn one after the other.
    """
    _check(len(records), batch_size, host, hosts, repeat)
    # Numbers of records, so that reading happens below, where a bad record can be replaced. Places behind the end of an
    # epoch are those of the next one, which is shuffled anew.
    numbers = grain.MapDataset.range(len(records)).seed(seed)
    if shuffle:
        numbers = numbers.shuffle()
    share, places = batch_size // hosts, sys.maxsize if repeat else len(records)
    reader = _Reader(records, prepare, name, seed, BadRecordLog() if skip_bad else None)

    def block(number: int) -> Any:
        line = range(number * share, (number + 1) * share)
        return collate([reader.example(place, numbers[place]) for place in line])

    # Whole blocks at once: grain takes longer over a transformation of an element than over its number.
    blocks = grain.MapDataset.range(places // share).map(block)
    # Whole steps only: hosts with different numbers of batches would wait for each other for ever.
    end = places // batch_size * hosts
    # Hosts take turns: block s·hosts + host is the host's slice of batch s.
    mine = blocks[start * hosts + host : end : hosts]
    return iter(mine.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))


@dataclass
class BadRecordLog:
    """Logs each bad record once, with the number of bad records so far. Threads share it."""

    names: set[str] = field(default_factory=set)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def note(self, name: str, error: ValueError) -> None:
        """Logs the record, unless it has been logged before."""
        with self._lock:
            if name in self.names:
                return
            self.names.add(name)
            count = count_noun(len(self.names), "bad record")
        logging.warning("%s replaced by another record (%s so far): %s", name, count, error)


@dataclass(eq=False)
class _Reader:
    """Place in line and number of a record → example, of that record or of its replacement."""

    records: Any
    prepare: Callable[[Any, int], Any]
    name: Callable[[int], str]
    seed: int
    bad: BadRecordLog | None  # the only mutable state, behind a lock; None: a bad record is an error

    def example(self, place: int, number: int) -> Any:
        rng = None
        for _ in range(_MAX_DRAWS):
            try:
                return self.prepare(self.records[number], place)
            except ValueError as error:
                # Other types are faults of the program or the machine, not of the record.
                fault, name = error, self.name(number)
            if self.bad is None:
                raise BadRecords(f"{name}: {fault}\n{_REMEDY}") from fault
            self.bad.note(name, fault)
            # Of (seed, place in line): the replacement is the same in every run.
            rng = rng or np.random.default_rng([self.seed, place])
            number = int(rng.integers(len(self.records)))
        raise BadRecords(f"{_MAX_DRAWS} records, drawn one after the other, are bad; the last is {name}: {fault}")


def check_all_or_none(noun: str, values: Mapping[str, Any]) -> None:
    """Raises ValueError if only some records of a batch, by name, have a value: invented ones would be trained on."""
    without = [name for name, value in values.items() if value is None]
    if 0 < len(without) < len(values):
        raise ValueError(f"{without[0]} has no {noun}, other records of its batch have; expected all or none.")


def first_readable(records: Any, skip_bad: bool) -> Any:
    """The first record, or with `skip_bad` the first of those that can be read: what the others look like."""
    for number in range(len(records)):
        try:
            return records[number]
        except ValueError as error:
            if not skip_bad:
                raise BadRecords(f"record {number}: {error}\n{_REMEDY}") from error
    raise BadRecords(f"none of the {len(records)} records can be read.")


def recipe_order(config: ConfigDict, start: int) -> dict[str, Any]:
    """The arguments of `ordered_batches` for a recipe from step `start` on, on this host."""
    return {
        # A batch holds all micro-batches of its step.
        "batch_size": config.batch_size * config.accumulate,
        "seed": config.seed,
        "start": start,
        "host": jax.process_index(),
        "hosts": jax.process_count(),
        "threads": config.data.threads,
    }


def _check(records: int, batch_size: int, host: int, hosts: int, repeat: bool) -> None:
    if batch_size % hosts or batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected a positive multiple of the number of hosts, {hosts}.")
    if not 0 <= host < hosts:
        raise ValueError(f"host={host}: expected 0..{hosts - 1}.")
    if records == 0 or (records < batch_size and not repeat):
        raise ValueError(f"{records} records do not fill one batch of {batch_size}.")
    if not repeat and records % batch_size:
        logging.warning("%d of %d records do not fill a batch and are left out.", records % batch_size, records)
