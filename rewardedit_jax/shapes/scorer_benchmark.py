"""The shapes benchmark of scorers: held-out scenes with four edits each, rated after the oracle.

Accuracy of pairs, and of whole groups of two, three and four (strict: the order of all is right), beside chance and
beside a baseline that only looks at how much was changed; and whether the scorer knows when it is unsure.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.statistics import expected_calibration_error, reliability_bins
from rewardedit_jax.scoring.edit_score import EditScore, matrix
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.shapes.candidates import CANDIDATES, ShapesCandidates, shapes_candidates

_FOLLOWING, _QUALITY, _OVERALL = range(3)
_CHANCE = {2: 1 / 2, 3: 1 / 6, 4: 1 / 24}  # of the right order
_TIED = 0.5  # how far a preference comes true where there is none


def held_out_groups(count: int) -> list[ShapesCandidates]:
    """The first groups of the test split of every data set of shapes preferences, whatever its size."""
    return [shapes_candidates(i, "test") for i in range(count)]


def score_groups(scorer: Scorer, groups: Sequence[ShapesCandidates], batch_size: int = 32) -> list[list[EditScore]]:
    """The scorer's scores of every candidate, group by group."""
    edits = [(group.source, candidate, group.instruction) for group in groups for candidate in group.candidates]
    sources, edited, instructions = zip(*edits, strict=True)
    pictures = [list(map(Image.fromarray, images)) for images in (sources, edited)]
    scores = scorer.score(*pictures, list(instructions), batch_size=batch_size, improvement=False)
    return [scores[i : i + CANDIDATES] for i in range(0, len(scores), CANDIDATES)]


def least_change(groups: Sequence[ShapesCandidates]) -> Float[np.ndarray, "n 4"]:
    """The baseline: the less an edit differs from its source, pixel by pixel, the better."""
    sources = np.stack([group.source for group in groups])[:, None]
    return -np.abs(np.stack([group.candidates for group in groups]) - sources.astype(np.float32)).mean((2, 3, 4))


def evaluate_scorer(scores: Sequence[Sequence[EditScore]], groups: Sequence[ShapesCandidates], seed: int = 0) -> Report:
    """Accuracies with intervals over groups, and the calibration of the predicted preference.

    Args:
      seed: of the bootstrap.
    """
    means = np.stack([matrix(group) for group in scores])
    ratings = np.stack([group.ratings for group in groups])
    rows = _accuracies("scorer", means[..., _OVERALL], ratings.sum(2), seed)
    for name, column, rated in (("following", _FOLLOWING, 0), ("quality", _QUALITY, 1)):
        rows.append(_pairs(f"scorer, pairs by {name}", means[..., column], ratings[..., rated], seed))
    rows += _accuracies("least change", least_change(groups), ratings.sum(2), seed)
    rows += [Row(f"chance, K = {k}", "sound", share, "") for k, share in _CHANCE.items()]
    told, true = preferences(scores, ratings.sum(2))
    tied = true == _TIED
    error = expected_calibration_error(told, true)
    stated = float(told[tied].mean()) if tied.any() else math.nan
    values = {
        "expected_calibration_error": error,
        "reliability": reliability_bins(told, true),
        "stated_on_ties": stated,
        "groups": len(groups),
    }
    notes = [
        f"Expected calibration error of the predicted preference: {100 * error:.1f} % ({len(told)} pairs, ten bins; "
        "of equal rating: half right).",
        f"Its mean in pairs of equal rating, where 50 would be right: {100 * stated:.1f} % ({tied.sum()} pairs).",
        "Accuracies leave them out; groups of K are the first K edits where all ratings differ.",
    ]
    return Report("Scorer on held-out shapes (%)", rows, notes, values, percent=True)


def shapes_scorer_evaluator(task: ScoringTask, count: int = 64) -> Callable[[Mapping[str, Any], int], dict[str, Any]]:
    """For `training.loop.train`: accuracy of held-out pairs and calibration error."""
    groups = held_out_groups(count)

    def evaluate(params: Mapping[str, Any], step: int) -> dict[str, Any]:
        report = evaluate_scorer(score_groups(task.with_params(params), groups), groups)
        pairs = next(row.value for row in report.rows if row.measure == "scorer, pairs")
        return {"pairs": pairs, "calibration_error": report.values["expected_calibration_error"]}

    return evaluate


def preferences(
    scores: Sequence[Sequence[EditScore]], ratings: Float[np.ndarray, "n 4"]
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """The stated probability of the edit that the scorer prefers, 0.5..1, and whether that came true, for all pairs.

    1: its rating is the higher one, 0: the lower one; where both are rated alike, or none is preferred, 1/2.
    """
    told, true = [], []
    for group, rated in zip(scores, ratings, strict=True):
        for i, j in combinations(range(len(group)), 2):
            probability = Scorer.prefer(group[i], group[j])
            told.append(max(probability, 1 - probability))
            true.append(_TIED + np.sign(probability - 0.5) * np.sign(rated[i] - rated[j]) / 2)
    return np.array(told), np.array(true)


def _accuracies(name: str, scores: Float[np.ndarray, "n 4"], ratings: Float[np.ndarray, "n 4"], seed: int) -> list[Row]:
    return [
        _pairs(f"{name}, pairs", scores, ratings, seed),
        *(_strict(name, scores, ratings, k, seed) for k in _CHANCE),
    ]


def _pairs(name: str, scores: Float[np.ndarray, "n 4"], ratings: Float[np.ndarray, "n 4"], seed: int) -> Row:
    """Equal scores are wrong: they tell nothing."""
    first, second = zip(*combinations(range(scores.shape[1]), 2), strict=True)
    wanted = np.sign(ratings[:, first] - ratings[:, second])
    found = np.sign(scores[:, first] - scores[:, second])
    counted = (wanted != 0).sum(1)
    right = ((wanted != 0) & (found == wanted)).sum(1)
    return sound_share(name, right, "pairs", seed, counted)


def _strict(name: str, scores: Float[np.ndarray, "n 4"], ratings: Float[np.ndarray, "n 4"], k: int, seed: int) -> Row:
    """Equal scores are no order."""
    distinct = np.array([len(set(rated[:k])) == k for rated in ratings])
    by_rating = np.argsort(ratings[distinct, :k], axis=1)
    ordered = np.take_along_axis(scores[distinct, :k], by_rating, axis=1)
    right = (np.diff(ordered, axis=1) > 0).all(axis=1)
    return sound_share(f"{name}, strict K = {k}", right, "groups", seed)
