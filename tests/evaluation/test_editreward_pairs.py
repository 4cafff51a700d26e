"""EditReward-Bench, a judge's stored answers: groups are right as a whole, and failed answers count."""

import json
import re

import pytest

from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.reward_models.answers import align_swapped
from rewardedit_jax.evaluation.reward_models.editreward_pairs import evaluate_answers, read_answers


def result(group, pair, human, judged, models=("m1", "m2")):
    measured = {"id": f"{group}_{pair}", "human_vote": human, "model_vote": judged, "model_1": models[0]}
    return {**measured, "model_2": models[1], "comparison_type": pair}


def write(tmp_path, content):
    file = tmp_path / "judge.json"
    file.write_text(json.dumps(content))
    return file


VOTES = {"AvsB": "A>B", "AvsC": "A>C", "BvsC": "B>C"}


def test_a_group_is_right_if_all_its_pairs_are(tmp_path):
    """a: all three right. b: one wrong. c: one failed. d: all failed, which the published share leaves out."""
    judged = {"AvsB": "A>B", "AvsC": "Unknown", "BvsC": "B>C"}
    results = [
        *(result("a", pair, vote, vote) for pair, vote in VOTES.items()),
        *(result("b", pair, vote, judged[pair]) for pair, vote in VOTES.items()),
        *(result("c", pair, VOTES[pair], VOTES[pair]) for pair in ("AvsB", "AvsC")),
        *[None] * 4,
    ]
    report = evaluate_answers(read_answers(write(tmp_path, {"results": results}), 3), 3)
    measured = {(row.measure, row.protocol): (row.value, row.of) for row in report.rows}
    assert measured["strict", "published"] == (1 / 3, "3 groups")
    assert measured["strict", "sound"] == (0.25, "4 groups")
    assert measured["pairwise", "sound"] == (7 / 12, "12 pairs")
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected `object`"),
        ({}, "object missing required field `results`"),
        ({"results": []}, r"results=\[\]"),
        ({"results": {}}, r"results=\{\}"),
    ],
)
def test_other_layouts(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"judge\.json: {message}"):
        read_answers(write(tmp_path, content), 2)


@pytest.mark.parametrize(("key", "value"), [("human_vote", None), ("comparison_type", 1)])
def test_results_without_votes_are_named(tmp_path, key, value):
    broken = {**result("a", "AvsB", "A>B", "A>B"), key: value}
    with pytest.raises(ValueError, match=rf"results\[1\]\.{key}={value}"):
        read_answers(write(tmp_path, {"results": [None, broken]}), 3)


@pytest.mark.parametrize(
    ("size", "votes", "message"),
    [
        (2, ("AvsB", "banana", "banana"), "human_vote about AvsB is 'banana'; expected A>B, B>A, A=B"),
        (2, ("AvsC", "A>C", "A>C"), "unknown comparison_type 'AvsC' of 2 edits; is --size right?"),
        (3, ("AvsC", "A>B", "A>B"), "human_vote about AvsC is 'A>B'; expected A>C, C>A"),
    ],
)
def test_unknown_labels_are_named(tmp_path, size, votes, message):
    file = write(tmp_path, {"results": [None, result("a", *votes)]})
    with pytest.raises(ValueError, match=re.escape(f"{file}, result 1, {size}pair a") + ".*" + re.escape(message)):
        read_answers(file, size)


def test_groups_of_two_may_omit_the_comparison_type(tmp_path):
    measured = {**result("a", "AvsB", "A>B", "A>B"), "comparison_type": None}
    assert [a.right for a in read_answers(write(tmp_path, {"results": [measured]}), 2)] == [True]
    with pytest.raises(ValueError, match=r"results\[0\]\.comparison_type=1"):
        read_answers(write(tmp_path, {"results": [{**measured, "comparison_type": 1}]}), 2)


def test_a_vote_about_other_edits_is_wrong(tmp_path):
    """As in EditReward's code, which compares the votes as strings."""
    results = [result("a", pair, vote, "B>C") for pair, vote in VOTES.items()]
    report = evaluate_answers(read_answers(write(tmp_path, {"results": results}), 3), 3)
    assert [row.value for row in report.rows if row.measure == "pairwise"] == [1 / 3]


def test_lost_answers_are_wrong_and_listed_by_kind(tmp_path):
    stored = [
        {"model_vote": "A>B"},
        {"model_vote": None},
        {"model_vote": "Unknown", "model_response": " "},
        {"model_vote": "a>b", "model_response": "a>b"},
        {"model_vote": "Unknown"},
        {"model_vote": ["A>B"]},
        {"model_vote": "Unknown", "model_response": "I\u2019m sorry, but I can\u2019t assist with that."},
    ]
    results = [{**result(f"g{i}", "AvsB", "A>B", None), **answer} for i, answer in enumerate(stored)]
    report = evaluate_answers(read_answers(write(tmp_path, {"results": [*results, None]}), 2), 2)
    assert rows(report)["strict", "published"] == (1 / 7, "7 groups")
    assert rows(report)["pairwise", "sound"] == (1 / 8, "8 pairs")
    lost = {kind: of["first"] for kind, of in report.to_json()["lost"].items()}
    assert lost == {
        "missing": ["2pair g1 (m1, m2)", "2pair g2 (m1, m2)", "answer 7"],
        "unreadable": ["2pair g3 (m1, m2)", "2pair g4 (m1, m2)", "2pair g5 (m1, m2)"],
        "refused": ["2pair g6 (m1, m2)"],
    }
    assert "1 groups without a stored answer count in the sound measures only." in report.notes


def test_rows_that_a_file_lacks_are_missing_answers(tmp_path):
    results = [result("a", pair, VOTES[pair], VOTES[pair]) for pair in ("AvsB", "AvsC")]
    report = evaluate_answers(read_answers(write(tmp_path, {"results": results}), 3), 3)
    assert rows(report)["pairwise", "sound"] == (2 / 3, "3 pairs")
    assert report.values["failed"] == report.values["lost"]["missing"]["count"] == 1


def test_repeated_pairs_are_named(tmp_path):
    """x and t occur again with their models in the other order and the same winner; y has another winner."""
    results = [
        result("x", "AvsB", "A>B", "A>B"),
        result("y", "AvsB", "A>B", "A>B"),
        None,
        result("x", "AvsB", "B>A", "B>A", ("m2", "m1")),
        result("y", "AvsB", "B>A", "B>A"),
        result("z", "AvsB", "A=B", "A=B"),
        result("t", "AvsB", "A=B", "A=B"),
        result("t", "BvsA", "A=B", "A=B", ("m2", "m1")),
    ]
    with pytest.raises(BadRecords, match="3 pairs occur more than once") as measured:
        read_answers(write(tmp_path, {"results": results}), 2)
    assert "2pair x (m1, m2): results 0, 3, with the same human vote" in str(measured.value)
    assert "2pair t (m1, m2): results 6, 7, with the same human vote" in str(measured.value)
    assert "2pair y (m1, m2): results 1, 4, with contradictory human votes" in str(measured.value)
    again = [result("a", "AvsB", "A>B", "A>B"), result("a", "BvsA", "B>A", "A>B")]
    with pytest.raises(BadRecords, match="3pair a AvsB: results 0, 1, with contradictory human votes"):
        read_answers(write(tmp_path, {"results": again}), 3)


def swapped_result(group, pair, human, judged, models=("m1", "m2")):
    """A result with left and right exchanged: A is the edit shown first, so the human vote changes sides."""
    return result(group, pair, human, judged, models[::-1])


def rows(report):
    return {(row.measure, row.protocol): (row.value, row.of) for row in report.rows}


def both_orders(tmp_path, size, first, second):
    answers = read_answers(write(tmp_path, {"results": first}), size)
    file = write(tmp_path, {"results": second})
    return evaluate_answers(answers, size, align_swapped(answers, read_answers(file, size), file))


def test_position_bias_shows_in_the_other_order(tmp_path):
    """A judge that always answers A is right in half of the groups, and never gives the same answer twice."""
    first = [result("a", "AvsB", "A>B", "A>B"), result("b", "AvsB", "B>A", "A>B")]
    second = [swapped_result("b", "AvsB", "A>B", "A>B"), swapped_result("a", "AvsB", "B>A", "A>B")]
    measured = rows(both_orders(tmp_path, 2, first, second))
    assert measured["strict", "published"] == measured["strict", "sound"] == (0.5, "2 groups")
    assert measured["pairwise", "sound"] == (0.5, "2 pairs")
    assert measured["same answer in both orders", "sound"] == (0, "2 pairs")


def test_a_group_counts_half_in_either_order(tmp_path):
    """The group is right in the first order, and one pair of it is wrong in the second."""
    first = [result("a", pair, vote, vote) for pair, vote in VOTES.items()]
    second = [
        swapped_result("a", "AvsB", "B>A", "B>A"),
        swapped_result("a", "AvsC", "C>A", "Unknown"),
        result("a", "CvsB", "B>C", "B>C"),  # or A is what it was, and the pair is measured the other way round
    ]
    measured = rows(both_orders(tmp_path, 3, first, second))
    assert measured["strict", "published"] == (1, "1 groups")
    assert measured["strict", "sound"] == (0.5, "1 groups")
    assert measured["pairwise", "sound"] == (pytest.approx(5 / 6), "3 pairs")
    assert measured["same answer in both orders", "sound"] == (pytest.approx(2 / 3), "3 pairs")


def test_failed_answers_of_either_order_count(tmp_path):
    """a: failed in the second order. b: failed in the first. c: failed in both."""
    first = [result("a", "AvsB", "A>B", "A>B"), None, None]
    second = [None, None, swapped_result("b", "AvsB", "A=B", "A=B")]
    report = both_orders(tmp_path, 2, first, second)
    measured = rows(report)
    assert measured["strict", "published"] == (1, "1 groups")
    assert measured["strict", "sound"] == (pytest.approx(1 / 3), "3 groups")
    assert measured["pairwise", "sound"] == (pytest.approx(1 / 3), "3 pairs")
    assert measured["same answer in both orders", "sound"] == (0, "3 pairs")
    assert "1 of 3 pairs have a readable answer" in report.to_text()
    assert "1 of 3 pairs, edits exchanged, have a readable answer" in report.to_text()
    assert (report.values["failed"], report.values["failed_swapped"]) == (2, 2)


def test_the_other_order_must_be_of_the_same_pairs(tmp_path):
    first = [result("a", "AvsB", "A>B", "A>B"), result("b", "AvsB", "A=B", "A>B")]
    with pytest.raises(ValueError, match=r"1 human votes .*: 2pair a \(m1, m2\)"):
        both_orders(tmp_path, 2, first, first)
    back = swapped_result("a", "AvsB", "B>A", "A>B")
    with pytest.raises(ValueError, match=r"1 .* in one order only: 2pair b \(m1, m2\)$"):
        both_orders(tmp_path, 2, first, [back])
    with pytest.raises(ValueError, match=r"2 .* in one order only: 2pair b \(m1, m2\), 2pair c \(m1, m2\)$"):
        both_orders(tmp_path, 2, first, [back, result("c", "AvsB", "A=B", "A>B")])
    with pytest.raises(ValueError, match="3 votes in this order and 2 in the other"):
        both_orders(tmp_path, 2, first, [back, result("b", "AvsB", "A=B", "A>B"), None])
