"""Answers of judges: what is a verdict, what is repaired, and by which reason the others fail."""

import json

import pytest

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.judging.answers import NoVerdict, Verdict, is_refusal, read_answer

GOOD = '{"score": 4, "feedback": "the bird is missing"}'
VERDICT = Verdict(4.0, "the bird is missing")


@pytest.mark.parametrize("text", [GOOD, f"\n {GOOD} ", GOOD.replace(", ", ",\n  "), GOOD.replace("4", "4.0")])
def test_one_object_is_a_verdict(text):
    assert read_answer(text, "stop") == VERDICT


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```",
        f"Sure! Here it is: {GOOD} I hope it helps.",
        f"The form is {{score}}, so: {GOOD}",
        f"[{GOOD}]",
        f"I'm sorry for the delay. {GOOD}",
    ],
)
def test_text_around_the_object_is_repaired(text):
    assert read_answer(text, "stop") == Verdict(4.0, "the bird is missing", repaired=True)


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("", "stop", "empty"),
        (" \n", "", "empty"),
        ("", "length", "truncated"),
        ('{"score": 4, "feed', "length", "truncated"),
        ('{"score": 4, "feedback": "the bi', "stop", "truncated"),
        ('{"score": 4,', "stop", "truncated"),
        ("I think that", "length", "truncated"),
        # What a broken object contains is not the answer.
        (f'{{"score": 1, "draft": {GOOD}', "stop", "truncated"),
        (f'{{"score": <1>, "draft": {GOOD}}}', "stop", "not JSON"),
        (GOOD + GOOD, "stop", "not JSON"),
        ("4", "stop", "not JSON"),
        ("The score is 4 of 5.", "stop", "not JSON"),
        ('{"score": 4, "feedback": "a "quoted" word"}', "stop", "not JSON"),
        ('{"a":' * 3000, "stop", "not JSON"),
        ("I'm sorry, but I can't assist with that request.", "stop", "refused"),
        ("I\u2019m unable to judge images of people.", "stop", "refused"),
        ("anything", "content_filter", "refused"),
        (GOOD, "refusal", "refused"),
        ('{"score": 0, "feedback": "I\'m sorry, but I can\'t assist with that."}', "stop", "refused"),
        ('{"rating": 4, "feedback": "x"}', "stop", "wrong keys"),
        ('{"score": 4}', "stop", "wrong keys"),
        ('{"score": 4, "feedback": "x", "why": "y"}', "stop", "wrong keys"),
        ('{"score": 4, "score": 5, "feedback": "x"}', "stop", "wrong keys"),
        ('{"score": 4, "feedback": null}', "stop", "wrong keys"),
        ('{"score": 4, "feedback": "\\ud800"}', "stop", "wrong keys"),
        ('{"score": 7, "feedback": "x"}', "stop", "out of range"),
        ('{"score": -0.1, "feedback": "x"}', "stop", "out of range"),
        ('{"score": NaN, "feedback": "x"}', "stop", "out of range"),
        ('{"score": Infinity, "feedback": "x"}', "stop", "out of range"),
        ('{"score": true, "feedback": "x"}', "stop", "out of range"),
        ('{"score": "4", "feedback": "x"}', "stop", "out of range"),
        ('{"score": null, "feedback": "x"}', "stop", "out of range"),
    ],
)
def test_what_is_no_verdict_has_a_reason(text, finish, reason):
    found = read_answer(text, finish)
    assert isinstance(found, NoVerdict)
    assert found.reason == reason


@pytest.mark.parametrize("feedback", ["I cannot see a hat.", "Sorry, the sign is unreadable.", "None", ""])
def test_feedback_may_sound_like_a_refusal(feedback):
    assert read_answer(json.dumps({"score": 0, "feedback": feedback})) == Verdict(0.0, feedback)


def test_an_answer_cut_anywhere_is_never_a_score():
    for end in range(len(GOOD)):
        assert read_answer(GOOD[:end], "length").reason in ("truncated", "empty")
        assert isinstance(read_answer(GOOD[:end], "stop"), NoVerdict)


def test_real_refusals_are_recognised(shared_data):
    """Answers of GPT-4V to questions about images (I2EBench): texts that begin with an apology decline."""
    answers = [
        str(entry["evaluation"].get("VLM_judgement", ""))
        for file in sorted((shared_data / "i2ebench").glob("*/*.json"))
        for entry in read_json(file).values()
        if isinstance(entry.get("evaluation"), dict)
    ]
    sorry = [text for text in answers if text.lower().startswith(("i'm sorry", "sorry", "i cannot assist"))]
    assert len(answers) > 5000
    assert len(sorry) >= 20
    assert all(read_answer(text, "stop").reason == "refused" for text in sorry)
    verdicts = [text for text in answers if text.lower().rstrip(".") in ("yes", "no")]
    assert not any(map(is_refusal, verdicts))
    assert {read_answer(text, "stop").reason for text in verdicts} == {"not JSON"}
