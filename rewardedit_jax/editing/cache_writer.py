"""Writing the cache of a recipe: what its frozen networks make of every record of its data (launch/cache.py)."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from rewardedit_jax.bases.base import Precomputed
from rewardedit_jax.data.clip_tokenizer import CutTexts
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.data.pipeline import EditBatch, collate_edits, resize_edit, reward_of
from rewardedit_jax.data.records import BadRecords, EditRecord
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.data.shards import BadInput, ShardSet, StoredRow, bad_inputs
from rewardedit_jax.editing.cache_layout import CacheLayout, empty_batch, shared_part
from rewardedit_jax.editing.cache_plan import check_trainable, make_plan, precomputing_params, read_edit
from rewardedit_jax.editing.cached_examples import INDEX, cache_shards, shared_file
from rewardedit_jax.editing.objective import precompute
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.params import Params
from rewardedit_jax.sharding import check_batch_size, global_batch, infer_shardings, make_mesh, place

_LATE = 64  # records behind the newest that `ShardSet.write` may still ask for


def write_cache(task: EditingTask, folder: Path, dtype: str, part: Shard | None = None) -> list[BadInput]:
    """Write the shards of the cache that are missing in a folder.

    Args:
      dtype: the widest type of stored numbers, "bfloat16" or "float32".
      part: the shards of this machine; None: all.
    Returns:
      The bad records of these shards.
    Raises:
      ValueError: the recipe trains a network whose results are to be cached; or the folder has another cache.
      OSError: the disk is full, or files cannot be written. Complete shards stay.
    """
    config = task.config
    check_trainable(task.start, task.trainable)
    check_batch_size(config.batch_size, make_mesh(**config.mesh))
    params = precomputing_params(task.start, config.seed)
    layout = CacheLayout.of(task.base, params, config.data.resolution, config.data.flip, dtype)
    choices = {"dtype": dtype, "batch_size": config.batch_size}
    plan = make_plan(config, task.start, params, layout, task.source) | choices
    shards = cache_shards(folder, len(task.source), config.batch_size)
    shards.keep_plan(plan)  # refuses the folder of another cache before anything is computed
    encoder = _Encoder(task, params, layout)
    if not shared_file(folder).is_file():
        # Machines that share the folder may write it at the same time: the same bytes, but only one can rename them.
        with suppress(FileNotFoundError), atomic_write(shared_file(folder)) as unfinished:
            unfinished.write_bytes(encoder.shared())
    with closing(_Rows(encoder, shards, threads=config.data.threads)) as rows:
        shards.write(rows, plan, part)
    return list(bad_inputs(shards.reports(part)))


@dataclass(frozen=True, eq=False)
class _Read:
    """A record before the networks."""

    number: int
    digest: str
    views: list[EditRecord]  # at the size of the networks: as it is and, where the recipe flips, mirrored


class _Encoder:
    """Numbers of records → the records of the cache. Threads call it at the same time."""

    def __init__(self, task: EditingTask, params: Params, layout: CacheLayout):
        self._source, self._base, self._layout = task.source, task.base, layout
        self._resolution, self.batch_size = task.config.data.resolution, task.config.batch_size
        self._read_texts = partial(task.base.read, report_cut=CutTexts())
        self._mesh = make_mesh(**task.config.mesh)
        self._params = place(params, infer_shardings(params, task.partition_rules, self._mesh))
        self._program = jax.jit(partial(precompute, task.base))
        self._device = threading.Lock()  # threads that compile the same program would each compile it

    def shared(self) -> bytes:
        """What all examples share, as it is stored."""
        return self._layout.shared.pack(
            shared_part(self._run(empty_batch(self._base, self.batch_size, self._resolution)))
        )

    def __call__(self, numbers: Sequence[int]) -> list[StoredRow | ValueError]:
        """For each record of a batch its row, or why it is bad."""
        found = [self._read(number) for number in numbers]
        good = [record for record in found if isinstance(record, _Read)]
        rows = iter(self._encode(good) if good else [])
        return [next(rows) if isinstance(record, _Read) else record for record in found]

    def _read(self, number: int) -> _Read | ValueError:
        try:
            record, digest = read_edit(self._source, number)
            # Read here, one by one: in a batch, a record without reward is a fault of all.
            if reward_of(record) is None and self._base.has_reward:
                raise BadRecords(f"record {record.key} lacks scores and feedback, which the editor trains on.")
            if not self._base.has_reward:
                record = replace(record, scores=None, feedback=None)
            mirrored = (False, True)[: self._layout.views]
            return _Read(number, digest, [resize_edit(record, self._resolution, mirror) for mirror in mirrored])
        except ValueError as error:
            return error

    def _encode(self, records: Sequence[_Read]) -> list[StoredRow | ValueError]:
        """The rows of up to `batch_size` records."""
        # Always of one size, so that one program serves all batches.
        padded = [*records, *[records[-1]] * (self.batch_size - len(records))]
        views = [
            self._run(collate_edits(of_view, read=self._read_texts))
            for of_view in zip(*(record.views for record in padded), strict=True)
        ]
        return [self._row(record, [_example(view, i) for view in views]) for i, record in enumerate(records)]

    def _run(self, batch: EditBatch) -> Precomputed:
        with self._device, jax.set_mesh(self._mesh):
            return jax.device_get(self._program(self._params, global_batch(batch, self._mesh)))

    def _row(self, record: _Read, views: Sequence[Precomputed]) -> StoredRow | ValueError:
        key = record.views[0].key
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(views)):
            return BadRecords(f"record {key}: the networks give NaN or infinity for it.")
        return StoredRow(self._layout.pack(views), dict(zip(INDEX, (record.number, key, record.digest), strict=True)))


def _example(examples: Precomputed, i: int) -> Precomputed:
    return jax.tree.map(lambda x: x[i], examples.replace(shared=None))


class _Rows:
    """Number of a record → its row, for `ShardSet.write`. Threads read whole batches ahead of the networks."""

    def __init__(self, encoder: _Encoder, shards: ShardSet, threads: int):
        self._encoder, self._shards = encoder, shards
        self._ahead = max(1, threads)  # batches
        self._pool = ThreadPoolExecutor(self._ahead, "cache")
        self._batches: OrderedDict[int, Future] = OrderedDict()  # by number of the batch, the newest last
        self._lock = threading.Lock()

    def __call__(self, number: int) -> StoredRow:
        batch, place_in_batch = divmod(number, self._encoder.batch_size)
        row = self._batch(batch).result()[place_in_batch]
        if isinstance(row, ValueError):
            raise row
        return row

    def _batch(self, batch: int) -> Future:
        size, per_shard = self._encoder.batch_size, self._shards.per_shard
        # Not beyond the shard: the next one may be another machine's.
        inputs = self._shards.inputs(batch * size // per_shard)
        with self._lock:
            for ahead in range(batch, min(batch + self._ahead, -(-inputs.stop // size))):
                if ahead not in self._batches:
                    numbers = range(ahead * size, min((ahead + 1) * size, inputs.stop))
                    self._batches[ahead] = self._pool.submit(self._encoder, numbers)
            wanted = self._batches[batch]
            while len(self._batches) > self._ahead + _LATE // size + 2:
                self._batches.popitem(last=False)
        return wanted

    def close(self) -> None:
        """Stop: batches that have not begun are not made."""
        self._pool.shutdown(cancel_futures=True)
