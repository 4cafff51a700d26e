"""The command that prepares a data set: its arguments, and one run or merge of it."""

import argparse
from functools import partial
from pathlib import Path

from rewardedit_jax.command_line import add_allow_outside, add_skip_bad, local_path, whole_number
from rewardedit_jax.data.dataset_hub import find_dataset
from rewardedit_jax.data.layouts import LAYOUTS, Options
from rewardedit_jax.data.preparing import SPLIT, merge, prepare_records
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.data.shards import PER_SHARD, ShardSet, bad_inputs


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("name", choices=LAYOUTS, metavar="NAME", help="the layout, see above")
    p.add_argument("--source", metavar="PATH_OR_HUB_ID", help="a local copy, or owner/name; required unless --merge")
    p.add_argument("--out", required=True, type=local_path, metavar="DIR", help="the folder of the prepared data set")
    p.add_argument("--revision", help="commit, tag or branch on the hub (default: the newest commit, or that of DIR)")
    p.add_argument("--rewards", type=local_path, metavar="FILE", help="the rewards, of reward_edit")
    p.add_argument("--images", type=local_path, metavar="DIR", help="folder of the images, of preferences")
    p.add_argument("--split", choices=("train", "dev"), default="train", help="of magicbrush (default: train)")
    at_least_one = partial(whole_number, least=1)
    p.add_argument("--per-shard", type=at_least_one, default=PER_SHARD, metavar="N",
                   help="inputs per file (default: %(default)s)")  # fmt: skip
    p.add_argument("--shard", metavar="I/N", help="write every N-th file only, from the I-th")
    parts = "join what all --shard have written, to DIR or to folders of their own, and finish"
    p.add_argument("--merge", nargs="*", type=local_path, metavar="PART", help=parts)
    add_skip_bad(p, "bad records and images")
    add_allow_outside(p)


def layouts_help() -> str:
    """A line for each layout."""
    width = max(map(len, LAYOUTS))
    return "\n".join(f"  {name:{width}}  {layout.title}" for name, layout in LAYOUTS.items())


def prepare(a: argparse.Namespace) -> tuple[list[str], int]:
    """Do what the arguments ask for; returns why inputs are bad, a sentence for each, and the number of all inputs.

    Raises:
      ValueError, OSError: as `find_dataset`, the readers, `ShardSet.write` and `merge`.
    """
    layout, set_name = LAYOUTS[a.name], f"{a.name}-{SPLIT}"
    part = Shard.parse(a.shard) if a.shard else None
    if a.merge is not None:
        if part:
            raise ValueError("--merge excludes --shard: it joins the files of all shards")
        bad = merge(layout.kind, a.out, a.merge, a.name, layout.title)
        return [found.reason for found in bad], ShardSet.stored(a.out, set_name).count
    if a.source is None:
        raise ValueError(f"{a.name}: --source is missing; expected a local copy or a hub id owner/name")
    revision = a.revision or _begun_revision(a.out, set_name, a.source)
    path, origin = find_dataset(a.source, layout.patterns, revision)
    source = layout.open(path, Options(a.rewards, a.images, a.split, a.allow_outside))
    preparation = prepare_records(layout.kind, source, a.out, a.name, layout.title, a.per_shard, origin)
    preparation.run(part)
    # One machine of several cannot know whether the others have finished.
    bad = list(bad_inputs(preparation.shards.reports(part))) if part else preparation.finish()
    return [found.reason for found in bad], preparation.shards.count


def _begun_revision(folder: Path, set_name: str, source: str) -> str | None:
    """The commit of the hub that a stopped run, or another machine, has begun to read; None if there is none."""
    try:
        plan = ShardSet.stored(folder, set_name).plan()
    except FileNotFoundError:
        return None
    return plan.get("revision") if plan.get("hub") == source else None
