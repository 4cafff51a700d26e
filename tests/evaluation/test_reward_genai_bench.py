"""GenAI-Bench: what judges' stored answers come to, and every fault of a file of answers."""

import json
import re

import numpy as np
import pytest

from rewardedit_jax.evaluation.reward_models.genai_bench import ANSWER_OF, evaluate_votes, read_votes
from rewardedit_jax.evaluation.reward_models.votes import turned

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
        told = evaluate_votes(read_votes(data / judge / "pairwise.json")).to_json()
        assert (told["accuracy"], told["votes"]) == (accuracy, 919)
        assert sum(sum(answers.values()) for answers in told["counts"].values()) == 919


def test_four_labels_are_told_apart_and_ties_are_one(tmp_path):
    votes = read_votes(
        write(tmp_path, [(h, a) for h in HUMANS for a in ("[[A>B]]", "[[B>A]]", "[[A=B=Good]]", "[[A=B=Bad]]")])
    )
    report = evaluate_votes(votes)
    told = rows(report)
    assert told["four labels", "published"] == told["four labels", "sound"] == 4 / 16
    assert told["ties as one label", "sound"] == 6 / 16
    assert told["humans decided", "sound"] == 2 / 8
    assert "Always answering [[A>B]] would be right in 25.00 %" in report.to_text()


def test_a_judge_that_likes_the_left_is_found_out(tmp_path):
    """Always "left": right in half of these votes in one order; in both orders its answers never agree."""
    humans = ["leftvote", "rightvote"] * 10
    mirrored = {"leftvote": "rightvote", "rightvote": "leftvote"}
    votes = read_votes(write(tmp_path, [(h, "[[A>B]]") for h in humans]))
    file = write(tmp_path, [(mirrored[h], "[[A>B]]") for h in humans], "swapped.json")
    told = rows(evaluate_votes(votes, turned(votes, read_votes(file), file)))
    assert told["four labels", "sound"] == 0.5
    assert told["same answer in both orders", "sound"] == 0


def test_the_same_answers_in_both_orders(tmp_path):
    mirrored = {"leftvote": "rightvote", "rightvote": "leftvote"}
    votes = read_votes(write(tmp_path, [(h, ANSWER_OF[h]) for h in HUMANS]))
    turned_humans = [mirrored.get(h, h) for h in HUMANS]
    file = write(tmp_path, [(h, ANSWER_OF[h]) for h in turned_humans], "swapped.json")
    told = rows(evaluate_votes(votes, turned(votes, read_votes(file), file)))
    assert told["four labels", "sound"] == told["same answer in both orders", "sound"] == 1


def test_the_other_order_must_be_of_the_same_votes(tmp_path):
    votes = read_votes(write(tmp_path, [("leftvote", "[[A>B]]"), ("tievote", "[[A>B]]")]))
    with pytest.raises(ValueError, match=r"1 human votes are not those of the other order.*idx 0"):
        turned(votes, votes, tmp_path / "swapped.json")
    with pytest.raises(ValueError, match="1 votes are in one order only: idx 1"):
        turned(votes, votes[:1], tmp_path / "swapped.json")


@pytest.mark.parametrize(
    ("human", "judged", "told"),
    [
        ("left_vote", "[[A>B]]", "item 1: unknown human_vote 'left_vote'"),
        ("leftvote", "A>B", "item 1: unknown model_vote 'A>B'"),
        ("leftvote", None, "item 1: unknown model_vote None"),
        ("leftvote", ["[[A>B]]"], "item 1: unknown model_vote"),
    ],
)
def test_unknown_labels_are_named(tmp_path, human, judged, told):
    file = write(tmp_path, [("leftvote", "[[A>B]]"), (human, judged)])
    with pytest.raises(ValueError, match=re.escape(f"{file}, {told}")):
        read_votes(file)


def test_a_vote_counts_once(tmp_path):
    file = tmp_path / "pairwise.json"
    file.write_text(json.dumps([{"idx": 7, "human_vote": "leftvote", "model_vote": "[[A>B]]"}] * 2))
    with pytest.raises(ValueError, match="idx 7 occurs more than once"):
        read_votes(file)


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "is no JSON"), ("{}", "holds no list"), ("[]", "holds no list"), ('[{"idx": 0}]', "item 0: no human_vote")],
)
def test_other_files_are_refused(tmp_path, content, told):
    file = tmp_path / "pairwise.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=told):
        read_votes(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.json"):
        read_votes(tmp_path / "none.json")


def test_the_picture_shows_the_interval(tmp_path):
    """A row with interval differs from the same row without in dark pixels on the bar, and nowhere left of it."""
    report = evaluate_votes(read_votes(write(tmp_path, [("leftvote", "[[A>B]]"), ("rightvote", "[[A>B]]")] * 8)))
    picture = np.asarray(report.draw())
    bars = picture[:, 354:774].astype(int).sum(-1) < 100
    tops = [68 + 30 * i for i in range(len(report.rows))]
    assert [bool(bars[top : top + 18, 5:-5].any()) for top in tops] == [row.interval is not None for row in report.rows]
    report.write(tmp_path / "new" / "out.json", tmp_path / "new" / "out.png")
    assert json.loads((tmp_path / "new" / "out.json").read_text())["accuracy"] == 50
    assert (tmp_path / "new" / "out.png").stat().st_size > 0
