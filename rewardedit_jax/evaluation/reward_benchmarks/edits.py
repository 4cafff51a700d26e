"""What a scorer is asked: edits, and how their scores are got from any callable."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from rewardedit_jax.data.images import decode_image, is_transparent, read_image
from rewardedit_jax.evaluation.reward_benchmarks.json_records import listed
from rewardedit_jax.evaluation.reward_benchmarks.stored_scores import StoredScores

Picture = Path | bytes  # a file, or an encoded image

OVERALL = 2  # the column of scores that published benchmarks look at
INSIDE_PARQUET = (
    "stored scores are of image files, and the pictures of this benchmark are inside its parquet files, without names: "
    "measure a scorer with --model; or write the pictures to files, list them in EditReward's JSON layout of this "
    "benchmark, score those files, and give that list with --scores."
)
_AT_A_TIME = 64  # edits whose images are in memory together


@runtime_checkable
class ScoreEdits(Protocol):
    """What is measured: anything that scores edits.

    It is called with upright RGB images (transparent parts on white) and instructions, all of one length, and returns
    float64[n, 3]: for each edit the score of following, of quality, and overall. Only order and differences count.
    Each edit is scored by itself, so there are no positions that could be swapped.
    """

    def __call__(
        self, sources: Sequence[Image.Image], edited: Sequence[Image.Image], instructions: Sequence[str]
    ) -> Float[np.ndarray, "n 3"]: ...


Judge = ScoreEdits | StoredScores  # makes scores, or has them


@dataclass(frozen=True)
class Edit:
    """One edit to be scored."""

    source: Picture
    edited: Picture
    instruction: str


def score_edits(scorer: Judge, edits: Sequence[Edit]) -> Float[np.ndarray, "n 3"]:
    """The scores of all edits, in their order; with a progress bar where a scorer makes them.

    Raises:
      FileNotFoundError: if image files are missing, before any edit is scored; counted, the first ones listed.
      ImageError: naming an image that cannot be read.
      ValueError: if the scorer returns another shape, or scores that are not finite, or stored ones lack an edit.
    """
    if isinstance(scorer, StoredScores):
        return scorer.of([_paths(edit) for edit in edits])
    _check_files(edits)
    parts = []
    for start in tqdm(
        range(0, len(edits), _AT_A_TIME), unit=f" × {_AT_A_TIME} edits", disable=len(edits) <= _AT_A_TIME
    ):
        chunk = edits[start : start + _AT_A_TIME]
        sources = [_open(edit.source, f"source of edit {start + i}") for i, edit in enumerate(chunk)]
        edited = [_open(edit.edited, f"edited of edit {start + i}") for i, edit in enumerate(chunk)]
        scores = np.asarray(scorer(sources, edited, [edit.instruction for edit in chunk]), np.float64)
        if scores.shape != (len(chunk), 3):
            raise ValueError(f"the scorer returned {scores.shape} for {len(chunk)} edits; it should be [n, 3].")
        parts.append(scores)
    scores = np.concatenate(parts) if parts else np.zeros((0, 3))
    bad = np.flatnonzero(~np.isfinite(scores).all(1))
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(edits)} edits got scores that are not finite: number {listed(bad)}.")
    return scores


def note_transparent(scorer: Judge, edits: Sequence[Edit]) -> tuple[list[str], dict[str, Any]]:
    """Note and value of a report: how many pictures with transparent parts a scorer saw on white. Empty if none."""
    if isinstance(scorer, StoredScores):
        return [], {}
    pictures = {picture for edit in edits for picture in (edit.source, edit.edited)}
    transparent = sum(map(_is_transparent, pictures))
    if not transparent:
        return [], {}
    note = f"{transparent} of {len(pictures)} pictures have transparent parts, which were laid on white."
    return [note], {"composited": {"pictures": transparent, "of": len(pictures)}}


def _is_transparent(picture: Picture) -> bool:
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        return is_transparent(image)


def _paths(edit: Edit) -> tuple[Path, Path, str]:
    if isinstance(edit.source, Path) and isinstance(edit.edited, Path):
        return edit.source, edit.edited, edit.instruction
    raise ValueError(INSIDE_PARQUET)


def _check_files(edits: Sequence[Edit]) -> None:
    files = {picture for edit in edits for picture in (edit.source, edit.edited) if isinstance(picture, Path)}
    missing = sorted(file for file in files if not file.is_file())
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(files)} image files are missing: {listed(missing)}.")


def _open(picture: Picture, name: str) -> Image.Image:
    return decode_image(picture, name) if isinstance(picture, bytes) else read_image(picture)
