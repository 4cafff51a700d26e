"""The shapes benchmark of editors: from an editor to its scores, with perfect, idle and random editors."""

import json
from dataclasses import dataclass, fields

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_models import tiny_editor

from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.reward import PERSPECTIVES, Reward
from rewardedit_jax.shapes import editor_benchmark, shapes_example
from rewardedit_jax.shapes.asked import FURTHER, asked_reward
from rewardedit_jax.shapes.editor_benchmark import (
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
    """Returns the ideal edit, or the unchanged source where the reward has a 0 for following."""

    def edit(self, image, instruction, *, reward, seed, output, **settings):
        scenes = held_out_scenes(len(image))
        rewards = reward if isinstance(reward, list) else [reward] * len(scenes)
        edited = [s.source if r and r.following == 0 else s.ideal for s, r in zip(scenes, rewards, strict=True)]
        return np.stack(edited).astype(np.float32) / 255


def knowing(editor):
    return Knowing(**{field.name: getattr(editor, field.name) for field in fields(Editor)})


def test_perfect_edits_score_best_and_none_at_all_follows_nothing(scenes, rewarded):
    result = evaluate_editor(knowing(rewarded), scenes)
    assert list(result.scores) == list(result.pictures) == ["5", "3", "0"]
    np.testing.assert_allclose(result.scores["5"], 5, atol=0.1)
    np.testing.assert_allclose(result.scores["0"], [[0, 5, 5]] * 8, atol=0.1)


def test_further_rewards_are_asked_for_on_the_first_quarter(rewarded):
    result = evaluate_editor(knowing(rewarded), held_out_scenes(8))
    assert list(result.further) == list(FURTHER)
    assert set(result.further).isdisjoint(result.pictures)
    np.testing.assert_allclose(result.further["following 0"], [[0, 5, 5]] * 2, atol=0.1)
    np.testing.assert_allclose(result.further["quality 0"], 5, atol=0.1)


def test_every_scene_has_a_reward_of_its_own(scenes, rewarded, monkeypatch):
    asked = []

    def record(editor, some, reward, settings=SETTINGS):
        asked.append(reward)
        return np.stack([scene.source for scene in some])

    monkeypatch.setattr(editor_benchmark, "edit_scenes", record)
    evaluate_editor(rewarded, scenes)
    assert asked[2] == [asked_reward("0", i) for i in range(8)]
    assert len({reward.texts for reward in asked[2]}) == 8


def test_editor_without_reward_modules_is_asked_for_none(scenes):
    result = evaluate_editor(knowing(tiny_editor()), scenes)
    assert list(result.scores) == ["none"]
    assert not result.further


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
    rewards = [[asked_reward(label, i) for i in range(4)] for label in "50"]
    best, worst = (edit_scenes(rewarded, scenes[:4], asked, QUICK) for asked in rewards)
    assert np.abs(best.astype(int) - worst).max() > 2


def test_each_scene_is_edited_under_its_own_reward(scenes, rewarded):
    """Two rewards in one list give what each of them gives alone."""
    low, high = (edit_scenes(rewarded, scenes[:2], Reward(*[score] * 3), QUICK) for score in (0, 5))
    mixed = edit_scenes(rewarded, scenes[:2], [Reward(0, 0, 0), Reward()], QUICK)
    np.testing.assert_array_equal(mixed, [low[0], high[1]])


def test_result_survives_its_files(tmp_path, scenes):
    pictures = np.stack([scene.edited for scene in scenes])
    result = Result({"5": score(pictures, scenes)}, {"5": pictures}, {"1": score(pictures[:2], scenes[:2])})
    result.save(tmp_path / "a", {"model": "m"})
    assert json.loads((tmp_path / "a" / "result.json").read_text())["count"] == 8
    again = Result.load(tmp_path / "a")
    np.testing.assert_allclose(again.scores["5"], result.scores["5"], atol=1e-4)
    np.testing.assert_array_equal(again.pictures["5"], pictures)
    np.testing.assert_allclose(again.further["1"], result.further["1"], atol=1e-4)
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
