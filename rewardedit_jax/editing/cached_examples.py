"""Training examples from a cache that launch/cache.py wrote: no image is read and no frozen network runs.

The cache numbers its records as the data does, bad ones included. Order, flips and replacements of bad records
(`data.order`) are therefore those of a training without a cache.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rewardedit_jax.bases.base import Precomputed, Start
from rewardedit_jax.data.array_records import ArrayRecords
from rewardedit_jax.data.order import ordered_batches
from rewardedit_jax.data.pipeline import draw_mirrors
from rewardedit_jax.data.records import BadRecords, Source, evenly_spaced
from rewardedit_jax.data.shards import PER_SHARD, ShardSet, bad_inputs, read_index
from rewardedit_jax.editing.cache_layout import CacheLayout
from rewardedit_jax.editing.cache_plan import check_edit, check_plan, make_plan, precomputing_params

_NAME = "examples"  # of the cache's files
INDEX = ("number", "key", "digest")  # columns of the index: of the record in the data, and of `read_edit`
_COMPARED = 16  # records that are compared with the data at the start


def cache_shards(folder: Path, records: int, batch_size: int) -> ShardSet:
    """The files of a cache. No batch of the networks crosses shards: a shard is the same whoever makes it."""
    return ShardSet(folder, _NAME, records, max(1, PER_SHARD // batch_size) * batch_size)


def shared_file(folder: Path) -> Path:
    """The file of what all examples share."""
    return folder / f"{_NAME}.shared"


def open_cache(folder: Path, config: ConfigDict, start: Start, source: Source) -> "CachedExamples":
    """The examples of a cache that was made for this recipe. Reads once the weights that it must follow from.

    Raises:
      FileNotFoundError: there is no cache.
      ValueError: it is not complete, has no examples, or follows from something else than the recipe.
    """
    try:
        shards = ShardSet.stored(folder, _NAME)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} holds no cache: make one with launch/cache.py.") from error
    stored, data = shards.plan(), config.data
    params = precomputing_params(start, config.seed)
    layout = CacheLayout.of(start.base, params, data.resolution, data.flip, stored["dtype"])
    check_plan(folder, stored, make_plan(config, start, params, layout, source))
    examples = CachedExamples(shards, layout)
    # Scores and images can change where keys do not, as in a folder; to read all of them is what a cache saves.
    for row in evenly_spaced(len(examples.index), _COMPARED):
        check_edit(folder, source, *(examples.index[column][row].as_py() for column in ("number", "digest")))
    return examples


class CachedExamples:
    """The examples of a cache, by the number of the data's record."""

    def __init__(self, shards: ShardSet, layout: CacheLayout):
        """Reads the index and the positions of all records. Raises ValueError if the cache is not complete or empty."""
        self._layout, every = layout, range(shards.shards)
        self._bad = {bad.number: bad.reason for bad in bad_inputs(shards.reports())}
        if len(self._bad) == shards.count:
            raise ValueError(
                f"the cache {shards.folder} has no example: all {shards.count} records of its data are bad."
            )
        self.index = read_index([shards.index_file(k) for k in every], INDEX)
        self._rows = np.full(shards.count, -1)  # by number of a record
        self._rows[self.index["number"].to_numpy()] = np.arange(len(self.index))
        self._records = ArrayRecords([shards.data_file(k) for k in every])
        self._shared = layout.shared.unpack(shared_file(shards.folder).read_bytes())

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> int:
        """The place of a record in the files. Raises `BadRecords` if it was bad when the cache was made."""
        if number in self._bad:
            raise BadRecords(self._bad[number])
        return int(self._rows[number])

    def batches(self, *, flip: bool, seed: int, skip_bad: bool, **order: Any) -> Iterator[Precomputed]:
        """This host's part of the batches, in the order of `pipeline.edit_batches`; `restore` completes them."""

        def collate(examples: Sequence[tuple[int, int]]) -> Precomputed:
            rows, places = zip(*examples, strict=True)
            mirrored = draw_mirrors(seed, places[0], len(places)).tolist() if flip else [False] * len(places)
            return self._layout.unpack(self._records, rows, mirrored)

        return ordered_batches(self, lambda *example: example, collate, seed=seed, skip_bad=skip_bad, **order)

    def restore(self, batch: Precomputed) -> Precomputed:
        """Traced: the batch as `Base.precompute` would give it."""
        return self._layout.restore(batch, self._shared)
