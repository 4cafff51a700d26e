"""What a scorer is asked: edits, and how their scores are got from a `Scorer`, any callable or a file."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from rewardedit_jax.data.images import decode_image, is_transparent, read_image
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.evaluation.reward_models.json_records import listed
from rewardedit_jax.evaluation.reward_models.stored_scores import StoredScores
from rewardedit_jax.scoring.edit_score import matrix
from rewardedit_jax.scoring.inference import CHUNK_BATCHES
from rewardedit_jax.scoring.packing import ScorerItem
from rewardedit_jax.scoring.scorer import Scorer

Picture = Path | bytes  # a file, or an encoded image

OVERALL = 2  # the column of scores that published benchmarks look at
INSIDE_PARQUET = (
    "stored scores are of image files, and the pictures of this benchmark are inside its parquet files, without names: "
    "measure a scorer with --model; or write the pictures to files, list them in EditReward's JSON layout of this "
    "benchmark, score those files, and give that list with --scores."
)
_BATCH = 8  # edits that a `Scorer` scores at once
_CALL = 64  # edits that a callable gets at once


@runtime_checkable
class ScoreEdits(Protocol):
    """What is measured beside a `Scorer`: anything that scores edits.

    It is called with upright RGB images (transparent parts on white) and instructions, all of one length, and returns
    float64[n, 3]: for each edit the score of following, of quality, and overall. Only order and differences count.
    Each edit is scored by itself, so there are no positions that could be swapped.
    """

    def __call__(
        self, sources: Sequence[Image.Image], edited: Sequence[Image.Image], instructions: Sequence[str]
    ) -> Float[np.ndarray, "n 3"]: ...


Judge = Scorer | ScoreEdits | StoredScores  # makes scores, or has them


@dataclass(frozen=True)
class Edit:
    """One edit to be scored."""

    source: Picture
    edited: Picture
    instruction: str
    name: str = field(default="", compare=False)  # where its benchmark has it, for errors; the edit is what it is


def score_edits(scorer: Judge, edits: Sequence[Edit]) -> Float[np.ndarray, "n 3"]:
    """The scores of all edits, in their order; with a progress bar where a scorer makes them.

    Raises:
      FileNotFoundError: if image files are missing, before any edit is scored; counted, the first ones listed.
      ImageError: naming an image that a callable cannot be shown.
      ValueError: naming an edit that a `Scorer` cannot score, or those whose scores are not finite or not in the file;
        what a callable raises, saying from which edit on it counts; or if it returns another shape.
    """
    if isinstance(scorer, StoredScores):
        return scorer.of([_paths(edit) for edit in edits])
    _check_files(edits)
    edits = [edit if edit.name else replace(edit, name=f"edit {i}") for i, edit in enumerate(edits)]
    scores = _streamed(scorer, edits) if isinstance(scorer, Scorer) else _called(scorer, edits)
    bad = [edits[i].name for i in np.flatnonzero(~np.isfinite(scores).all(1))]
    if bad:
        told = listed(bad, between="; ")
        raise ValueError(f"{len(bad)} of {len(edits)} edits got scores that are not finite: {told}.")
    return scores


def _streamed(scorer: Scorer, edits: Sequence[Edit]) -> Float[np.ndarray, "n 3"]:
    scores = scorer.stream(_prepared(scorer, edits), batch_size=_BATCH, improvement=False)
    return matrix(list(tqdm(scores, total=len(edits), unit="edit", disable=len(edits) <= _CALL)))


def _prepared(scorer: Scorer, edits: Sequence[Edit]) -> Iterator[ScorerItem]:
    """Here and not in `Scorer.score`, which knows of an edit only its number among those it is given."""

    def prepare(edit: Edit) -> ScorerItem:
        try:
            source, edited = (
                decode_image(picture, role) if isinstance(picture, bytes) else picture
                for role, picture in (("source", edit.source), ("edited", edit.edited))
            )
            return scorer.prepare(source, edited, edit.instruction)
        except ValueError as error:
            raise ValueError(f"{edit.name}: {error}") from error

    for item in prefetch_map(prepare, zip(edits, strict=True), _BATCH * CHUNK_BATCHES):
        yield item.result()


def _called(scorer: ScoreEdits, edits: Sequence[Edit]) -> Float[np.ndarray, "n 3"]:
    parts = [np.zeros((0, 3))]
    for start in tqdm(range(0, len(edits), _CALL), unit=f" × {_CALL} edits", disable=len(edits) <= _CALL):
        chunk = edits[start : start + _CALL]
        sources = [_open(edit.source, f"source of {edit.name}") for edit in chunk]
        edited = [_open(edit.edited, f"edited of {edit.name}") for edit in chunk]
        try:
            scores = np.asarray(scorer(sources, edited, [edit.instruction for edit in chunk]), np.float64)
        except ValueError as error:  # numbers in it are those of the chunk
            raise ValueError(f"counting from {chunk[0].name}: {error}") from error
        if scores.shape != (len(chunk), 3):
            raise ValueError(f"the scorer returned {scores.shape} for {len(chunk)} edits; it should be [n, 3].")
        parts.append(scores)
    return np.concatenate(parts)


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
