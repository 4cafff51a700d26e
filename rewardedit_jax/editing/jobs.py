"""Edits from files to files: one image, a folder or a list. An output that exists is done, so a stopped run goes on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from absl import logging
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from rewardedit_jax.data.images import ImageError, read_image
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.reward import Reward

METADATA = "rewardedit_jax"  # the text chunk of an output PNG that holds its settings as JSON
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class EditJob:
    """One edit from a file to a file."""

    image: Path
    instruction: str
    reward: Reward | None
    output: Path
    seed: int


def plan_jobs(image: Path, instruction: str | None, reward: Reward | None, output: Path, seed: int) -> list[EditJob]:
    """The edits of a command line.

    Args:
      image: an image; a folder, whose images all get `instruction`; or a .jsonl with an object per line:
        {"image": path, "instruction": text, "output": name, "reward": [5, 5, 5], "feedback": [text, text, text]},
        of which only the image is needed if `instruction` and `reward` stand for the rest.
      output: a PNG for one image, otherwise a folder.
    Raises:
      ValueError: nothing to edit, no instruction, a malformed line, or two edits with one output.
    """
    if image.suffix == ".jsonl":
        jobs = list(_listed_jobs(image, instruction, reward, output, seed))
    elif image.is_dir():
        files = sorted(p for p in image.iterdir() if p.suffix.lower() in _IMAGES)
        jobs = [EditJob(p, instruction, reward, output / f"{p.stem}.png", seed + i) for i, p in enumerate(files)]
    else:
        jobs = [EditJob(image, instruction, reward, output, seed)]
    _check(jobs, image)
    return jobs


def _listed_jobs(
    listing: Path, instruction: str | None, reward: Reward | None, output: Path, seed: int
) -> Iterator[EditJob]:
    for i, line in enumerate(filter(str.strip, listing.read_text("utf-8").split("\n"))):
        try:
            entry = json.loads(line)
            path = listing.parent / entry["image"]
            scores, feedback = entry.get("reward"), entry.get("feedback")
            asked = Reward(*scores, feedback=feedback) if scores else reward
            name = entry.get("output", f"{i:05d}_{path.stem}.png")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"line {i + 1} of {listing}: {error!r}; expected an object with at least an image."
            ) from error
        yield EditJob(path, entry.get("instruction", instruction), asked, output / name, seed + i)


def _check(jobs: Sequence[EditJob], image: Path) -> None:
    if not jobs:
        raise ValueError(f"there is nothing to edit in {image}: no file with one of the endings {', '.join(_IMAGES)}.")
    for job in jobs:
        if not (job.instruction or "").strip():
            raise ValueError(f"{job.image} has no instruction: say what to change with --instruction.")
    outputs = [job.output for job in jobs]
    if len(set(outputs)) < len(outputs):
        twice = next(path for path in outputs if outputs.count(path) > 1)
        raise ValueError(f"two edits would be written to {twice}: give them different outputs.")


def run_jobs(editor: Editor, jobs: Sequence[EditJob], settings: dict[str, Any], batch_size: int) -> list[str]:
    """Edit what is not there yet, and write PNGs that carry their settings.

    Args:
      settings: further arguments of `Editor.edit`; also written into the PNGs.
    Returns:
      A sentence for each image that could not be read; the others are edited all the same.
    """
    due = [job for job in jobs if not job.output.exists()]
    if len(due) < len(jobs):
        logging.info("%d of %d outputs are there already.", len(jobs) - len(due), len(jobs))
    faults = []
    with tqdm(total=len(due), unit="edit", disable=len(due) < 2) as progress:
        for start in range(0, len(due), batch_size):
            chunk = due[start : start + batch_size]
            read = list(_read(chunk, faults))
            if read:
                _edit_chunk(editor, read, settings, batch_size)
            progress.update(len(chunk))
    return faults


def _read(jobs: Sequence[EditJob], faults: list[str]) -> Iterator[tuple[EditJob, Image.Image]]:
    for job in jobs:
        try:
            yield job, read_image(job.image)
        except ImageError as error:
            faults.append(str(error))


def _edit_chunk(
    editor: Editor, read: list[tuple[EditJob, Image.Image]], settings: dict[str, Any], batch_size: int
) -> None:
    jobs, images = zip(*read, strict=True)
    edited = editor.edit(
        images,
        [job.instruction for job in jobs],
        reward=[job.reward for job in jobs],
        seed=[job.seed for job in jobs],
        batch_size=batch_size,
        **settings,
    )
    for job, picture in zip(jobs, edited, strict=True):
        _write(picture, job, settings)


def _write(picture: Image.Image, job: EditJob, settings: dict[str, Any]) -> None:
    reward = None if job.reward is None else asdict(job.reward)
    told = {
        "image": str(job.image),
        "instruction": job.instruction,
        "reward": reward,
        "seed": job.seed,
        **settings,
    }
    info = PngInfo()
    info.add_itxt(METADATA, json.dumps(told, default=str))
    job.output.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: a file that exists is taken for a finished edit.
    unfinished = job.output.with_name(f".{job.output.name}.part")
    picture.save(unfinished, "PNG", pnginfo=info)
    unfinished.replace(job.output)
