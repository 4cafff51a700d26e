"""Rewards that the benchmark asks for: labels and scores, and texts that name what would fail in the scene at hand."""

import re

import numpy as np
import pytest
from tiny_models import tiny_editor

from rewardedit_jax.data.clip_tokenizer import encode_texts
from rewardedit_jax.reward import join_feedback
from rewardedit_jax.shapes import vocabulary_texts, wording
from rewardedit_jax.shapes.asked import ASKED, FURTHER, IN_TABLE, asked_reward, asked_texts
from rewardedit_jax.shapes.examples import example_case, shapes_example
from rewardedit_jax.shapes.render import render, to_uint8

SLIGHT = re.compile("slightly|partly|faint")


def test_labels_and_their_scores():
    assert list(ASKED) == ["5", "4", "3", "2", "1", "0", "following 0", "preserving 0", "quality 0"]
    assert sorted([*IN_TABLE, *FURTHER]) == sorted(ASKED)
    assert IN_TABLE == ("5", "3", "0")
    scores = [asked_reward(label, 0).scores.tolist() for label in ("3", "following 0", "preserving 0", "quality 0")]
    assert scores == [[3, 3, 3], [0, 5, 5], [5, 0, 5], [5, 5, 0]]


def test_the_best_reward_names_no_failure():
    assert asked_reward("5", 3).texts == ("None", "None", "None")


@pytest.mark.parametrize("i", range(3))
def test_a_perspective_steered_alone_has_its_own_text_only(i):
    texts = asked_reward(("following 0", "preserving 0", "quality 0")[i], 7).texts
    assert texts[i] == asked_reward("0", 7).texts[i] != "None"
    assert [text for j, text in enumerate(texts) if j != i] == ["None", "None"]


@pytest.mark.parametrize("score", range(5))
def test_texts_are_of_the_kind_of_their_score_and_scene(score):
    for index in range(20):
        scene, edit = example_case(index, "test")
        following, preserving, quality = asked_texts(index, "test", score)
        failed = wording.edit_partial(edit, score / 5) if score else wording.edit_missing(edit)
        assert following in failed
        assert quality in {t for kind in ("blur", "noise", "blocks") for t in wording.damage(kind, score)}
        assert re.search("appeared|there is a|gone|turned|became", preserving)
        if edit.subject:  # what the instruction is about is no unrequested change
            assert f"{edit.subject.color} {edit.subject.form}" not in preserving
        # Apart from new shapes, a change is of a shape of this very scene, or of its background.
        if not re.search("appeared|there is a", preserving):
            assert any(name in preserving for name in ["background", *(f"{s.color} {s.form}" for s in scene.shapes)])


def test_slight_changes_are_those_of_high_scores():
    slight = {score: np.mean([bool(SLIGHT.search(asked_texts(i, "test", score)[1])) for i in range(40)])
              for score in (4, 2, 0)}  # fmt: skip
    assert slight[4] > 0.8
    assert slight[0] < 0.4
    assert slight[4] > slight[2] > slight[0]


def test_texts_depend_on_nothing_but_their_arguments():
    first = [asked_texts(i, "test", 0) for i in range(6)]
    asked_texts.cache_clear()
    assert [asked_texts(i, "test", 0) for i in reversed(range(6))] == first[::-1]
    assert len(set(first)) == 6
    assert asked_texts(0, "train", 0) != first[0]


def test_the_case_of_an_example_is_what_it_shows():
    for index, split in ((0, "test"), (5, "train")):
        (scene, edit), example = example_case(index, split), shapes_example(index, split)
        np.testing.assert_array_equal(to_uint8(render(scene)), example.source)
        np.testing.assert_array_equal(to_uint8(render(edit.apply(scene))), example.ideal)
        assert edit.type == example.edit_type


def test_texts_are_the_worlds_and_fit_the_encoder():
    world, tokenizer = set(vocabulary_texts()), tiny_editor(layout="released").base.tokenizer
    rewards = [asked_reward(label, i) for label in ASKED for i in range(16)]
    assert {text for reward in rewards for text in reward.texts} <= world
    assert not encode_texts(tokenizer, [join_feedback(reward.texts) for reward in rewards]).cut.any()
