"""The shapes benchmark of editors: from an editor to its scores, with perfect, idle and random editors."""

import json
from dataclasses import dataclass, fields

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_models import tiny_editor

from rewardedit_jax.data.clip_tokenizer import encode_texts
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.reward import PERSPECTIVES, Reward, join_feedback
from rewardedit_jax.shapes import shapes_example, vocabulary_texts
from rewardedit_jax.shapes.editor_benchmark import (
    ASKED,
    SETTINGS,
    Result,
    edit_scenes,
    evaluate_editor,
    held_out_scenes,
    references,
    score,
)
from rewardedit_jax.shapes.tasks import shapes_evaluator

QUICK = {**SETTINGS, "steps": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(8)


@pytest.fixture(scope="module")
def rewarded():
    return tiny_editor(layout="released")


@dataclass(frozen=True)
class Knowing(Editor):
    """Returns the ideal edit, or the unchanged source for the worst reward."""

    def edit(self, image, instruction, *, reward, seed, output, **settings):
        ideal = {scene.source.tobytes(): scene.ideal for scene in held_out_scenes(len(image))}
        edited = image if reward == ASKED["0"] else [ideal[source.tobytes()] for source in image]
        return np.stack(edited).astype(np.float32) / 255


def knowing(editor):
    return Knowing(**{field.name: getattr(editor, field.name) for field in fields(Editor)})


def test_perfect_edits_score_best_and_none_at_all_follows_nothing(scenes, rewarded):
    result = evaluate_editor(knowing(rewarded), scenes)
    assert list(result.scores) == list(result.pictures) == ["5", "3", "0"]
    np.testing.assert_allclose(result.scores["5"], 5, atol=0.1)
    np.testing.assert_allclose(result.scores["0"], [[0, 5, 5]] * 8, atol=0.1)


def test_editor_without_reward_modules_is_asked_for_none(scenes):
    result = evaluate_editor(knowing(tiny_editor()), scenes)
    assert list(result.scores) == ["none"]


def test_scenes_are_those_of_every_test_split(scenes):
    for i in (0, 7):
        expected = shapes_example(i, "test")
        assert scenes[i].key == expected.key
        np.testing.assert_array_equal(scenes[i].source, expected.source)


def test_references_bracket_what_can_be_learnt(scenes):
    found = references(scenes)
    np.testing.assert_allclose(found["source, unchanged"], [[0, 5, 5]] * 8, atol=0.1)
    np.testing.assert_array_equal(np.rint(found["imperfect edits"]), [scene.scores for scene in scenes])


def test_same_noise_whatever_else_is_edited(scenes, rewarded):
    """The edit of a scene does not depend on the number of scenes, so that scores stay paired."""
    few = edit_scenes(rewarded, scenes[:4], Reward(), QUICK)
    many = edit_scenes(rewarded, scenes, Reward(), QUICK)
    assert few.dtype == np.uint8
    assert few.shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(few, many[:4])
    assert np.abs(many[0].astype(int) - many[1]).mean() > 1


def test_reward_reaches_the_editor(scenes, rewarded):
    best, worst = (edit_scenes(rewarded, scenes[:4], ASKED[label], QUICK) for label in "50")
    assert np.abs(best.astype(int) - worst).max() > 2


def test_texts_asked_for_are_the_worlds_and_fit_the_encoder(rewarded):
    world = set(vocabulary_texts())
    for label, reward in ASKED.items():
        assert reward.scores.tolist() == [float(label)] * 3
        assert set(reward.texts) <= world
        assert not encode_texts(rewarded.base.tokenizer, [join_feedback(reward.texts, PERSPECTIVES)]).cut.any()


def test_training_knows_the_texts_asked_for():
    """Each text comes with its own score, in its own perspective, in training pairs."""
    seen = {(i, s, t) for k in range(400) for i, s, t in _rewards(shapes_example(k, "train"))}
    for label in "30":
        assert {(i, float(label), text) for i, text in enumerate(ASKED[label].texts)} <= seen


def _rewards(example):
    return [(i, score, text) for i, (score, text) in enumerate(zip(example.scores, example.feedback, strict=True))]


def test_result_survives_its_files(tmp_path, scenes):
    pictures = np.stack([scene.edited for scene in scenes])
    result = Result({"5": score(pictures, scenes)}, {"5": pictures})
    result.save(tmp_path / "a", {"model": "m"})
    assert json.loads((tmp_path / "a" / "result.json").read_text())["scenes"] == 8
    again = Result.load(tmp_path / "a")
    np.testing.assert_allclose(again.scores["5"], result.scores["5"], atol=1e-4)
    np.testing.assert_array_equal(again.pictures["5"], pictures)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"result.json", "pictures.npz"}


@pytest.mark.parametrize("layout", ["released", ""])
def test_evaluator_of_a_training(scenes, rewarded, layout):
    class KnowingTask(EditingTask):
        def __init__(self):
            pass

        def with_params(self, params):
            return knowing(rewarded)

    found = shapes_evaluator(KnowingTask(), ConfigDict({"reward": {"layout": layout}}), count=8)(rewarded.params, 7)
    assert set(found) == {*PERSPECTIVES, "grid"}
    assert [float(found[name]) for name in PERSPECTIVES] == pytest.approx([5, 5, 5], abs=0.05)
    assert found["grid"].ndim == 3
