"""Questions about pictures: right answers, that the question does not give away, of the split."""

import numpy as np
import pytest

from rewardedit_jax.shapes.scene import SPLITS, Scene, Shape, holds_out_edit, sample_scene
from rewardedit_jax.shapes.visual_questions import KINDS, language_texts, object_edits, visual_questions

SHAPES = (Shape("square", "blue", "striped", cell=3), Shape("circle", "red"), Shape("square", "cyan", "dotted", cell=1))
SCENE = Scene("gray", "even", SHAPES)
# Of each kind, some of the questions about SCENE and their answers.
RIGHT = {
    "description": {
        "describe the picture": "a plain red circle at the top left and a dotted cyan square at the top right and "
        "a striped blue square at the bottom right on gray"
    },
    "cell": {"what is at the bottom left": "nothing", "what is at the bottom right": "a striped blue square"},
    "place": {"where is the cyan shape": "at the top right", "where is the red circle": "at the top left"},
    "color": {
        "what color is the circle": "red",
        "what color is the square at the top right": "cyan",
        "what color is the shape at the bottom right": "blue",
    },
    "form": {"what form has the cyan shape": "square", "what form has the shape at the top left": "circle"},
    "texture": {"what texture has the red circle": "plain", "what texture has the shape at the top right": "dotted"},
    "count": {
        "how many shapes are there": "three",
        "how many square shapes are there": "two",
        "how many triangle shapes are there": "zero",
        "how many striped shapes are there": "one",
    },
    "presence": {"is there a red circle": "yes", "is there a red square": "no", "is there a green triangle": "no"},
    "background": {"what color is the background": "gray"},
    "neighbor": {
        "what is right of the red circle": "a dotted cyan square",
        "what is above the blue shape": "a dotted cyan square",
        "what is left of the blue square": "nothing",
    },
    "named place": {"where is it : remove the red circle": "at the top left"},
    "named color": {"what color is it : delete the shape at the top right": "cyan"},
    "named form": {"what form has it : make the blue shape green": "square"},
    "named texture": {"what texture has it : turn the cyan square into a circle": "dotted"},
}


def ask(scene, seed, split="train"):
    return visual_questions(np.random.default_rng(seed), scene, split)


@pytest.fixture(scope="module")
def asked():
    """Questions about SCENE of both splits, without repetitions."""
    return {question for seed in range(1500) for split in SPLITS for question in ask(SCENE, seed, split)}


def test_one_question_of_each_kind():
    kinds = [question.kind for question in ask(SCENE, 0)]
    assert sorted(kinds) == sorted(KINDS)
    assert kinds != [question.kind for question in ask(SCENE, 1)]
    assert ask(SCENE, 0) == ask(SCENE, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_right(asked, kind):
    answers = {question.text: question.answer for question in asked if question.kind == kind}
    assert {text: answers.get(text) for text in RIGHT[kind]} == RIGHT[kind]


def test_a_question_has_one_answer(asked):
    assert len({question.text for question in asked}) == len(asked)


@pytest.mark.parametrize("asks", ["color", "form", "texture", "place"])
def test_no_question_gives_its_answer_away(asks):
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        for question in visual_questions(rng, scene, SPLITS[seed % 2]):
            if question.kind in (asks, f"named {asks}"):
                assert f" {question.answer} " not in f" {question.text} "  # "red" is in "checkered"


def test_every_edit_of_an_object_changes_it():
    edits = object_edits(SCENE)
    # Of each shape: three free colors, two forms, three textures, and its removal.
    assert len(edits) == len(set(edits)) == 3 * (3 + 2 + 3 + 1)
    assert all(edit.apply(SCENE) != SCENE for edit in edits)


def test_instructions_are_of_the_split():
    """Training and test quote no common edit: an edit is of one split."""
    edits = {
        split: {e for e in object_edits(SCENE) if holds_out_edit(SCENE, e) == (split == "test")} for split in SPLITS
    }
    assert edits["train"]
    assert edits["test"]
    alone = Scene("gray", "even", (Shape("circle", "red", "striped"),))
    held_out = [edit for edit in object_edits(alone) if holds_out_edit(alone, edit)]
    quoted = {question.text for seed in range(300) for question in ask(alone, seed, "test") if ":" in question.text}
    for edit in object_edits(alone):
        if edit.attribute == "color":
            assert any(text.endswith(f" {edit.value}") for text in quoted) == (edit in held_out)


def test_claims_are_true_half_of_the_time():
    answers = [q.answer for seed in range(400) for q in ask(SCENE, seed) if q.kind == "presence"]
    assert 0.4 < np.mean([answer == "yes" for answer in answers]) < 0.6


def test_texts_for_the_tokenizer_have_all_words():
    known = {word for text in language_texts() for word in text.split()}
    for seed in range(500):
        rng = np.random.default_rng(seed)
        for question in visual_questions(rng, sample_scene(rng), SPLITS[seed % 2]):
            assert {*question.text.split(), *question.answer.split()} <= known
