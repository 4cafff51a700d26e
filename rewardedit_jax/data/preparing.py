"""Preparation of a data set: from the records of a source to a folder that `prepared` and TFDS read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.naming import ShardedFileTemplate

from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.data.json_files import to_line
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.data.prepared import EDIT_FEATURES, edit_row
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.data.shards import PER_SHARD, BadInput, ShardReport, ShardSet, StoredRow, bad_inputs

_VERSION = "1.0.0"  # of the records' layout
BAD_FILE = "bad.jsonl"  # the inputs without a record, with their reasons


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

    def merge(self, parts: Sequence[Path]) -> None:
        """Take over the shards of other folders (`ShardSet.merge`)."""
        self.shards.folder.mkdir(parents=True, exist_ok=True)
        self.shards.keep_plan(self.plan)
        self.shards.merge(parts)

    def finish(self) -> list[BadInput]:
        """Write the description that makes the folder a data set of TFDS; returns the bad inputs.

        Raises:
          ValueError: shards are missing, or no input gave a record.
        """
        reports = self.shards.reports()
        bad = list(bad_inputs(reports))
        if not sum(report.records for report in reports):
            raise ValueError(f"none of the {self.shards.count} inputs gave a record; the first: {bad[0].reason}")
        with atomic_write(self.shards.folder / BAD_FILE) as unfinished:
            unfinished.write_bytes(b"".join(to_line({"number": b.number, "reason": b.reason}) for b in bad))
        write_info(self.shards, self.split, self.features, reports, self.description)
        return bad


def prepare_edits(
    source: StoredEdits, folder: Path, name: str, description: str, per_shard: int = PER_SHARD
) -> Preparation:
    """The preparation of all edits of a source as the split "train".

    Args:
      name: of the data set, a part of its file names.
    """
    keys = source.keys()
    plan = {"dataset": name, "keys": sha256("\n".join(keys).encode("utf-8", "surrogatepass")).hexdigest()}
    shards = ShardSet(folder, f"{name}-train", len(keys), per_shard)
    return Preparation(shards, "train", EDIT_FEATURES, lambda i: edit_row(source.encoded(i)), plan, description)


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
    info.write_to_directory(folder)
