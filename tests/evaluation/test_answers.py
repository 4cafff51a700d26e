"""The kinds of answers without a verdict: missing, unreadable, refused."""

import json

import pytest

from rewardedit_jax.evaluation.reward_models.answers import lost_kind


@pytest.mark.parametrize("stored", [(), (None,), ("", " \n"), ([], None), ([None],)])
def test_nothing_is_stored(stored):
    assert lost_kind(*stored) == "missing"


@pytest.mark.parametrize(
    "text",
    [
        "[[A > B]]",
        "Model B is better",
        7,
        ["[[A>B]]"],
        "Model A was not able to follow the instruction, and B cannot be judged.",
        "Both edits are good. " * 10 + "I cannot say which is better.",  # not a refusal: they begin with it
    ],
)
def test_a_text_without_a_verdict(text):
    assert lost_kind(None, text) == "unreadable"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, I can't assist with that request.",
        "I\u2019m sorry, but I can\u2019t help with that.",
        "Sorry, I can't provide that information.",
        "I cannot assist with that request.",
        "As an AI language model, I am not able to evaluate images.",
        "I apologize, but I won't compare these images.",
        "I must decline.",
    ],
)
def test_refusals(text):
    assert lost_kind(text) == lost_kind("Unknown", text) == "refused"


def test_stored_answers_of_gpt4v(shared_data):
    """I2EBench: answers to questions about edits, "Yes", "No", a number, a colour, or a refusal."""
    for file in sorted((shared_data / "i2ebench").glob("*/*.json")):
        for entry in json.loads(file.read_text("utf-8")).values():
            answer = entry["evaluation"].get("VLM_judgement")
            words = str(answer).lower()
            if words.startswith(("sorry", "i'm sorry", "i cannot")):
                assert lost_kind(answer) == "refused", answer
            elif len(words.split()) < 4:
                assert lost_kind(answer) == ("missing" if answer is None else "unreadable"), answer
