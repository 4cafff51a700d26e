"""Saving a model over the one in a directory: afterwards it holds all files of the new model, or all of the old one.

The new files are written to a folder inside the directory. When they are complete, the files of the old model are
removed and the new ones are moved to their places. A process that is killed before this leaves the old model; one that
is killed during it leaves files that the next load or save moves.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rewardedit_jax.command_line import local_path
from rewardedit_jax.data import json_files
from rewardedit_jax.data.records import BadRecords

# Folders in the directory: of files that are being written, that are complete, and that are being moved.
_WRITING, _WRITTEN, _MOVING = ".saving", ".saved", ".moving"
# What libraries read from a model directory, by its name. A model is replaced whole, because most of them prefer one
# name to another: diffusers takes an index with its shards before a single file. Other files are the user's.
WEIGHT_FILE = re.compile(
    r"(diffusion_)?(pytorch_|flax_|tf_|adapter_)?model([.-].+)?\.(safetensors|bin|pth|msgpack|h5|onnx|index(\.\w+)?\.json)"
)
MODEL_FILE = re.compile(
    rf"{WEIGHT_FILE.pattern}"
    r"|((adapter|generation|(video_)?preprocessor|processor|scheduler|tokenizer)_)?config\.json"
    r"|model_index\.json|calibration\.json|chat_template\.(json|jinja)"
    r"|tokenizer\.(json|model)|spiece\.model|vocab\.(json|txt)|merges\.txt|(added_tokens|special_tokens_map)\.json"
)


@contextmanager
def replace_model(directory: Path) -> Iterator[Path]:
    """An empty folder for the files of a new model, which replaces the model in `directory` when the block ends.

    If the block raises, `directory` is as before. Files that are not part of a model stay in any case.
    """
    directory = local_path(directory).expanduser()  # as a load does
    complete_save(directory)
    writing = directory / _WRITING
    shutil.rmtree(writing, ignore_errors=True)  # of a process that was killed
    writing.mkdir(parents=True)
    try:
        yield writing
        writing.rename(directory / _WRITTEN)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
        with suppress(OSError):  # an error has left an empty directory, or there are files in it
            directory.rmdir()
    complete_save(directory)


def complete_save(directory: Path) -> None:
    """Put the files of a model in their places, if a save had written them all and was killed before it had moved them.

    Can be killed at any time and called again.
    """
    written, moving = directory / _WRITTEN, directory / _MOVING
    if written.is_dir():
        _remove_model(directory, written)
        written.rename(moving)
    if moving.is_dir():
        files = [path for path in moving.rglob("*") if path.is_file()]
        # The deepest first, as model_index.json makes the directory a pipeline for every library.
        for file in sorted(files, key=lambda path: len(path.parts), reverse=True):
            target = directory / file.relative_to(moving)
            target.parent.mkdir(exist_ok=True)
            file.replace(target)
        shutil.rmtree(moving)


def _remove_model(directory: Path, new: Path) -> None:
    """Remove the files of the model in `directory` and in the folders of its pipeline, and of that in `new`."""
    folders = {path.name for path in new.iterdir() if path.is_dir()} | _pipeline_folders(directory)
    # A folder that is a link belongs to another model too: the link is removed, not what it leads to.
    links = [directory / name for name in folders if (directory / name).is_symlink()]
    folders = [directory / name for name in folders if directory / name not in links]
    found = [path for folder in (directory, *folders) for path in folder.glob("*") if not path.is_dir()]
    files = [path for path in found if MODEL_FILE.fullmatch(path.name)]
    if (directory / "checkpoints").is_dir():  # in the working directory of a training, config.json is the recipe
        files = [file for file in files if file != directory / "config.json"]
    for path in (*links, *files):
        path.unlink()
    for folder in folders:
        with suppress(OSError):  # it does not exist, or holds other files
            folder.rmdir()


def _pipeline_folders(directory: Path) -> set[str]:
    """The folders of `directory` that its model_index.json names."""
    with suppress(BadRecords, OSError):  # none, or damaged
        index = json_files.read_json(directory / "model_index.json", dict)
        # Not every name in the file: one such as "../other" leads out of the directory.
        return {path.name for path in directory.iterdir() if path.is_dir() and path.name in index}
    return set()
