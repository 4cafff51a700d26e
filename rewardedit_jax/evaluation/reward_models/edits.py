"""Edits to be scored, the sources of their scores (a `Scorer`, a callable, a file), and their JSON lists."""

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from rewardedit_jax.data import json_files
from rewardedit_jax.data.images import decode_image, is_transparent, read_image
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.report import Note, listed
from rewardedit_jax.scoring.edit_score import matrix
from rewardedit_jax.scoring.inference import CHUNK_BATCHES
from rewardedit_jax.scoring.packing import ScorerItem
from rewardedit_jax.scoring.scorer import Scorer

Picture = Path | bytes  # an image file, or an encoded image
# Scores edits, as an alternative to a `Scorer`. It receives upright RGB images of sources and edits (transparent parts
# composited on white) and instructions, all of one length, and returns the scores of following, of quality, and
# overall. Only their order and differences matter. No position bias is averaged out: edits are scored one by one.
ScoreEdits = Callable[[Sequence[Image.Image], Sequence[Image.Image], Sequence[str]], Float[np.ndarray, "n 3"]]

OVERALL = 2  # the column of scores that the published benchmarks use
INSIDE_PARQUET = (
    "--scores identifies edits by their image files, but the images of this benchmark are inside its parquet files: "
    "measure a scorer with --model; or write the images to files, list them in EditReward's JSON layout of this "
    "benchmark, score those files, and give that list together with --scores"
)
_BATCH = 8  # edits per batch of a `Scorer`
_CALL = 64  # edits per call of a callable


@dataclass(frozen=True)
class Edit:
    """One edit to be scored."""

    source: Picture
    edited: Picture
    instruction: str
    name: str = field(default="", compare=False)  # its place in the benchmark, for errors; not part of its identity


_Key = tuple[Path, Path, str]  # absolute source, absolute edited, instruction
_Triple = tuple[float, float, float]  # following, quality, overall


@dataclass(frozen=True)
class StoredScores:
    """Scores read from a file. A missing score of following or quality is replaced by the overall score."""

    file: Path
    scores: Mapping[_Key, _Triple]
    errors: Mapping[_Key, str]  # edits that could not be scored, by name and with the reason

    def of(self, edits: Sequence[Edit]) -> Float[np.ndarray, "n 3"]:
        """The scores of the edits. Raises ValueError with the number and names of those that have none."""
        keys = [_key_of(edit) for edit in edits]
        # An error, not a smaller denominator: an accuracy over the edits that happen to be there compares with nothing.
        if missing := [self.errors.get(key, key[1]) for key in keys if key not in self.scores]:
            raise ValueError(f"{self.file}: {len(missing)} of {len(keys)} edits have no score: {listed(missing, '; ')}")
        return np.array([self.scores[key] for key in keys], np.float64).reshape(-1, 3)


def _key_of(edit: Edit) -> _Key:
    if isinstance(edit.source, Path) and isinstance(edit.edited, Path):
        return edit.source.resolve(), edit.edited.resolve(), edit.instruction
    raise ValueError(INSIDE_PARQUET)


ScoreSource = Scorer | ScoreEdits | StoredScores


def score_edits(source: ScoreSource, edits: Sequence[Edit]) -> Float[np.ndarray, "n 3"]:
    """The scores of all edits, in their order; shows a progress bar while a scorer computes them.

    Errors name the edits without a finite score. Missing image files are found before any edit is scored.
    """
    if isinstance(source, StoredScores):
        return source.of(edits)
    _check_files(edits)
    edits = [edit if edit.name else replace(edit, name=f"edit {i}") for i, edit in enumerate(edits)]
    scores = _from_scorer(source, edits) if isinstance(source, Scorer) else _from_callable(source, edits)
    if bad := [edits[i].name for i in np.flatnonzero(~np.isfinite(scores).all(1))]:
        raise ValueError(f"{len(bad)} of {len(edits)} edits have scores that are not finite: {listed(bad, '; ')}")
    return scores


def _from_scorer(scorer: Scorer, edits: Sequence[Edit]) -> Float[np.ndarray, "n 3"]:
    def prepare(edit: Edit) -> ScorerItem:
        try:
            source, edited = (
                decode_image(picture, role) if isinstance(picture, bytes) else picture
                for role, picture in (("source", edit.source), ("edited", edit.edited))
            )
            return scorer.prepare(source, edited, edit.instruction)
        except ValueError as error:  # `Scorer.score` would name the edit by its index only
            raise ValueError(f"{edit.name}: {error}") from error

    items = (item.result() for item in prefetch_map(prepare, zip(edits, strict=True), _BATCH * CHUNK_BATCHES))
    scores = scorer.stream(items, batch_size=_BATCH, improvement=False)
    return matrix(list(tqdm(scores, total=len(edits), unit="edit", disable=len(edits) <= _CALL)))


def _from_callable(scorer: ScoreEdits, edits: Sequence[Edit]) -> Float[np.ndarray, "n 3"]:
    # Called in parts, as all images of a benchmark do not fit into memory at once.
    parts = [np.zeros((0, 3))]
    for start in tqdm(range(0, len(edits), _CALL), unit=f" × {_CALL} edits", disable=len(edits) <= _CALL):
        part = edits[start : start + _CALL]
        sources = [_open(edit.source, f"source of {edit.name}") for edit in part]
        edited = [_open(edit.edited, f"edited of {edit.name}") for edit in part]
        try:
            scores = np.asarray(scorer(sources, edited, [edit.instruction for edit in part]), np.float64)
        except ValueError as error:  # an index in its message is relative to this part
            raise ValueError(f"counting from {part[0].name}: {error}") from error
        if scores.shape != (len(part), 3):
            raise ValueError(f"the scorer returned shape {scores.shape} for {len(part)} edits; expected [n, 3]")
        parts.append(scores)
    return np.concatenate(parts)


def _open(picture: Picture, name: str) -> Image.Image:
    return decode_image(picture, name) if isinstance(picture, bytes) else read_image(picture)


def _check_files(edits: Sequence[Edit]) -> None:
    files = {picture for edit in edits for picture in (edit.source, edit.edited) if isinstance(picture, Path)}
    if missing := sorted(file for file in files if not file.is_file()):
        raise FileNotFoundError(f"{len(missing)} of {len(files)} image files are missing: {listed(missing)}")


def note_transparent(source: ScoreSource, edits: Sequence[Edit]) -> Note:
    """Note about images with transparent parts, which a scorer sees composited on white. Empty if there are none."""
    if isinstance(source, StoredScores):  # no image was read
        return [], {}
    pictures = {picture for edit in edits for picture in (edit.source, edit.edited)}
    count = sum(map(_has_transparency, pictures))
    note = f"{count} of {len(pictures)} images have transparent parts, which were composited on white."
    return ([note], {"composited": {"pictures": count, "of": len(pictures)}}) if count else ([], {})


def _has_transparency(picture: Picture) -> bool:
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        return is_transparent(image)


# Types of the records in the files of benchmarks. A list without records, or an empty text, is a fault.

Record = TypeVar("Record")
Records = Annotated[list[Record], msgspec.Meta(min_length=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
NotBlank = Annotated[str, msgspec.Meta(pattern=r"\S")]
Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]  # finite


class EmbeddedImage(msgspec.Struct):
    """A cell of a parquet file."""

    bytes: Annotated[bytes, msgspec.Meta(min_length=1)]


def check_record(value: Any, type_: type[Record], name: str) -> Record:
    """The value as `type_`. Raises `BadRecords`, naming the value and its field, if it is not of that type."""
    entries, faults = json_files.validate([(name, value)], type_)
    if faults:
        raise BadRecords(faults[0])
    return entries[0].value


# Stored scores.


class _Mean(msgspec.Struct):
    mean: Number


class _ScoreLine(msgspec.Struct):
    source: str
    edited: str
    instruction: str
    overall: _Mean | None = None
    following: _Mean | None = None
    quality: _Mean | None = None
    error: str | None = None


def read_scores(file: Path) -> StoredScores:
    """The scores of a .jsonl file, as written by launch/score.py --output or in that form.

    A line is an object with `source`, `edited`, `instruction`, `overall` ({"mean": number}) and optionally `following`
    and `quality` in the same form; or with `error` instead of scores. Other keys are ignored. Relative paths are
    relative to the working directory; edits are found by file, whatever the spelling of the path. Two
    different scores of one edit are an error.
    """
    scores: dict[_Key, _Triple] = {}
    errors: dict[_Key, str] = {}
    lines, faults = json_files.read_list(file, _ScoreLine)
    # Only `overall` is required: published benchmarks use nothing else, and other judges may have nothing else.
    faults += [f"{name}: expected overall or error" for _, name, e in lines if e.overall is None and e.error is None]
    if faults:
        raise ValueError(f"{file}, {faults[0]}")
    for _, name, line in lines:
        key = Path(line.source).resolve(), Path(line.edited).resolve(), line.instruction
        if line.error is not None:  # matters only if the edit has no score in another line and a benchmark asks for it
            errors[key] = f"{key[1]} was not scored ({name}: {line.error})"
            continue
        means = tuple((part or line.overall).mean for part in (line.following, line.quality, line.overall))
        if scores.setdefault(key, means) != means:
            raise ValueError(f"{file}, {name}: {key[1]} has a different score in an earlier line; keep one of them")
    return StoredScores(file, scores, errors)
