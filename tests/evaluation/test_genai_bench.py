"""GenAI-Bench: accuracies of judges' stored answers, and the faults of a file of answers."""

import json
import re

import pytest

from rewardedit_jax.evaluation.reward_models.answers import align_swapped
from rewardedit_jax.evaluation.reward_models.genai_bench import ANSWER_OF, evaluate_votes, read_votes

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


# The judge's word → votes by the human label, in the order of HUMANS: counted in the leaderboard's own files
# (results/image_edition of TIGER-AI-Lab/GenAI-Bench). Rare words are joined.
LEADERBOARD = {
    "instructblip": {
        "[[A>B]]": (87, 94, 7, 141),
        "[[B>A]]": (60, 90, 6, 125),
        "[[A=B=Good]]": (11, 21, 5, 25),
        None: (64, 38, 5, 75),
        "[[A>B]] 2. Model B is better: [[B>A]] 3. Tie: [[A=B=Good]]": (6, 8, 0, 13),
        "[[Model B is better]]": (5, 5, 0, 3),
        "[[A > B]]": (5, 7, 0, 7),
        "[[B > A]]": (2, 0, 1, 3),
    },
    "llavanext": {
        "[[A>B]]": (204, 234, 23, 345),
        "[[B>A]]": (9, 4, 0, 7),
        "[[A=B=Good]]": (5, 8, 0, 12),
        "[[A=B=Bad]]": (18, 14, 1, 25),
        None: (4, 3, 0, 3),
    },
}


@pytest.mark.parametrize(("judge", "accuracy", "lost"), [("instructblip", 19.80, 247), ("llavanext", 25.35, 10)])
def test_published_figures_of_judges_with_lost_answers(tmp_path, judge, accuracy, lost):
    counted = [(zip(HUMANS, counts, strict=True), word) for word, counts in LEADERBOARD[judge].items()]
    votes = [(human, word) for counts, word in counted for human, count in counts for _ in range(count)]
    measured = evaluate_votes(read_votes(write(tmp_path, votes))).to_json()
    assert (measured["accuracy"], measured["votes"]) == (accuracy, 919)
    assert sum(kind["count"] for kind in measured["lost"].values()) == lost
    assert measured["coverage"] == (919 - lost) / 919


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


@pytest.mark.parametrize(("human", "message"), [("left_vote", "'left_vote'"), (None, "None")])
def test_unknown_human_labels_are_named(tmp_path, human, message):
    file = write(tmp_path, [("leftvote", "[[A>B]]"), (human, "[[A>B]]")])
    with pytest.raises(ValueError, match=re.escape(f"{file}: [1].human_vote={message}")):
        read_votes(file)


# As in the files of InstructBLIP, LLaVA-NeXT, Otter and IDEFICS on the leaderboard.
LOST = [
    ({"model_vote": None}, "missing"),
    ({}, "missing"),
    ({"model_vote": None, "response": " "}, "missing"),
    ({"model_vote": "[[A > B]]", "response": "1. [[A > B]]"}, "unreadable"),
    ({"model_vote": "[[Model B is better]]"}, "unreadable"),
    ({"model_vote": None, "response": "Model B is better"}, "unreadable"),
    ({"model_vote": ["[[A>B]]"]}, "unreadable"),
    ({"model_vote": None, "response": "I'm sorry, I can't assist with that request."}, "refused"),
    ({"model_vote": None, "response": "As an AI language model, I cannot provide a verdict."}, "refused"),
]


def test_lost_answers_are_wrong_and_listed_by_kind(tmp_path):
    """Every human vote is the one that a lenient reader would find."""
    stored = [{"idx": 0, "human_vote": "leftvote", "model_vote": "[[A>B]]"}]
    stored += [{"idx": i, "human_vote": "leftvote", **answer} for i, (answer, _) in enumerate(LOST, 1)]
    (tmp_path / "pairwise.json").write_text(json.dumps(stored))
    report = evaluate_votes(read_votes(tmp_path / "pairwise.json"))
    measured = report.to_json()
    assert [(row.protocol, row.value, row.of) for row in report.rows[:2]] == [
        ("published", 0.1, "10 votes"),
        ("sound", 0.1, "10 votes"),
    ]
    for kind in ("missing", "unreadable", "refused"):
        keys = [f"idx {i}" for i, (_, found) in enumerate(LOST, 1) if found == kind]
        assert measured["lost"][kind] == {"count": len(keys), "first": keys}
    assert measured["coverage"] == 0.1
    assert sum(measured["counts"]["[[A>B]]"].values()) == 10
    assert "3 missing (idx 1, idx 2, idx 3); 4 unreadable (idx 4, " in report.to_text()


def test_words_that_the_leaderboard_accepts(tmp_path):
    """A tie of unknown kind is right there for either kind; it is not the human label."""
    judged = [("leftvote", "[[A>>B]]"), ("rightvote", "[[B>>A]]"), ("tievote", "[[A=B]]"), ("bothbad_vote", "[[A=B]]")]
    report = evaluate_votes(read_votes(write(tmp_path, judged)))
    measured = rows(report)
    assert measured["four labels", "published"] == measured["ties as one label", "sound"] == 1
    assert measured["four labels", "sound"] == 0.5
    assert report.values["coverage"] == 1


def test_rows_that_are_missing_between_the_others(tmp_path):
    """They are votes of the benchmark: idx is the row of the published data."""
    file = write(tmp_path, [("leftvote", "[[A>B]]")] * 5)
    stored = json.loads(file.read_text())
    file.write_text(json.dumps([stored[0], stored[1], stored[4]]))
    report = evaluate_votes(read_votes(file))
    assert rows(report)["four labels", "published"] == 3 / 5
    assert report.values["lost"]["missing"] == {"count": 2, "first": ["idx 2", "idx 3"]}
    file.write_text(json.dumps([{**stored[0], "idx": 483348}]))  # not a row of the benchmark
    assert len(read_votes(file)) == 1


def test_lost_answers_in_either_order(tmp_path):
    votes = read_votes(write(tmp_path, [("leftvote", "[[A>B]]"), ("tievote", None), ("leftvote", None)]))
    file = write(tmp_path, [("rightvote", "[[B>A]]"), ("tievote", "[[A=B=Good]]"), ("rightvote", None)], "swapped.json")
    report = evaluate_votes(votes, align_swapped(votes, read_votes(file), file))
    assert rows(report)["four labels", "published"] == 1 / 3
    assert rows(report)["four labels", "sound"] == 0.5
    assert rows(report)["same answer in both orders", "sound"] == 1 / 3  # two lost answers are not the same answer
    counts = [report.values[name]["missing"]["count"] for name in ("lost", "lost_swapped")]
    assert counts == [2, 1]
    assert report.values["coverage_swapped"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_line_ends_of_windows(tmp_path, end):
    file = write(tmp_path, [("leftvote", "[[A>B]]")])
    content = json.dumps(json.loads(file.read_text()), indent=1).replace("\n", end)
    file.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [vote.right for vote in read_votes(file)] == [True]


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
