"""Edits of image files: from one image, a folder or a list into PNGs that carry their settings (`data.runs`)."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from absl import logging
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from rewardedit_jax.command_line import add_allow_outside, add_skip_bad, local_path, not_blank
from rewardedit_jax.data.images import ImageError, image_errors
from rewardedit_jax.data.output_files import atomic_write, unwritable
from rewardedit_jax.data.paths import image_files, inside, output_inside
from rewardedit_jax.data.records import Instruction, Score
from rewardedit_jax.data.runs import Failed, NonFiniteResults, Shard, read_list
from rewardedit_jax.editing.editor import BEST, Asked, Editor
from rewardedit_jax.editing.requests import in_batches
from rewardedit_jax.editing.settings import SCORES
from rewardedit_jax.listing import list_lines
from rewardedit_jax.reward import Reward

METADATA = "rewardedit_jax"  # the text chunk of an output PNG that holds its settings as JSON


class _Line(msgspec.Struct):
    """A line of a list. What is unset is as on the command line; null as reward means no reward."""

    image: str
    instruction: Instruction | None = None
    output: str | None = None
    reward: tuple[Score, Score, Score] | None | msgspec.UnsetType = msgspec.UNSET
    feedback: tuple[str, str, str] | None | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class EditJob:
    """One edit from a file to a file."""

    image: Path
    instruction: str | None
    reward: Asked
    output: Path
    seed: int
    name: str = ""  # of the image in the settings of the PNG; "": its path


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of launch/edit.py that select edits and their outputs."""
    parser.add_argument("--image", required=True, type=Path, help="an image, a folder, or a .jsonl file")
    parser.add_argument("--instruction", type=not_blank, help="what to change")
    parser.add_argument("--output", required=True, type=local_path, help="a PNG, or a folder for several images")
    parser.add_argument("--reward", **SCORES, help="requested scores 0..5 (default: 5 5 5, where a model takes any)")
    parser.add_argument("--feedback", nargs=3, metavar="TEXT", help="what fails, per score (default: None None None)")
    parser.add_argument("--seed", type=int, default=0, help="of the first edit; the others count up (default: 0)")
    parser.add_argument("--shard", metavar="I/N", help="make part I of N parts of the edits, on one of N machines")
    add_allow_outside(parser, "a list may name images outside its folder, and outputs outside --output")
    add_skip_bad(parser, "lines or images that cannot be edited")


def selected_jobs(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[EditJob], list[str]]:
    """The parsed command line of launch/edit.py, the edits that it selects, and its bad edits as `plan_edits`."""
    a = parser.parse_args()
    # Without either argument the model decides: an editor without reward modules refuses an explicit reward.
    is_default = a.reward is None and a.feedback is None
    reward = BEST if is_default else Reward(*(a.reward or ()), feedback=a.feedback)
    jobs, faults = plan_edits(a.image, a.instruction, reward, a.output, a.seed, a.allow_outside)
    # After planning, so that an edit has the same seed and output however many shards there are.
    return a, Shard.parse(a.shard).of(jobs) if a.shard else jobs, faults


def plan_edits(
    image: Path, instruction: str | None, reward: Asked, output: Path, seed: int, allow_outside: bool = False
) -> tuple[list[EditJob], list[str]]:
    """The edits of a command line. Seeds count up from `seed` in the order of the images, bad ones included.

    Args:
      image: an image; a folder, whose images all get `instruction`; or a .jsonl file with an object per line:
        {"image": path, "instruction": text, "output": name, "reward": [5, 5, 5], "feedback": [text, text, text]}.
        Only the image is required; `instruction` and `reward` are the defaults of the others. "reward": null means no
        reward. Images are relative to the folder of the list, outputs to `output`.
      output: for one image a PNG or a folder, else a folder.
      allow_outside: whether a list may name images outside its folder and outputs outside `output`.
    Returns:
      The edits, and a sentence for each that cannot be made or written: a line is invalid, or an output is not a PNG,
      would replace an image of the list or belongs to an earlier edit.
    Raises:
      ValueError: there is nothing to edit, or all edits are bad.
    """
    # Seeds depend on the place in the whole list, so that a resumed run makes the same edits.
    if image.suffix.lower() in (".json", ".jsonl") and not image.is_dir():
        parse = _ListParser(image.parent, instruction, reward, output, seed, allow_outside)
        jobs, faults = read_list(image, _Line, parse, '{"image": "a.png", "instruction": "make it snow"}')
    elif not (instruction or "").strip():
        raise ValueError(f"{image} has no instruction: give --instruction.")
    else:
        files, faults = _outputs(image, output), []
        jobs = [EditJob(file, instruction, reward, png, seed + i) for i, (file, png) in enumerate(files)]
    good, bad = _check(jobs)
    if not good:
        raise ValueError(list_lines("no edit can be made:", faults + bad))
    return good, faults + bad


def _outputs(image: Path, output: Path) -> list[tuple[Path, Path]]:
    """Each image of a folder, or the one image, with its output file."""
    if image.is_dir():
        return [(file, output / f"{file.stem}.png") for file in image_files(image)]
    return [(image, output / f"{image.stem}.png" if output.is_dir() or not output.suffix else output)]


@dataclass(frozen=True)
class _ListParser:
    """Line of a list → edit, with the defaults of the command line."""

    folder: Path
    instruction: str | None
    reward: Asked
    output: Path
    seed: int
    allow_outside: bool

    def __call__(self, index: int, line: _Line) -> list[EditJob]:
        path = inside(self.folder, line.image, allow_outside=self.allow_outside)
        # The index keeps outputs of equal names from different folders apart.
        name = f"{index:05d}_{path.stem}.png" if line.output is None else line.output
        output = output_inside(self.output, name, allow_outside=self.allow_outside)
        # A blank instruction is a fault of the list, not a missing one.
        text = self.instruction if line.instruction is None else line.instruction
        if text is None:
            raise ValueError(f"{line.image} has no instruction: add one, or give --instruction")
        return [EditJob(path, text, self._reward(line), output, self.seed + index)]

    def _reward(self, line: _Line) -> Asked:
        """The reward of a line; scores or feedback that it does not have are those of the default."""
        if line.reward is msgspec.UNSET and line.feedback is msgspec.UNSET:
            return self.reward
        # null as scores is no reward; scores that are left out are those of the command line.
        default = self.reward if isinstance(self.reward, Reward) else Reward()
        scores = default.scores.tolist() if line.reward is msgspec.UNSET else line.reward
        feedback = default.feedback if line.feedback is msgspec.UNSET else line.feedback
        return None if scores is None else Reward(*scores, feedback=feedback)


def _check(jobs: Sequence[EditJob]) -> tuple[list[EditJob], list[str]]:
    """The edits whose outputs can be written, and a sentence for each of the others, before a model is loaded."""
    images, job_of, faults = {os.path.realpath(job.image) for job in jobs}, {}, []
    for job in jobs:
        file = os.path.realpath(job.output)
        if job.output.suffix.lower() != ".png":
            faults.append(f"output {job.output}: expected a name that ends in .png, which can hold the settings.")
        elif reason := unwritable(job.output):
            faults.append(f"output {job.output} cannot be written: {reason}.")
        elif file in images:
            faults.append(f"output {job.output} of {job.image} would replace an image: give another --output.")
        elif file in job_of:
            both = f"{job_of[file].image} and {job.image}"
            faults.append(f"{both} have the same output {job.output}; the second is left out: rename one of them.")
        else:
            job_of[file] = job
    return list(job_of.values()), faults


def edit_to_files(editor: Editor, jobs: Sequence[EditJob], settings: dict[str, Any], batch_size: int) -> list[str]:
    """`make_edits`, with a sentence for each edit that failed."""
    failed = make_edits(editor, jobs, settings, batch_size)
    # Errors of reading name the file already.
    named = ((str(job.image), failure.reason) for job, failure in failed.items())
    return [reason if image in reason else f"{image}: {reason}" for image, reason in named]


def make_edits(
    editor: Editor, jobs: Sequence[EditJob], settings: dict[str, Any], batch_size: int
) -> dict[EditJob, Failed]:
    """Make the edits whose output files do not exist, and write them as PNGs with their settings.

    Args:
      settings: further arguments of `Editor.edit`, including `resolution`; also written into the PNGs.
    Returns:
      The edits whose image cannot be read, is too large or narrow, or whose result is not finite. The others are made.
    """
    # Outputs are written atomically, so a file that exists is complete.
    due = [job for job in jobs if not job.output.exists()]
    if len(due) < len(jobs):
        logging.info("%d of %d outputs exist already.", len(jobs) - len(due), len(jobs))
    # The PNGs name the sampler, even where the model chooses it.
    settings = {**settings, "sampler": settings.get("sampler") or editor.base.process.default_sampler}
    failed: dict[EditJob, Failed] = {}

    def prepared() -> Iterator[tuple[EditJob, Image.Image]]:
        # Images wait for their batch at the size of the edit: originals of a large folder would not fit into memory.
        for job in due:
            try:
                yield job, editor.prepare(job.image, settings["resolution"])
            except ImageError as error:
                failed[job] = Failed(str(error))

    with tqdm(total=len(due), unit="edit", disable=len(due) < 2) as progress:
        for batch in in_batches(prepared(), lambda job_and_image: job_and_image[1].size, batch_size):
            failed |= _edit(editor, batch, settings, batch_size)
            progress.update(len(dict(batch)))
    return failed


def _edit(
    editor: Editor, batch: Sequence[tuple[EditJob, Image.Image]], settings: dict[str, Any], batch_size: int
) -> dict[EditJob, Failed]:
    """Writes the edits of a batch, and returns those that are not finite."""
    try:
        edited = editor.edit(
            [image for _, image in batch],
            [job.instruction for job, _ in batch],
            reward=[job.reward for job, _ in batch],
            seed=[job.seed for job, _ in batch],
            batch_size=batch_size,
            **{**settings, "resolution": None},  # the images have the size of the edit already
        )
    except NonFiniteResults as error:
        edited = error.results
    # Repetitions of the last job pad a batch (`in_batches`); the dictionary keeps one of them.
    outcomes = {job: picture for (job, _), picture in zip(batch, edited, strict=True)}
    failed = {job: Failed(f"{job.image}: {one.reason}") for job, one in outcomes.items() if isinstance(one, Failed)}
    for job in outcomes.keys() - failed.keys():
        _write(outcomes[job], job, editor.requested(job.reward), settings)
    return failed


def _write(picture: Image.Image, job: EditJob, reward: Reward | None, settings: dict[str, Any]) -> None:
    source = {"image": job.name or str(job.image), "instruction": job.instruction, "reward": reward, "seed": job.seed}
    # International text (iTXt): instructions may have any characters.
    info = PngInfo()
    info.add_itxt(METADATA, json.dumps({**source, **settings}, default=asdict))
    with atomic_write(job.output) as unfinished:
        picture.save(unfinished, "PNG", pnginfo=info)


def made_from(file: Path) -> dict[str, Any]:
    """What the PNG of an edit says about its making; nothing if another program wrote it."""
    with image_errors(str(file)), Image.open(file) as image:
        # Text chunks before the pixels are read with the header.
        return json.loads(getattr(image, "text", {}).get(METADATA, "{}"))
