"""Ratings of single edits, against the scores of any scorer: AURORA and ImagenHub points.

Published as lists of objects: AURORA with `prompt`, `input`, `gen` (`valid_aurora_human_ratings_pointwise.json`),
ImagenHub with `instruction`, `input_path`, `output_path` (`valid_imagenhub_processed.json`), both with the human
`score` and the `model` that made the edit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.evaluation.report import Report, Row
from rewardedit_jax.evaluation.reward_models.bootstrap import bootstrap_interval
from rewardedit_jax.evaluation.reward_models.correlation import (
    fisher_mean,
    per_prompt_spearman,
    published_mean,
    spearman,
    z_scored_spearman,
)
from rewardedit_jax.evaluation.reward_models.edits import OVERALL, Edit, Judge, note_transparent, score_edits
from rewardedit_jax.evaluation.reward_models.json_records import is_number, listed, read_records
from rewardedit_jax.evaluation.reward_models.repeated import note_repeated

# Benchmark → keys of instruction, source and edited.
LAYOUTS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {"aurora": ("prompt", "input", "gen"), "imagenhub": ("instruction", "input_path", "output_path")}
)
_TITLES = {"aurora": "AURORA points", "imagenhub": "ImagenHub points"}


@dataclass(frozen=True)
class Point:
    """One rated edit; only the order of ratings counts."""

    edit: Edit
    human: float
    model: str


def read_points(file: Path, images: Path, benchmark: str) -> list[Point]:
    """The points of a JSON file, whose image paths are relative to the directory `images`.

    Raises:
      FileNotFoundError, ValueError: naming the file and, where one is at fault, the item and its key.
    """
    keys = LAYOUTS[benchmark]
    records = read_records(file, (*keys, "score", "model"), f"{_TITLES[benchmark]} as EditReward publishes them")
    return [_point(record, keys, f"{file}, item {i}", images) for i, record in enumerate(records)]


def _point(record: dict[str, Any], keys: tuple[str, str, str], name: str, images: Path) -> Point:
    if not is_number(record["score"]):
        raise ValueError(f"{name}: score is {record['score']!r}, not a number.")
    for key in (*keys, "model"):
        if not isinstance(record[key], str) or not record[key]:
            raise ValueError(f"{name}: {key} is {record[key]!r}, not a text.")
    instruction, source, edited = (record[key] for key in keys)
    edit = Edit(images / source, images / edited, instruction, name)
    return Point(edit, float(record["score"]), record["model"])


def evaluate_points(points: Sequence[Point], scorer: Judge, benchmark: str, seed: int = 0) -> Report:
    """Rank correlation of a scorer's overall score with human ratings.

    Raises:
      What `edits.score_edits` raises.
    """
    edits = [point.edit for point in points]
    report = measure_points(points, score_edits(scorer, edits)[:, OVERALL], benchmark, seed)
    repeated = note_repeated(edits, [point.human for point in points], "edits")
    return report.noting(*repeated).noting(*note_transparent(scorer, edits))


def measure_points(points: Sequence[Point], scores: Float[np.ndarray, " n"], benchmark: str, seed: int = 0) -> Report:
    """As `evaluate_points`, of known scores.

    AURORA is published as the plain mean of the correlations per model, ImagenHub as tanh of it; its second version
    compares the edits of one instruction.
    """
    human, model = np.array([p.human for p in points]), np.array([p.model for p in points])
    per_model = _per_model(human, scores, model)
    models = np.unique(model)
    of = f"{len(models)} models, {len(points)} edits"
    correlations = list(per_model.values())
    rows = [Row("mean of r", "published", float(np.mean(correlations)), of)]
    if benchmark == "imagenhub":
        prompts = [point.edit.instruction for point in points]
        rows += [
            Row("tanh of mean r", "published", published_mean(correlations), of),
            Row("r within instructions", "published", per_prompt_spearman(human, scores, prompts), of),
            Row("r of z-scores, v2", "published", z_scored_spearman(human, scores, prompts), of),
        ]
    rows.append(Row("Fisher mean of r", "sound", fisher_mean(correlations), of, _interval(human, scores, model, seed)))
    undefined = [name for name, r in per_model.items() if np.isnan(r)]
    notes = ["r: Spearman's correlation over the edits of one model."]
    if undefined:
        notes.append(f"r is not defined, and counts as 0 in sound means: {listed(undefined)}.")
    values = {"per_model": per_model, "undefined": undefined, "edits": len(points), "seed": seed}
    return Report(f"{_TITLES[benchmark]}: rank correlation with ratings", rows, notes, values, percent=False)


def _per_model(human: np.ndarray, scores: np.ndarray, model: np.ndarray) -> dict[str, float]:
    return {str(m): spearman(scores[model == m], human[model == m]) for m in np.unique(model)}


def _interval(human: np.ndarray, scores: np.ndarray, model: np.ndarray, seed: int) -> tuple[float, float]:
    """Over edits; a model none of whose edits is drawn is not in the mean of that draw."""
    return bootstrap_interval(
        lambda at: fisher_mean(list(_per_model(human[at], scores[at], model[at]).values())), len(human), seed
    )
