"""Edits to be scored, the sources of their scores (a `Scorer`, a callable, a file), and edits without a score."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from rewardedit_jax.data.images import decode_image, is_transparent, read_image
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.evaluation.report import Note
from rewardedit_jax.evaluation.reward_models.records import Picture, StoredScores
from rewardedit_jax.listing import MAX_NAMES, list_lines, list_names
from rewardedit_jax.scoring.edit_score import EditScore, Unscorable, matrix
from rewardedit_jax.scoring.inference import CHUNK_BATCHES
from rewardedit_jax.scoring.packing import ScorerItem
from rewardedit_jax.scoring.scorer import Scorer

# Scores edits, as an alternative to a `Scorer`. It receives upright RGB images of sources and edits (transparent parts
# composited on white) and instructions, all of one length, and returns the scores of following, of quality, and
# overall. Only their order and differences matter. No position bias is averaged out: edits are scored one by one.
ScoreEdits = Callable[[Sequence[Image.Image], Sequence[Image.Image], Sequence[str]], Float[np.ndarray, "n 3"]]

OVERALL = 2  # the column of scores that the published benchmarks use
# How rank correlations count edits without a score: see `statistics.spearman`.
UNSCORED_POINTS = "Published: such edits are left out. Sound: they have the mean rank."
_ROLES = ("source", "edited")
_BATCH = 8  # edits per batch of a `Scorer`
_CALL = 64  # edits per call of a callable


@dataclass(frozen=True)
class Edit:
    """One edit to be scored."""

    source: Picture
    edited: Picture
    instruction: str
    name: str = field(default="", compare=False)  # its place in the benchmark, for errors; not part of its identity


@dataclass
class Unscored:
    """The edits without a score, of which a measurement allows some."""

    allowed: int | float = 0
    reasons: dict[int, str] = field(default_factory=dict)  # index of the edit → reason

    @property
    def too_many(self) -> bool:
        return len(self.reasons) > self.allowed

    def check(self, edits: Sequence[Edit]) -> None:
        """Raises ValueError, listing the edits, if they are too many."""
        if self.too_many:
            heading = f"{len(self.reasons)} of {len(edits)} edits cannot be scored:"
            hint = "--skip-bad N allows N of them; the report lists them."
            raise ValueError(f"{list_lines(heading, list(self._sentences(edits)))}\n{hint}")

    def notes(self, edits: Sequence[Edit], source: "ScoreSource", counted: str) -> list[Note]:
        """Notes for the report: edits without a score, and how they are counted; images with transparent parts."""
        sentences = list(self._sentences(edits))
        coverage = (len(edits) - len(sentences)) / len(edits)
        note = (
            f"{len(sentences)} edits could not be scored: {list_names(sentences, '; ')}. "
            f"Coverage: {100 * coverage:.2f} % of {len(edits)} edits. {counted}"
        )
        values = {"unscored": {"count": len(sentences), "first": sentences[:MAX_NAMES]}, "coverage": coverage}
        scored = [edit for i, edit in enumerate(edits) if i not in self.reasons]
        return [([note] if sentences else [], values), note_transparent(source, scored)]

    def _sentences(self, edits: Sequence[Edit]) -> Iterator[str]:
        return (f"{_name(edits, i)}: {self.reasons[i]}" for i in sorted(self.reasons))


def _name(edits: Sequence[Edit], index: int) -> str:
    return edits[index].name or f"edit {index}"


ScoreSource = Scorer | ScoreEdits | StoredScores


def score_edits(
    source: ScoreSource, edits: Sequence[Edit], unscored: Unscored | None = None
) -> Float[np.ndarray, "n 3"]:
    """The scores of all edits, in their order; shows a progress bar while a scorer computes them.

    Args:
      unscored: gets the edits without a finite score, whose rows are NaN. By default none is allowed.
    Raises:
      ValueError: too many edits have no score; lists all of them. The scorer stops once too many images are unreadable.
    """
    unscored = Unscored() if unscored is None else unscored
    if isinstance(source, StoredScores):
        scores = _from_stored(source, edits, unscored)
    else:
        _find_missing_files(edits, unscored)
        score = _from_scorer if isinstance(source, Scorer) else _from_callable
        scores = score(source, edits, unscored)
    unscored.check(edits)
    scores[list(unscored.reasons)] = np.nan
    return scores


def _from_stored(stored: StoredScores, edits: Sequence[Edit], unscored: Unscored) -> Float[np.ndarray, "n 3"]:
    scores = np.full((len(edits), 3), np.nan)
    for i, edit in enumerate(edits):
        found = stored.find(edit.source, edit.edited, edit.instruction)
        if isinstance(found, str):
            unscored.reasons[i] = found
        else:
            scores[i] = found
    return scores


def _find_missing_files(edits: Sequence[Edit], unscored: Unscored) -> None:
    # Before any edit is scored: a wrong directory must not cost an hour.
    exists = {file: os.path.isfile(file) for edit in edits for file in _pictures(edit) if isinstance(file, Path)}
    for i, edit in enumerate(edits):
        if missing := [str(file) for file in dict.fromkeys(_pictures(edit)) if not exists.get(file, True)]:
            unscored.reasons[i] = f"missing image {' and '.join(missing)}"


def _pictures(edit: Edit) -> tuple[Picture, Picture]:
    return edit.source, edit.edited


def _from_scorer(scorer: Scorer, edits: Sequence[Edit], unscored: Unscored) -> Float[np.ndarray, "n 3"]:
    def prepare(edit: Edit) -> ScorerItem:
        source, edited = (
            decode_image(picture, role) if isinstance(picture, bytes) else picture
            for role, picture in zip(_ROLES, _pictures(edit), strict=True)
        )
        return scorer.prepare(source, edited, edit.instruction)

    def items() -> Iterator[ScorerItem | Unscorable]:
        prepared = prefetch_map(prepare, zip(edits, strict=True), _BATCH * CHUNK_BATCHES)
        for i, item in enumerate(prepared):
            try:
                ready = item.result()
            except ValueError as error:
                ready = Unscorable(unscored.reasons.setdefault(i, str(error)))
            if not unscored.too_many:  # else only the faults of the other edits are of interest
                yield ready

    stream = scorer.stream(items(), batch_size=_BATCH, improvement=False)
    outcomes = tqdm(stream, total=len(edits), unit="edit", disable=len(edits) <= _CALL)
    scored = {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, EditScore)}
    scores = np.full((len(edits), 3), np.nan)
    scores[list(scored)] = matrix(list(scored.values()))
    _find_not_finite(scores, scored, unscored)
    return scores


def _find_not_finite(scores: Float[np.ndarray, "n 3"], scored: Iterable[int], unscored: Unscored) -> None:
    for i in scored:
        if not np.isfinite(scores[i]).all():
            unscored.reasons[i] = f"its scores are {scores[i].tolist()}; expected finite numbers"


def _from_callable(scorer: ScoreEdits, edits: Sequence[Edit], unscored: Unscored) -> Float[np.ndarray, "n 3"]:
    # Called in parts, as all images of a benchmark do not fit into memory at once.
    scores, scored = np.full((len(edits), 3), np.nan), []
    for start in tqdm(range(0, len(edits), _CALL), unit=f" × {_CALL} edits", disable=len(edits) <= _CALL):
        opened: dict[int, list[Image.Image]] = {}
        for i in range(start, min(start + _CALL, len(edits))):
            try:
                opened[i] = [_open(picture, role) for picture, role in zip(_pictures(edits[i]), _ROLES, strict=True)]
            except ValueError as error:
                unscored.reasons.setdefault(i, str(error))
        if opened and not unscored.too_many:
            scores[list(opened)] = _call(scorer, [edits[i] for i in opened], list(opened.values()), _name(edits, start))
            scored += opened
    _find_not_finite(scores, scored, unscored)
    return scores


def _call(scorer: ScoreEdits, edits: Sequence[Edit], pictures: Sequence[Sequence[Image.Image]], first: str) -> Any:
    sources, edited = zip(*pictures, strict=True)
    try:
        scores = np.asarray(scorer(sources, edited, [edit.instruction for edit in edits]), np.float64)
    except ValueError as error:  # an index in its message is relative to these edits
        raise ValueError(f"counting from {first}: {error}") from error
    if scores.shape != (len(edits), 3):
        raise ValueError(f"the scorer returned shape {scores.shape} for {len(edits)} edits; expected [n, 3]")
    return scores


def _open(picture: Picture, name: str) -> Image.Image:
    return decode_image(picture, name) if isinstance(picture, bytes) else read_image(picture)


def note_transparent(source: ScoreSource, edits: Sequence[Edit]) -> Note:
    """Note about images with transparent parts, which a scorer sees composited on white. Empty if there are none."""
    if isinstance(source, StoredScores):  # no image was read
        return [], {}
    pictures = {picture for edit in edits for picture in _pictures(edit)}
    count = sum(map(_has_transparency, pictures))
    note = f"{count} of {len(pictures)} images have transparent parts, which were composited on white."
    return ([note], {"composited": {"pictures": count, "of": len(pictures)}}) if count else ([], {})


def _has_transparency(picture: Picture) -> bool:
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        return is_transparent(image)
