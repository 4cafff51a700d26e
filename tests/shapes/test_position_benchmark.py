"""Position bias: of a scorer that has none, of one that has, and of a judge's stored answers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rewardedit_jax.evaluation.reward_models.answers import FIRST as A
from rewardedit_jax.evaluation.reward_models.answers import SECOND as B
from rewardedit_jax.evaluation.reward_models.answers import Vote, right_by_position
from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.shapes.position_benchmark import FIRST, GAP, SECOND, measure_positions, report_positions
from rewardedit_jax.shapes.scorer_benchmark import held_out_groups

COUNT = 8


@pytest.fixture(scope="module")
def groups():
    return held_out_groups(COUNT)


def fake_scorer(of):
    """A scorer whose score of an edit is `of(edit, place in its group)`."""

    def score(sources, edited, instructions, **_):
        means = [of(np.asarray(picture), i % 4) for i, picture in enumerate(edited)]
        outputs = [np.array([mean, 0], np.float32) for mean in means]
        return [EditScore(np.stack([output, output]), output) for output in outputs]

    return SimpleNamespace(score=score)


def report(measured, tmp_path, **judge):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(measured))
    table, _ = report_positions(tmp_path, {"one": [file]}, COUNT, **judge)
    return table


def test_scores_of_single_edits_have_no_bias(groups, tmp_path):
    measured = measure_positions(fake_scorer(lambda edit, place: edit.mean()), groups)
    assert (measured["count"], measured["largest_change"]) == (COUNT, 0)
    line = report(measured, tmp_path).line("one")
    assert line.values[FIRST].mean == line.values[SECOND].mean
    assert (line.values[GAP].mean, line.values[GAP].interval) == (0, (0, 0))


def test_a_preference_for_the_first_place_is_measured(groups, tmp_path):
    measured = measure_positions(fake_scorer(lambda edit, place: -place), groups)
    assert measured["largest_change"] == 3
    line = report(measured, tmp_path).line("one")
    assert (line.values[FIRST].mean, line.values[SECOND].mean, line.values[GAP].mean) == (100, 0, 100)


def test_votes_by_position():
    votes = [Vote("1", A, A), Vote("2", A, B), Vote("3", B, B), Vote("4", "[[A=B]]", "[[A=B]]"), None]
    (right, counted), (right_second, counted_second) = right_by_position(votes, None)
    assert (right.tolist(), counted.tolist()) == ([1, 0, 0, 0, 0], [1, 1, 0, 0, 0])
    assert (right_second.tolist(), counted_second.tolist()) == ([0, 0, 1, 0, 0], [0, 0, 1, 0, 0])
    # In the exchanged order, comparison 3 shows the preferred edit first; its vote is mirrored back.
    other = [Vote("1", A, B), Vote("2", A, A), Vote("3", B, A), votes[3], None]
    (right, counted), (right_second, counted_second) = right_by_position(votes, other)
    assert (right.tolist(), counted.tolist()) == ([1, 0, 0, 0, 0], [1, 1, 1, 0, 0])
    assert (right_second.tolist(), counted_second.tolist()) == ([0, 1, 1, 0, 0], [1, 1, 1, 0, 0])


def test_a_judge_is_a_line_of_the_table(groups, tmp_path):
    (tmp_path / "gpt").mkdir()
    answers = tmp_path / "gpt" / "pairwise.json"
    human = ["leftvote", "leftvote", "rightvote", "tievote"]
    answers.write_text(json.dumps([
        {"idx": i, "human_vote": vote, "model_vote": "[[A>B]]"} for i, vote in enumerate(human)
    ]))  # fmt: skip
    table = report(measure_positions(fake_scorer(lambda edit, place: edit.mean()), groups), tmp_path, answers=answers)
    judge = table.line("judge: gpt").values
    assert (judge[FIRST].mean, judge[SECOND].mean, judge[GAP].mean) == (100, 0, 100)
    assert "one order only" in table.to_text()
