"""Edits from files to files: one image, a folder or a list. An output that exists is done, so a stopped run goes on."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from absl import logging
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.json_lines import numbered_lines
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.requests import in_batches
from rewardedit_jax.reward import Reward

METADATA = "rewardedit_jax"  # the text chunk of an output PNG that holds its settings as JSON
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class EditJob:
    """One edit from a file to a file."""

    image: Path
    instruction: str | None
    reward: Reward | None
    output: Path
    seed: int


def plan_jobs(image: Path, instruction: str | None, reward: Reward | None, output: Path, seed: int) -> list[EditJob]:
    """The edits of a command line. Seeds count up from `seed` in the order of the images, done or not.

    Args:
      image: an image; a folder, whose images all get `instruction`; or a .jsonl with an object per line:
        {"image": path, "instruction": text, "output": name, "reward": [5, 5, 5], "feedback": [text, text, text]},
        of which only the image is needed if `instruction` and `reward` stand for the rest; "reward": null is none.
        Images are relative to the list's folder, outputs to `output`.
      output: a PNG or a folder for one image, otherwise a folder.
    Raises:
      ValueError: nothing to edit, no instruction, a malformed line, an output that is no PNG, that would replace its
        own image, or that two edits share.
    """
    if image.suffix == ".jsonl":
        jobs = list(_listed_jobs(image, instruction, reward, output, seed))
    elif image.is_dir():
        files = sorted(p for p in image.iterdir() if p.suffix.lower() in _IMAGES)
        jobs = [EditJob(p, instruction, reward, output / f"{p.stem}.png", seed + i) for i, p in enumerate(files)]
    else:
        to_folder = output.is_dir() or not output.suffix
        jobs = [EditJob(image, instruction, reward, output / f"{image.stem}.png" if to_folder else output, seed)]
    _check(jobs, image)
    return jobs


def _listed_jobs(
    listing: Path, instruction: str | None, reward: Reward | None, output: Path, seed: int
) -> Iterator[EditJob]:
    for i, (n, line) in enumerate(numbered_lines(listing)):
        try:
            entry = json.loads(line)
            path = listing.parent / entry["image"]
            asked = _asked(entry, reward)
            name = entry.get("output", f"{i:05d}_{path.stem}.png")
            yield EditJob(path, entry.get("instruction", instruction), asked, output / name, seed + i)
        except KeyError as error:
            raise ValueError(f"line {n} of {listing} has no {error}.") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f'line {n} of {listing} is no edit such as {{"image": "a.png"}}: {error}') from error


def _asked(entry: dict[str, Any], default: Reward | None) -> Reward | None:
    """The reward of a line: what it leaves out is as in the default."""
    if "reward" not in entry and "feedback" not in entry:
        return default
    default = default or Reward()
    scores = entry.get("reward", default.scores.tolist())
    if scores is None:
        return None
    if len(scores) != len(default.scores):
        raise ValueError(f"reward must be three scores, not {scores!r}.")
    return Reward(*scores, feedback=entry.get("feedback", default.feedback))


def _check(jobs: Sequence[EditJob], image: Path) -> None:
    if not jobs:
        what = "no line" if image.suffix == ".jsonl" else f"no file with one of the endings {', '.join(_IMAGES)}"
        raise ValueError(f"there is nothing to edit in {image}: {what}.")
    images_of = {}
    for job in jobs:
        if not isinstance(job.instruction, str) or not job.instruction.strip():
            raise ValueError(f"{job.image} has no instruction: say what to change with --instruction.")
        if job.output.suffix.lower() != ".png":
            raise ValueError(f"{job.output} would not be a PNG, which keeps the settings: let its name end in .png.")
        if job.output.resolve() == job.image.resolve():
            raise ValueError(f"{job.image} would be replaced by its own edit: give another --output.")
        if job.output in images_of:
            both = f"{images_of[job.output]} and {job.image}"
            raise ValueError(f"the edits of {both} would both be written to {job.output}: give them different names.")
        images_of[job.output] = job.image


def run_jobs(editor: Editor, jobs: Sequence[EditJob], settings: dict[str, Any], batch_size: int) -> list[str]:
    """Edit what is not there yet, and write PNGs that carry their settings.

    Args:
      settings: further arguments of `Editor.edit`, `resolution` among them; also written into the PNGs.
    Returns:
      A sentence for each image that could not be read; the others are edited all the same.
    """
    due = [job for job in jobs if not job.output.exists()]
    if len(due) < len(jobs):
        logging.info("%d of %d outputs are there already.", len(jobs) - len(due), len(jobs))
    faults = []
    with tqdm(total=len(due), unit="edit", disable=len(due) < 2) as progress:
        prepared = _prepare(editor, due, settings["resolution"], faults)
        for batch in in_batches(prepared, lambda job_and_image: job_and_image[1].size, batch_size):
            _edit(editor, batch, settings, batch_size)
            progress.update(len(dict(batch)))
    return faults


def _prepare(
    editor: Editor, jobs: Iterable[EditJob], resolution: int | str | None, faults: list[str]
) -> Iterator[tuple[EditJob, Image.Image]]:
    """The jobs whose images can be read, with these; images wait for their batch at the size of the edit."""
    for job in jobs:
        try:
            yield job, editor.prepare(job.image, resolution)
        except ImageError as error:
            faults.append(str(error))


def _edit(
    editor: Editor, batch: Sequence[tuple[EditJob, Image.Image]], settings: dict[str, Any], batch_size: int
) -> None:
    edited = editor.edit(
        [image for _, image in batch],
        [job.instruction for job, _ in batch],
        reward=[job.reward for job, _ in batch],
        seed=[job.seed for job, _ in batch],
        batch_size=batch_size,
        **{**settings, "resolution": None},
    )
    # A filled-up batch ends with repetitions of its last job.
    for job, picture in {job: picture for (job, _), picture in zip(batch, edited, strict=True)}.items():
        _write(picture, job, settings)


def _write(picture: Image.Image, job: EditJob, settings: dict[str, Any]) -> None:
    reward = None if job.reward is None else asdict(job.reward)
    told = {"image": str(job.image), "instruction": job.instruction, "reward": reward, "seed": job.seed, **settings}
    info = PngInfo()
    info.add_itxt(METADATA, json.dumps(told, default=asdict))
    job.output.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: a file that exists is taken for a finished edit.
    unfinished = job.output.with_name(f".{job.output.name}.part")
    picture.save(unfinished, "PNG", pnginfo=info)
    unfinished.replace(job.output)
