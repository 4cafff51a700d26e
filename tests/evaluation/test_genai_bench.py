"""GenAI-Bench: accuracies of judges' stored answers, and the faults of a file of answers."""

import json
import re

import pytest

from rewardedit_jax.evaluation.reward_models.genai_bench import (
    ANSWER_OF,
    align_swapped,
    evaluate_votes,
    read_votes,
)

HUMANS = ("leftvote", "rightvote", "tievote", "bothbad_vote")


def write(tmp_path, votes, name="pairwise.json"):
    file = tmp_path / name
    file.write_text(json.dumps([{"idx": i, "human_vote": h, "model_vote": m} for i, (h, m) in enumerate(votes)]))
    return file


def rows(report):
    return {(row.measure, row.protocol): row.value for row in report.rows}


def test_published_figures(shared_data):
    data = shared_data / "genai_bench"
    for judge, accuracy in (("gpt4o", 53.54), ("random", 25.9)):
        measured = evaluate_votes(read_votes(data / judge / "pairwise.json")).to_json()
        assert (measured["accuracy"], measured["votes"]) == (accuracy, 919)
        assert sum(sum(answers.values()) for answers in measured["counts"].values()) == 919


def test_accuracies_with_four_three_and_two_labels(tmp_path):
    votes = read_votes(
        write(tmp_path, [(h, a) for h in HUMANS for a in ("[[A>B]]", "[[B>A]]", "[[A=B=Good]]", "[[A=B=Bad]]")])
    )
    report = evaluate_votes(votes)
    measured = rows(report)
    assert measured["four labels", "published"] == measured["four labels", "sound"] == 4 / 16
    assert measured["ties as one label", "sound"] == 6 / 16
    assert measured["humans decided", "sound"] == 2 / 8
    assert "answer [[A>B]] is right in 25.00 %" in report.to_text()


def test_position_bias_shows_in_the_other_order(tmp_path):
    """A judge that always answers "left" is right in half of the votes, and its answers never agree."""
    humans = ["leftvote", "rightvote"] * 10
    mirrored = {"leftvote": "rightvote", "rightvote": "leftvote"}
    votes = read_votes(write(tmp_path, [(h, "[[A>B]]") for h in humans]))
    file = write(tmp_path, [(mirrored[h], "[[A>B]]") for h in humans], "swapped.json")
    measured = rows(evaluate_votes(votes, align_swapped(votes, read_votes(file), file)))
    assert measured["four labels", "sound"] == 0.5
    assert measured["same answer in both orders", "sound"] == 0


def test_the_same_answers_in_both_orders(tmp_path):
    mirrored = {"leftvote": "rightvote", "rightvote": "leftvote"}
    votes = read_votes(write(tmp_path, [(h, ANSWER_OF[h]) for h in HUMANS]))
    turned_humans = [mirrored.get(h, h) for h in HUMANS]
    file = write(tmp_path, [(h, ANSWER_OF[h]) for h in turned_humans], "swapped.json")
    measured = rows(evaluate_votes(votes, align_swapped(votes, read_votes(file), file)))
    assert measured["four labels", "sound"] == measured["same answer in both orders", "sound"] == 1


def test_the_other_order_must_be_of_the_same_votes(tmp_path):
    votes = read_votes(write(tmp_path, [("leftvote", "[[A>B]]"), ("tievote", "[[A>B]]")]))
    with pytest.raises(ValueError, match=r"1 human votes .*: idx 0"):
        align_swapped(votes, votes, tmp_path / "swapped.json")
    with pytest.raises(ValueError, match="in one order only: idx 1"):
        align_swapped(votes, votes[:1], tmp_path / "swapped.json")


@pytest.mark.parametrize(
    ("human", "judged", "message"),
    [
        ("left_vote", "[[A>B]]", "[1].human_vote='left_vote'"),
        ("leftvote", "A>B", "[1].model_vote='A>B'"),
        ("leftvote", None, "[1].model_vote=None"),
        ("leftvote", ["[[A>B]]"], "[1].model_vote=['[[A>B]]']"),
    ],
)
def test_unknown_labels_are_named(tmp_path, human, judged, message):
    file = write(tmp_path, [("leftvote", "[[A>B]]"), (human, judged)])
    with pytest.raises(ValueError, match=re.escape(f"{file}: {message}")):
        read_votes(file)


def test_a_vote_counts_once(tmp_path):
    file = tmp_path / "pairwise.json"
    file.write_text(json.dumps([{"idx": 7, "human_vote": "leftvote", "model_vote": "[[A>B]]"}] * 2))
    with pytest.raises(ValueError, match="idx 7 occurs more than once"):
        read_votes(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: not JSON"),
        ("{}", "expected `array`"),
        ("[]", "expected `array` of length >= 1"),
        ('[{"idx": 0}]', r"\[0\]={'idx': 0}: .*`human_vote`"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    file = tmp_path / "pairwise.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_votes(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_votes(tmp_path / "none.json")
