"""The edits of one system on a benchmark: a folder that runs go on with, and what judges see of it.

  <folder>/
    settings.json   what makes the edits; a run with another model or other settings is refused
    sources/        the benchmark's source images, as they are, named by their digests
    edits/          a PNG for each request, which carries its settings
    targets/        the edited images that are right, where the benchmark has them
    edits.jsonl     the edits that exist as triplets, for launch/label.py and other programs
    pairs.jsonl     the same with their targets, for `launch/evaluate.py metrics`

Edits are made, resumed and written as by launch/edit.py (`editing.files`).
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import logging

from rewardedit_jax.data.encoded import EncodedEdit, EncodedRequest, StoredEdits, digest
from rewardedit_jax.data.images import ImageError, decode_image, image_bytes
from rewardedit_jax.data.json_files import read_json, to_line
from rewardedit_jax.data.output_files import atomic_write, unwritable
from rewardedit_jax.data.paths import output_inside
from rewardedit_jax.data.runs import Failed
from rewardedit_jax.editing.editor import Asked, Editor
from rewardedit_jax.editing.files import EditJob, made_from, make_edits
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Item, Requests
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import NO_EDIT, NO_IMAGE, NOT_EDITED
from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.listing import list_lines

EDITS = "edits"
PAIRS, _TRIPLETS = "pairs.jsonl", "edits.jsonl"
TARGETS = "targets"
_SOURCES, _SETTINGS = "sources", "settings.json"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of edits that another program has made


@dataclass(frozen=True, eq=False)
class Edits(StoredEdits):
    """The edits of some items, for a judge. An item without an edit is an `ImageError` that says why."""

    items: Sequence[Item]
    sources: dict[str, Path] = field(default_factory=dict)  # by key of the item
    edited: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, NoVerdict] = field(default_factory=dict)  # of the items that have no edit

    def __len__(self) -> int:
        return len(self.items)

    def keys(self) -> list[str]:
        return [item.key for item in self.items]

    def encoded(self, index: int) -> EncodedEdit:
        label = self.items[index].label
        if failure := self.failures.get(label.key):
            raise ImageError(f"{failure.reason}: {failure.detail}")
        files = self.sources[label.key], self.edited[label.key]
        return EncodedEdit(
            label.key, label.instruction, *map(image_bytes, files), extra=label.extra, names=tuple(map(str, files))
        )


def keep_settings(folder: Path, made_by: Mapping[str, Any]) -> None:
    """Writes what makes the edits of a folder. Raises ValueError if the folder has edits of something else."""
    file, now = folder / _SETTINGS, json.loads(json.dumps(made_by))
    if file.is_file():
        then, asked = _flat(read_json(file, dict[str, Any])), _flat(now)
        # The same weights may have several names.
        if changed := [name for name in {**then, **asked} if then.get(name) != asked.get(name) and name != "model"]:
            lines = [f"{name}: {then.get(name)!r} there, {asked.get(name)!r} asked for" for name in changed]
            raise ValueError(list_lines(f"{folder} has edits that were made otherwise; give another --output.", lines))
        return
    _write_once(file, json.dumps(now, indent=2).encode() + b"\n")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of "settings" beside the others, so that an error shows the ones that differ alone."""
    return {**settings, **settings.get("settings", {}), "settings": None}


def collect_sources(folder: Path, requests: Requests, items: Sequence[Item]) -> Edits:
    """The items with their source images as files in the folder; those without one have failed."""
    edits = Edits(items)
    for item in items:
        if item.previous is not None:
            continue
        try:
            request = requests.read(item)
            edits.sources[item.key] = _kept(folder / _SOURCES, request)
        except ValueError as error:
            edits.failures[item.key] = NoVerdict(NO_IMAGE, str(error))
    return edits


def _kept(folder: Path, request: EncodedRequest) -> Path:
    """The source of a request as a file."""
    file, source = folder / digest(request.source)[:16], request.source
    # By its size too: a file that several machines write at the same time may be cut if one of them is killed.
    if not (file.is_file() and file.stat().st_size == len(source)):
        decode_image(source, request.name)
        _write_once(file, source)
    return file


def _write_once(file: Path, content: bytes) -> None:
    # Machines that share the folder may write it at the same time: the same bytes, but only one can rename them.
    with suppress(FileNotFoundError), atomic_write(file) as unfinished:
        unfinished.write_bytes(content)


def make_all(
    editor: Editor, folder: Path, edits: Edits, settings: dict[str, Any], reward: Asked, seed: int, batch_size: int
) -> None:
    """Makes the edits that the folder lacks. An item whose source is an earlier edit is made after it."""
    waiting = [item for item in edits.items if item.key not in edits.failures]
    _check_sources(folder, edits, waiting)
    while waiting:
        due = [item for item in waiting if item.previous is None or item.previous in edits.edited]
        if not due:
            break
        jobs = {item: _job(folder, edits, item, reward, seed + item.number) for item in due}
        failed = make_edits(editor, [job for job in jobs.values() if isinstance(job, EditJob)], settings, batch_size)
        for item, job in jobs.items():
            fault = job if isinstance(job, Failed) else failed.get(job)
            if fault is None:
                edits.edited[item.key] = job.output
            else:
                edits.failures[item.key] = NoVerdict(NOT_EDITED, fault.reason)
        waiting = [item for item in waiting if item not in jobs]
    for item in waiting:
        edits.failures[item.key] = NoVerdict(NOT_EDITED, f"there is no edit {item.previous} to start from")


def _job(folder: Path, edits: Edits, item: Item, reward: Asked, seed: int) -> EditJob | Failed:
    source = edits.sources.setdefault(item.key, edits.edited.get(item.previous or "", Path()))
    try:
        output = output_inside(folder / EDITS, item.file)
        if reason := unwritable(output):
            return Failed(f"{output} cannot be written: {reason}")
        # The settings in a PNG have no path of this machine: the same edit is the same file, wherever it is made.
        return EditJob(source, item.label.instruction, reward, output, seed, str(source.relative_to(folder)))
    except ValueError as error:
        return Failed(str(error))


def _check_sources(folder: Path, edits: Edits, items: Sequence[Item]) -> None:
    """Raises ValueError if an edit was made of another source image: of another version of the benchmark."""
    others = []
    for item in items:
        file = folder / EDITS / item.file
        if item.previous is None and file.is_file():
            made_of = made_from(file).get("image")
            if made_of != str(edits.sources[item.key].relative_to(folder)):
                others.append(f"{file}: made of {made_of}")
    if others:
        raise ValueError(list_lines(f"{folder} has edits of other source images; give another --output.", others))


def find_all(edits: Edits, find: Callable[[Item], Path]) -> None:
    """Takes edits that exist already. `find` gives the file of an item, or raises ValueError that says why not."""
    for item in edits.items:
        if item.key in edits.failures:
            continue
        try:
            file = find(item)
            if item.previous and item.previous not in edits.edited:
                raise ValueError(f"no file of {item.previous}, which is its source")
        except ValueError as error:
            edits.failures[item.key] = NoVerdict(NO_EDIT, str(error))
            continue
        edits.edited[item.key] = file
        if item.previous:
            edits.sources[item.key] = edits.edited[item.previous]


def find_in(folder: Path, item: Item) -> Path:
    """The edit that another program has made, under the name that `make_all` gives it, in any format."""
    stem = output_inside(folder, item.file)
    found = next((file for suffix in _SUFFIXES if (file := stem.with_suffix(suffix)).is_file()), None)
    if found is None:
        raise ValueError(f"no file {stem}")
    return found


def find_target(folder: Path, requests: Requests, item: Item) -> Path:
    """The benchmark's own edited image, as a file in the folder of the edits; the benchmark has such images."""
    return _kept(folder / TARGETS, requests.target(item))


def write_lists(folder: Path, requests: Requests, edits: Edits) -> None:
    """Writes the edits that exist as a list of triplets, and as a list of pairs for metrics."""
    triplets, pairs = [], []
    for item in edits.items:
        if item.key in edits.failures:
            continue
        source, edited = (os.path.relpath(files[item.key], folder) for files in (edits.sources, edits.edited))
        label = item.label
        triplets.append({"input": source, "output": edited, "instruction": label.instruction, "task": label.edit_type})
        if item.is_paired:
            target = _target(folder, requests, item)
            caption = {"edited_caption": label.extra["caption"]} if "caption" in label.extra else {}
            files = {"source": source, "edited": edited, "target": target}
            pairs.append({"key": item.key, **files, "instruction": label.instruction, **caption})
    for name, lines in ((_TRIPLETS, triplets), (PAIRS, pairs)):
        with atomic_write(folder / name) as unfinished:
            unfinished.write_bytes(b"".join(map(to_line, lines)))


def _target(folder: Path, requests: Requests, item: Item) -> str | None:
    if requests.target is None:
        return None
    try:
        return os.path.relpath(find_target(folder, requests, item), folder)
    except ValueError as error:
        logging.warning("%s has no target: %s", item.key, error)
        return None
