"""Harder questions: what they ask, and their benchmark with a perfect and an idle editor."""

import json
from argparse import ArgumentParser
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_editor

from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.shapes import question_benchmark
from rewardedit_jax.shapes.editor_benchmark import score
from rewardedit_jax.shapes.question_benchmark import add_question_benchmark, answer, make_table
from rewardedit_jax.shapes.questions import harder_questions
from rewardedit_jax.shapes.scene import COLORS
from rewardedit_jax.shapes.wording import vocabulary_texts

KINDS = ["as in training", "other wording", "spatial words", "quantifier", "two in turn"]
COUNT = 24


@pytest.fixture(scope="module")
def questions():
    return harder_questions(COUNT)


@pytest.fixture(scope="module")
def rewarded():
    return tiny_editor(layout="released")


@dataclass(frozen=True)
class Knowing(Editor):
    """Returns the ideal picture to the last instruction of each question, and the source to those before."""

    def edit(self, image, instruction, *, reward, seed, output, **settings):
        for asked in harder_questions(len(image)).values():
            if list(instruction) == [question.instructions[-1] for question in asked]:
                return np.stack([question.ideal for question in asked]).astype(np.float32) / 255
        return np.stack(image).astype(np.float32) / 255


def as_editor(kind, editor):
    return kind(**{field.name: getattr(editor, field.name) for field in fields(Editor)})


def test_all_kinds_ask_about_the_same_scenes(questions):
    assert list(questions) == KINDS
    for kind in KINDS:
        assert len(questions[kind]) == COUNT
        for question, usual in zip(questions[kind], questions[KINDS[0]], strict=True):
            np.testing.assert_array_equal(question.source, usual.source)
            assert question.edit_type == usual.edit_type
            assert (question.ideal != question.source).any()


def test_a_question_does_not_depend_on_how_many_there_are(questions):
    for kind, few in harder_questions(3).items():
        assert [q.instructions for q in few] == [q.instructions for q in questions[kind][:3]]


def test_wording_and_spatial_words_ask_for_the_same_picture(questions):
    for kind in ("other wording", "spatial words"):
        for question, usual in zip(questions[kind], questions[KINDS[0]], strict=True):
            np.testing.assert_array_equal(question.ideal, usual.ideal)
            assert question.instructions != usual.instructions


def test_other_wordings_are_not_those_of_training_and_spatial_words_are(questions):
    texts = set(vocabulary_texts())
    words = {word for text in texts for word in text.split()}
    assert all(question.instructions[0] in texts for question in questions[KINDS[0]])
    assert not any(question.instructions[0] in texts for question in questions["other wording"])
    for question in questions["spatial words"]:
        (instruction,) = question.instructions
        assert set(instruction.split()) <= words
        # The place takes the part of the colour; a new colour may still be asked for.
        assert instruction not in texts
        assert " at the " in instruction


def test_a_quantifier_changes_more_than_one_object(questions):
    def changed(question):
        return (question.source != question.ideal).any(-1).reshape(2, 16, 2, 16).any((1, 3)).sum()

    pairs = list(zip(questions["quantifier"], questions[KINDS[0]], strict=True))
    assert all(changed(question) >= changed(usual) for question, usual in pairs)
    assert sum(changed(question) > changed(usual) for question, usual in pairs) > 0.9 * COUNT
    assert all(any(word in q.instructions[0].split() for word in ("all", "every")) for q, _ in pairs)


def test_two_in_turn_are_edits_of_different_objects(questions):
    for question, usual in zip(questions["two in turn"], questions[KINDS[0]], strict=True):
        first, second = question.instructions
        assert first == usual.instructions[0]
        objects = [{pair for pair in pairwise(text.split()) if pair[0] in COLORS} for text in (first, second)]
        assert objects[0] != objects[1]
        assert (question.ideal != usual.ideal).any()


def test_perfect_answers_score_best(questions, rewarded):
    for asked in questions.values():
        np.testing.assert_allclose(score(answer(as_editor(Knowing, rewarded), asked), asked), 5, atol=0.1)


def test_differences_are_paired(questions):
    usual = np.random.default_rng(0).uniform(0, 4, (COUNT, 3))
    table = make_table({"as in training": usual, "quantifier": usual + 0.5})
    assert table.rows[0][4:] == ["", "", ""]
    assert table.rows[1][4:] == ["+0.50 ± 0.00"] * 3


def test_the_command(rewarded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(question_benchmark, "SETTINGS", {**question_benchmark.SETTINGS, "steps": 1})
    rewarded.save(tmp_path / "model")
    parser = ArgumentParser()
    add_question_benchmark(parser.add_subparsers())
    words = ["shapes_questions", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--count", "3"]
    a = parser.parse_args(words)
    a.run(a)
    told = capsys.readouterr().out
    assert all(kind in told for kind in KINDS)
    written = json.loads((tmp_path / "out" / "questions.json").read_text())
    assert np.shape([written["scores"][kind] for kind in KINDS]) == (5, 3, 3)
    assert (tmp_path / "out" / "questions.md").read_text().startswith("| question | following |")
    assert Image.open(tmp_path / "out" / "questions.png").height > 5 * 160
