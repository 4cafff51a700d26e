"""The scorer that ships: it orders held-out edits far better than the baseline, and its calibration is stated."""

import pytest

from rewardedit_jax import Scorer
from rewardedit_jax.evaluation.shapes_scorer import evaluate_scorer, held_out_groups, score_groups


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load("shapes_scorer")


def test_it_orders_held_out_edits(scorer):
    groups = held_out_groups(64)
    scores = score_groups(scorer, groups)
    found = {row.measure: row.value for row in evaluate_scorer(scores, groups).rows}
    assert found["scorer, pairs"] > found["least change, pairs"] + 0.1
    assert found["scorer, pairs"] > 0.85
    best = [max(group, key=lambda score: score.overall.mean) for group in scores]
    assert sum(score.calibrated for score in best) / len(best) > 0.6


def test_its_calibration_is_stated(scorer):
    assert "shapes world" in scorer.calibration.description
    assert len(scorer.calibration.outputs) == 2000
