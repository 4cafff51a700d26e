"""Preparation of a data set: from the records of a source to a folder that `prepared` and TFDS read."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.naming import ShardedFileTemplate

from rewardedit_jax.data.encoded import Stored, StoredEdits
from rewardedit_jax.data.json_files import to_line
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.data.prepared import EDIT_FEATURES, edit_row
from rewardedit_jax.data.prepared_pairs import PAIR_FEATURES, pair_row
from rewardedit_jax.data.prepared_requests import REQUEST_FEATURES, request_row
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.data.shards import PER_SHARD, BadInput, ShardReport, ShardSet, StoredRow, bad_inputs
from rewardedit_jax.listing import list_names

SPLIT = "train"  # the one split of a prepared data set
_VERSION = "1.0.0"  # of the records' layout
BAD_FILE = "bad.jsonl"  # the inputs without a record, with their reasons


@dataclass(frozen=True)
class Kind:
    """A kind of records: their fields, and the function that stores one."""

    features: tfds.features.FeaturesDict
    row: Callable[[Any], StoredRow]


EDITS = Kind(EDIT_FEATURES, edit_row)
PAIRS = Kind(PAIR_FEATURES, pair_row)
REQUESTS = Kind(REQUEST_FEATURES, request_row)


@dataclass(frozen=True)
class Preparation:
    """The records of one split, to be written into a folder. `run` or several `run(part)` and a `merge`; `finish`."""

    shards: ShardSet
    split: str
    features: tfds.features.FeaturesDict
    row: Callable[[int], StoredRow]  # number of an input → its record; ValueError for a bad one
    plan: Mapping[str, Any]  # what the records follow from, as JSON
    description: str

    def run(self, part: Shard | None = None) -> None:
        """Write the shards that are missing (`ShardSet.write`)."""
        self.shards.write(self.row, self.plan, part)

    def finish(self) -> list[BadInput]:
        """Write the description that makes the folder a data set of TFDS; returns the bad inputs (`finish`)."""
        return finish(self.shards, self.split, self.features, self.description)


def prepare_edits(
    source: StoredEdits, folder: Path, name: str, description: str, per_shard: int = PER_SHARD
) -> Preparation:
    """The preparation of all edits of a source (`prepare_records`)."""
    return prepare_records(EDITS, source, folder, name, description, per_shard)


def prepare_records(
    kind: Kind,
    source: Stored,
    folder: Path,
    name: str,
    description: str,
    per_shard: int = PER_SHARD,
    origin: Mapping[str, Any] | None = None,
) -> Preparation:
    """The preparation of all records of a source. Entries that the source left out (`faults`) are bad inputs.

    Args:
      name: of the data set, a part of its file names.
      origin: where the source comes from, as JSON; another one is refused when the run goes on.
    Raises:
      BadRecords: the source is empty, or two records have one key.
      ValueError: the folder has another data set.
    """
    _check_folder(folder, name)
    keys, faults = source.keys(), source.faults
    if not len(keys) + len(faults):
        raise BadRecords(f"the source of {name} has no records.")
    if doubled := [key for key, count in Counter(keys).items() if count > 1]:
        raise BadRecords(f"{len(doubled)} keys of {name} occur more than once: {list_names(doubled)}.")

    count = len(keys)

    def row(number: int) -> StoredRow:
        # The faults have the last numbers.
        if number >= count:
            raise BadRecords(faults[number - count])
        return kind.row(source.encoded(number))

    plan = {**(origin or {}), "dataset": name, "records": source.fingerprint()}
    shards = ShardSet(folder, f"{name}-{SPLIT}", count + len(faults), per_shard)
    return Preparation(shards, SPLIT, kind.features, row, plan, description)


def _check_folder(folder: Path, name: str) -> None:
    """Raises ValueError if shards of another data set are in the folder: it can describe only one."""
    ours = f"{name}-{SPLIT}.plan.json"
    if others := sorted(file.name for file in folder.glob("*.plan.json") if file.name != ours):
        other = others[0].removesuffix(".plan.json")
        raise ValueError(f"{folder} has the data set {other}, asked for is {name}-{SPLIT}: give another folder.")


def merge(kind: Kind, folder: Path, parts: Sequence[Path], name: str, description: str) -> list[BadInput]:
    """Join the shards of several machines in a folder, and `finish` it. The source is not read.

    Args:
      parts: the folders of the machines; none if all wrote to `folder`.
    Raises:
      FileNotFoundError: a folder has no shards of this name.
      ValueError: a shard is missing or in two parts, the folders' plans differ, or `folder` has another data set.
    """
    _check_folder(folder, name)
    set_name = f"{name}-{SPLIT}"
    begun = ShardSet.stored(parts[0] if parts else folder, set_name)
    shards = ShardSet(folder, set_name, begun.count, begun.per_shard)
    shards.keep_plan(begun.plan())
    if parts:
        shards.merge(parts)
    return finish(shards, SPLIT, kind.features, description)


def finish(shards: ShardSet, split: str, features: tfds.features.FeaturesDict, description: str) -> list[BadInput]:
    """Write the description that makes the folder a data set of TFDS, and `bad.jsonl`; returns the bad inputs.

    Raises:
      ValueError: shards are missing, or no input gave a record.
    """
    reports = shards.reports()
    bad = list(bad_inputs(reports))
    with atomic_write(shards.folder / BAD_FILE) as unfinished:
        unfinished.write_bytes(b"".join(to_line({"number": b.number, "reason": b.reason}) for b in bad))
    if not sum(report.records for report in reports):
        raise ValueError(f"none of the {shards.count} inputs gave a record; the first: {bad[0].reason}")
    for left_over in shards.folder.glob(f".{shards.name}.*.part"):
        left_over.unlink(missing_ok=True)  # of runs that were killed
    write_info(shards, split, features, reports, description)
    return bad


def write_info(
    shards: ShardSet,
    split: str,
    features: tfds.features.FeaturesDict,
    reports: Sequence[ShardReport],
    description: str,
) -> None:
    """Write dataset_info.json and features.json, which `tfds.builder_from_directory` reads."""
    name, folder = shards.name.removesuffix(f"-{split}"), str(shards.folder)
    identity = DatasetIdentity(name=name, version=tfds.core.Version(_VERSION), data_dir=folder, module_name="")
    # The order of the records is that of the source.
    info = tfds.core.DatasetInfo(builder=identity, description=description, features=features, disable_shuffling=True)
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    files = ShardedFileTemplate(data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record")
    sizes = {
        "shard_lengths": [report.records for report in reports],
        "num_bytes": sum(report.data_bytes for report in reports),
    }
    info.set_splits(tfds.core.SplitDict([tfds.core.SplitInfo(name=split, filename_template=files, **sizes)]))
    with TemporaryDirectory() as written:
        info.write_to_directory(written)
        # Each file whole or absent; dataset_info.json, which makes the folder a data set, comes last.
        for file in sorted(Path(written).iterdir(), key=lambda file: file.name == "dataset_info.json"):
            with atomic_write(shards.folder / file.name) as unfinished:
                unfinished.write_bytes(file.read_bytes())
