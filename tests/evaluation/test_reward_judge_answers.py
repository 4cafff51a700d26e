"""EditReward-Bench by a judge's stored answers: groups are right as a whole, and failed answers stay counted."""

import json

import pytest

from rewardedit_jax.evaluation.reward_benchmarks.editreward_bench_answers import evaluate_answers, read_answers


def result(group, pair, human, judged, models=("m1", "m2")):
    told = {"id": f"{group}_{pair}", "human_vote": human, "model_vote": judged, "model_1": models[0]}
    return {**told, "model_2": models[1], "comparison_type": pair}


def write(tmp_path, content):
    file = tmp_path / "judge.json"
    file.write_text(json.dumps(content))
    return file


def test_a_group_is_right_if_all_its_pairs_are(tmp_path):
    """a: all three right. b: one wrong. c: one failed. d: all failed, which the published share does not see."""
    results = [
        *(result("a", pair, "A>B", "A>B") for pair in ("AvsB", "AvsC", "BvsC")),
        *(result("b", pair, "A>B", judged) for pair, judged in (("AvsB", "A>B"), ("AvsC", "Unknown"), ("BvsC", "A>B"))),
        *(result("c", pair, "A>B", "A>B") for pair in ("AvsB", "AvsC")),
        *[None] * 4,
    ]
    report = evaluate_answers(read_answers(write(tmp_path, {"results": results}), 3), 3)
    told = {(row.measure, row.protocol): (row.value, row.of) for row in report.rows}
    assert told["strict", "published"] == (1 / 3, "3 groups")
    assert told["strict", "sound"] == (0.25, "4 groups")
    assert told["pairwise", "sound"] == (7 / 12, "12 pairs")
    assert report.to_json()["failed"] == 4


def test_pairs_of_one_source_are_groups_of_two(tmp_path):
    results = [result("a", "AvsB", "A=B", "A=B"), result("a", "AvsB", "A>B", "B>A", ("m1", "m3"))]
    report = evaluate_answers(read_answers(write(tmp_path, {"results": results}), 2), 2)
    assert [(row.value, row.of) for row in report.rows[:2]] == [(0.5, "2 groups")] * 2


def test_a_judge_that_never_answered(tmp_path):
    report = evaluate_answers(read_answers(write(tmp_path, {"results": [None, None]}), 2), 2)
    assert [(row.protocol, row.value, row.of) for row in report.rows] == [
        ("sound", 0, "2 groups"),
        ("sound", 0, "2 pairs"),
    ]


@pytest.mark.parametrize("content", [[], {}, {"results": []}, {"results": {}}])
def test_other_layouts(tmp_path, content):
    with pytest.raises(ValueError, match=r'should hold \{"results"'):
        read_answers(write(tmp_path, content), 2)


def test_results_without_votes_are_named(tmp_path):
    broken = {**result("a", "AvsB", "A>B", "A>B"), "model_vote": None}
    with pytest.raises(ValueError, match="result 1: no model_vote"):
        read_answers(write(tmp_path, {"results": [None, broken]}), 2)
