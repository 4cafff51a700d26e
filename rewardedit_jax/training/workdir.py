"""The working directory of a run: whether a run can start there, its configuration, and what is set aside."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jax
from absl import logging
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from rewardedit_jax.command_line import local_path
from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.data.output_files import atomic_write, set_aside

# What a run writes before its first checkpoint, besides checkpoints/. Temporary files have the suffix ".part".
_RECORDS = ("config.json", "metrics.jsonl", "tensorboard", "images")
_RECORD = re.compile(rf"\.?({'|'.join(map(re.escape, _RECORDS))})(\.part|\.(old|damaged)\d+)?")
UNFINISHED = "orbax-checkpoint-tmp"  # in the name of a checkpoint that is not complete


def check_workdir(workdir: str | Path, resume: bool) -> None:
    """Check that a run can start or resume in this directory; changes nothing.

    Called before models and data are read. A directory that holds only the records of a run that stopped before its
    first checkpoint counts as empty. In an empty directory `resume` starts from the beginning: a job script can give
    --resume always.

    Raises:
      FileExistsError: without `resume`, if the directory holds a run or other files: nothing is overwritten.
      FileNotFoundError: with `resume`, if the directory does not exist, or holds files but no checkpoint.
      ValueError: if it is a URL.
    """
    workdir = local_path(workdir).absolute()
    if jax.process_index():  # the first host may already write here when the others start
        return
    if has_checkpoint(workdir):
        if not resume:
            raise FileExistsError(
                f"{workdir} is not empty: continue from its last checkpoint with --resume, or give another directory"
            )
    elif resume and not workdir.exists():  # perhaps a mistyped name
        raise FileNotFoundError(f"{workdir} holds no checkpoint to resume from: start without --resume")
    elif others := _other_files(workdir):
        found = f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}"
        if resume:
            raise FileNotFoundError(
                f"{workdir} holds no checkpoint to resume from, but {found}: give the directory of a run"
            )
        raise FileExistsError(f"{workdir} is not empty: it holds {found}; give another directory")


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run in this directory can be resumed."""
    # orbax names a complete checkpoint by its step; an unfinished one has a suffix.
    return any(entry.name.isdigit() and entry.is_dir() for entry in workdir.glob("checkpoints/*"))


def _other_files(workdir: Path) -> list[str]:
    """Names of what no run writes before its first checkpoint; an exported model is among them."""

    def is_record(entry: Path) -> bool:
        if entry.name == "checkpoints" and entry.is_dir():
            return all(UNFINISHED in part.name for part in entry.iterdir())
        return _RECORD.fullmatch(entry.name) is not None

    return sorted(entry.name for entry in workdir.iterdir() if not is_record(entry)) if workdir.exists() else []


def open_workdir(workdir: str | Path, resume: bool) -> Path:
    """The absolute path of the run's directory, created if it is missing. Raises as `check_workdir`.

    The records of a run that stopped before its first checkpoint are renamed: metrics.jsonl to metrics.jsonl.old1.
    """
    check_workdir(workdir, resume)
    workdir = local_path(workdir).absolute()
    if not jax.process_index():
        workdir.mkdir(parents=True, exist_ok=True)
        if not has_checkpoint(workdir):
            old = [set_aside(workdir / name, "old").name for name in _RECORDS if os.path.lexists(workdir / name)]
            if old:
                logging.warning(
                    "%s holds a run without a checkpoint: its records are kept as %s", workdir, ", ".join(old)
                )
            if resume:
                logging.warning("%s holds no checkpoint to resume from: the run starts from the beginning", workdir)
    return workdir


def record_config(workdir: Path, config: ConfigDict) -> None:
    """Write config.json. Warns of every field, except `steps`, that differs from one that is already there."""
    if jax.process_index():
        return
    file = workdir / "config.json"
    text = json.dumps(config.to_dict(), indent=2, default=str) + "\n"
    if recorded := read_or_set_aside(file):
        # A warning, not an error: resuming with another learning rate or batch size may be intended.
        before, now = flatten_dict(recorded, sep="."), flatten_dict(json.loads(text), sep=".")
        for field in sorted((before.keys() | now.keys()) - {"steps"}):
            if before.get(field) != now.get(field):
                logging.warning("config.%s was %s, is now %s", field, before.get(field), now.get(field))
    with atomic_write(file) as unfinished:
        unfinished.write_text(text, "utf-8")


def read_or_set_aside(file: Path) -> dict[str, Any]:
    """The object in a .json record; empty without the file. A damaged file is renamed, with a warning."""
    try:
        return read_json(file, dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        kept = set_aside(file, "damaged")
        logging.warning("%s is damaged and is kept as %s; it is written anew. (%s)", file, kept.name, error)
        return {}
