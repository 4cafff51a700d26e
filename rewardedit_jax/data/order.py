"""The order of examples: which batch a step sees follows from (seed, step) alone.

The records are shuffled anew in every epoch and laid end to end; the batch of step s is records s·B ..
(s+1)·B of that line. Each of `hosts` hosts reads its own slice of every batch, so that the concatenation over
hosts is the same batch whatever their number, and any step can be had without reading those before it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict


def ordered_batches(
    records: Any,
    prepare: Callable[[Any, np.random.Generator], Any],
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
) -> Iterator[Any]:
    """This host's part of the batches of steps `start`, `start + 1`, ...

    Args:
      records: random access, with a length.
      prepare: record → example; the generator is seeded by the record's place in line.
      collate: examples → batch.
      batch_size: B, over all hosts; a host's batches have `batch_size // hosts` examples.
      seed: 0 .. 2³²-1.
      repeat: False ends after one epoch; records that do not fill a batch are left out, and the log says so.
      threads: how many batches are read side by side; 0 reads in the calling thread.
    Raises:
      ValueError: if the numbers do not fit each other. Errors of reading come from the iterator.
    """
    _check(len(records), batch_size, host, hosts, repeat)
    line = grain.MapDataset.source(records).seed(seed)
    if shuffle:
        line = line.shuffle()
    if repeat:
        line = line.repeat()
    examples = line.random_map(prepare)
    blocks = examples.batch(batch_size // hosts, drop_remainder=True, batch_fn=collate)
    # Whole steps only: hosts that disagree on their number would wait for each other for ever.
    end = len(examples) // batch_size * hosts
    mine = blocks[start * hosts + host : end : hosts]
    return iter(mine.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))


def recipe_order(config: ConfigDict, start: int) -> dict[str, Any]:
    """The order of a recipe from step `start` on, on this host; a batch has all micro-batches of its step."""
    return {
        "batch_size": config.batch_size * config.accumulate,
        "seed": config.seed,
        "start": start,
        "host": jax.process_index(),
        "hosts": jax.process_count(),
        "threads": config.data.threads,
    }


def _check(records: int, batch_size: int, host: int, hosts: int, repeat: bool) -> None:
    if batch_size % hosts or batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not a positive multiple of the {hosts} hosts.")
    if not 0 <= host < hosts:
        raise ValueError(f"host {host} is not one of 0..{hosts - 1}.")
    if records == 0 or (records < batch_size and not repeat):
        raise ValueError(f"{records} records do not fill one batch of {batch_size}.")
    if not repeat and records % batch_size:
        logging.warning("%d of %d records do not fill a batch and are left out.", records % batch_size, records)
