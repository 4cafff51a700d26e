"""The kept edits as a prepared data set: prepared records byte for byte, others with their images as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import logging

from rewardedit_jax.data.encoded import Stored, digest_texts
from rewardedit_jax.data.prepared import EDIT_FEATURES, Prepared, edit_row
from rewardedit_jax.data.preparing import BAD_FILE, SPLIT, Preparation
from rewardedit_jax.data.shards import PER_SHARD, BadInput, ShardSet, StoredRow

_INFO_FILES = ("dataset_info.json", "features.json", BAD_FILE)


def write_kept(records: Stored, kept: Sequence[int], folder: Path, per_shard: int = PER_SHARD) -> list[BadInput]:
    """Write the records with these numbers, edits or prepared pairs; a stopped run goes on.

    Records that were written for another choice are replaced: a record that failed before may be kept now.

    Returns:
      Those that could not be read again.
    """
    is_prepared = isinstance(records, Prepared)
    name = records.info.name if is_prepared else "edits"
    keys = records.keys()
    chosen = digest_texts(keys[number] for number in kept)
    shards = ShardSet(folder, f"{name}-{SPLIT}", len(kept), per_shard)
    plan = {"dataset": name, "kept": chosen}

    def row(index: int) -> StoredRow:
        return records.stored(kept[index]) if is_prepared else edit_row(records.encoded(kept[index]))

    _remove_others(shards, plan)
    features = records.info.features if is_prepared else EDIT_FEATURES
    preparation = Preparation(shards, SPLIT, features, row, plan, f"The part that a curation of {name} kept.")
    preparation.run()
    return preparation.finish()


def _remove_others(shards: ShardSet, plan: Mapping[str, str]) -> None:
    """Remove the shards of another choice of edits; the settings of the curation are the same."""
    try:
        begun = ShardSet.stored(shards.folder, shards.name)
    except FileNotFoundError:
        return
    if begun == shards and begun.plan() == plan:
        return
    logging.warning("%s: other edits are kept than by an earlier run; its records are replaced.", shards.folder)
    # The description first, so that nobody reads a part for the whole; the plan last, so that a kill is noticed.
    files = sorted(shards.folder.glob(f"{shards.name}.*"), key=lambda path: path.name.endswith(".plan.json"))
    for path in (*(shards.folder / name for name in _INFO_FILES), *files):
        path.unlink(missing_ok=True)
