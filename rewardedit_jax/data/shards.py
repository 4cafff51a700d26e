"""Sets of array_record files that are written shard by shard, so that a stopped run loses one shard at most.

A numbered list of inputs becomes ceil(count / per_shard) files. Shard k holds the records of inputs k·per_shard to
(k+1)·per_shard - 1, in their order, without the bad ones. Beside it lie its index, a parquet file with a row for each
record, and its report, which names the bad inputs. Each file is whole or absent and the report is written last, so a
shard with a report is complete. Everything follows from the inputs: a run that was stopped, or done by several
machines, leaves the same bytes as one that was not.

The plan, a JSON file, says what the records follow from. A folder with another plan is refused.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pyarrow
from array_record.python.array_record_module import ArrayRecordWriter
from pyarrow import parquet
from tqdm import tqdm

from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.listing import list_names

PER_SHARD = 1000  # inputs; with images of 100 kB a shard has 200 MB
# One record per group: a read at random decompresses no others. Images and latents do not compress.
_OPTIONS = "group_size:1,uncompressed"
_AHEAD = 64  # inputs that threads prepare before they are written


@dataclass(frozen=True)
class StoredRow:
    """A record as it is written, and its row of the index."""

    data: bytes
    index: Mapping[str, Any]  # the same columns in all rows of a set


class BadInput(msgspec.Struct, frozen=True):
    """An input without a record."""

    number: int  # from 0, among all inputs
    reason: str  # names the input and the fault


class ShardReport(msgspec.Struct, frozen=True):
    """What a complete shard has."""

    records: int
    data_bytes: int  # of all records
    bad: list[BadInput]


@dataclass(frozen=True)
class ShardSet:
    """The files of `count` inputs in a folder."""

    folder: Path
    name: str  # dataset and split, "aurora-train"
    count: int
    per_shard: int = PER_SHARD

    def __post_init__(self):
        if min(self.count, self.per_shard) < 1:
            raise ValueError(f"{self.count} inputs in shards of {self.per_shard}: expected at least one of each")

    @property
    def shards(self) -> int:
        return -(-self.count // self.per_shard)

    @classmethod
    def stored(cls, folder: Path, name: str) -> "ShardSet":
        """The set of this name that was begun in a folder. Raises FileNotFoundError if there is none."""
        if not (file := _plan_file(folder, name)).is_file():
            raise FileNotFoundError(f"{folder} has no shards of {name}: no file {file.name}.")
        plan = msgspec.json.decode(file.read_bytes())
        return cls(folder, name, plan["count"], plan["per_shard"])

    def data_file(self, shard: int) -> Path:
        return self._file("array_record", shard)

    def index_file(self, shard: int) -> Path:
        return index_file(self.data_file(shard))

    def report_file(self, shard: int) -> Path:
        return self._file("report", shard, ".json")

    def inputs(self, shard: int) -> range:
        return range(self.count)[shard * self.per_shard : (shard + 1) * self.per_shard]

    def missing(self) -> list[int]:
        """The shards that are not complete."""
        return [shard for shard in range(self.shards) if not self.report_file(shard).is_file()]

    def reports(self, part: Shard | None = None) -> list[ShardReport]:
        """The reports of the shards of a part, or of all. Raises ValueError if some are missing."""
        mine = self._part(part)
        if missing := sorted({*self.missing()} & {*mine}):
            raise ValueError(
                f"{self.folder} lacks {len(missing)} of {self.shards} shards of {self.name}: "
                f"{list_names(missing)}; run the command again, on all its machines."
            )
        return [msgspec.json.decode(self.report_file(k).read_bytes(), type=ShardReport) for k in mine]

    def write(self, row: Callable[[int], StoredRow], plan: Mapping[str, Any], part: Shard | None = None) -> None:
        """Write the shards that are missing, with a progress bar over their inputs.

        Args:
          row: number of an input → its record; threads call it at the same time. ValueError makes it a bad input.
          plan: what the records follow from, JSON values. The folder keeps it, and refuses another one.
          part: the shards of this machine; None: all.
        Raises:
          ValueError: the folder holds a set with another plan.
          OSError: the disk is full, or files cannot be written. Complete shards stay.
        """
        self.keep_plan(plan)
        due = sorted({*self.missing()} & {*self._part(part)})
        numbers = [number for shard in due for number in self.inputs(shard)]
        rows = prefetch_map(row, ((number,) for number in numbers), _AHEAD)
        # The bar counts the inputs of this run: what earlier runs have done takes no time.
        with tqdm(total=len(numbers), desc=self.name, unit=" records", disable=not numbers) as bar:
            for shard in due:
                self._write_shard(shard, islice(rows, len(self.inputs(shard))), bar)

    def keep_plan(self, plan: Mapping[str, Any]) -> None:
        """Store the plan of the set, or raise ValueError if the folder has another one."""
        file, text = _plan_file(self.folder, self.name), self._plan_text(plan)
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            # A name of its own: machines that share the folder write the file at the same time.
            unfinished = file.with_name(f".{file.name}.{uuid4().hex}.part")
            unfinished.write_bytes(text)
            unfinished.replace(file)
        if (stored := file.read_bytes()) != text:
            here, asked = map(msgspec.json.decode, (stored, text))
            differing = sorted(name for name in here.keys() | asked.keys() if here.get(name) != asked.get(name))
            changes = "; ".join(f"{name}: {here.get(name)!r} there, {asked.get(name)!r} now" for name in differing)
            raise ValueError(f"{self.folder} was begun with other settings ({changes}): give another folder.")

    def merge(self, parts: Sequence[Path]) -> None:
        """Copy the shards that several machines wrote into folders of their own to this folder, which has the plan.

        A shard that this folder has already, such as by a merge that was stopped, is not copied again.

        Raises:
          FileNotFoundError: a part is no folder with shards of this set.
          ValueError: a shard is missing or in two parts, or the parts' plans differ.
        """
        where: dict[int, list[ShardSet]] = {shard: [] for shard in range(self.shards)}
        for part in parts:
            ShardSet.stored(part, self.name)  # before a plan is written there, as into a new folder
            found = ShardSet(part, self.name, self.count, self.per_shard)
            found.keep_plan(self.plan())
            for shard in {*range(self.shards)} - {*found.missing()}:
                where[shard].append(found)
        faults = {
            "missing": [shard for shard in self.missing() if not where[shard]],
            "found twice": [shard for shard, found in where.items() if len(found) > 1],
        }
        if any(faults.values()):
            listed = "; ".join(f"{len(k)} {what}: {list_names(k)}" for what, k in faults.items() if k)
            raise ValueError(f"the parts do not make up the {self.shards} shards of {self.name}: {listed}.")
        for shard in tqdm(self.missing(), desc=f"{self.name}, merged", unit=" shards", disable=not self.missing()):
            # The report is the last one again: it says that the others are complete.
            for file in (ShardSet.data_file, ShardSet.index_file, ShardSet.report_file):
                with atomic_write(file(self, shard)) as unfinished:
                    shutil.copyfile(file(where[shard][0], shard), unfinished)

    def plan(self) -> dict[str, Any]:
        """The plan that the folder keeps, as `write` takes it."""
        stored = msgspec.json.decode(_plan_file(self.folder, self.name).read_bytes())
        return {name: value for name, value in stored.items() if name not in ("count", "per_shard")}

    def _part(self, part: Shard | None) -> list[int]:
        """The shards of a machine."""
        return list(range(self.shards)) if part is None else part.of(range(self.shards))

    def _plan_text(self, plan: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode({**plan, "count": self.count, "per_shard": self.per_shard}, order="sorted") + b"\n"

    def _file(self, kind: str, shard: int, suffix: str = "") -> Path:
        # For the records this is the name that TFDS expects.
        return self.folder / f"{self.name}.{kind}-{shard:05d}-of-{self.shards:05d}{suffix}"

    def _write_shard(self, shard: int, rows: Iterable[Future[StoredRow]], bar: tqdm) -> None:
        index, bad, size = [], [], 0
        with atomic_write(self.data_file(shard)) as unfinished, _full_disk_errors(unfinished):
            writer = ArrayRecordWriter(os.fspath(unfinished), _OPTIONS)
            for number, future in zip(self.inputs(shard), rows, strict=True):
                try:
                    row = future.result()
                except ValueError as error:
                    # A key or a path may have a lone surrogate, which JSON in UTF-8 cannot hold.
                    reason = str(error).encode("utf-8", "backslashreplace").decode()
                    bad.append(BadInput(number, reason))
                else:
                    writer.write(row.data)
                    index.append(row.index)
                    size += len(row.data)
                bar.update()
            writer.close()
        with atomic_write(self.index_file(shard)) as unfinished:
            parquet.write_table(pyarrow.Table.from_pylist(index), unfinished, compression="zstd")
        with atomic_write(self.report_file(shard)) as unfinished:
            unfinished.write_bytes(msgspec.json.encode(ShardReport(len(index), size, bad)))


def index_file(data_file: Path) -> Path:
    """The index of the records in an array_record file."""
    return data_file.with_name(data_file.name.replace(".array_record-", ".index-") + ".parquet")


def _plan_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.plan.json"


def bad_inputs(reports: Iterable[ShardReport]) -> Iterator[BadInput]:
    """The bad inputs of all shards, in their order."""
    return (bad for report in reports for bad in report.bad)


def read_index(files: Sequence[Path], columns: Sequence[str]) -> pyarrow.Table:
    """The indexes of shards as one table."""
    tables = (parquet.read_table(file, memory_map=True) for file in files)
    # A shard without records has no columns. A column of nulls has no type in one shard and a type in another.
    tables = [table.select(list(columns)) for table in tables if table.num_rows]
    return pyarrow.concat_tables(tables, promote_options="default")


@contextmanager
def _full_disk_errors(file: Path) -> Iterator[None]:
    """Raises OSError, as Python's own files do, where the writer of array_record reports a full disk."""
    try:
        yield
    except RuntimeError as error:
        for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), os.fspath(file.parent)) from error
        raise
