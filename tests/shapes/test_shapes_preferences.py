"""Preference pairs of the shapes world: functions of their index, consistent with the oracle, random access on disk."""

import numpy as np
import pytest

from rewardedit_jax.data.records import PreferenceSource
from rewardedit_jax.shapes import ShapesPreferences, judge_batch, prepare_shapes_preferences, shapes_example
from rewardedit_jax.shapes.preferences import shapes_candidates, to_ratings

SIZES = {"train": 5, "test": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def source(root):
    return ShapesPreferences(prepare_shapes_preferences(root, **SIZES), "train")


def test_a_group_is_a_function_of_its_number():
    one, again, other = (shapes_candidates(*args) for args in ((3, "test"), (3, "test"), (4, "test")))
    np.testing.assert_array_equal(one.candidates, again.candidates)
    assert one.instruction == again.instruction
    assert not np.array_equal(one.source, other.source)


def test_groups_are_other_scenes_than_those_of_the_editor():
    assert not np.array_equal(shapes_candidates(0, "train").source, shapes_example(0, "train").source)


def test_scores_are_the_oracles():
    group = shapes_candidates(0, "train")
    sources, ideals = (np.stack([image] * 4) for image in (group.source, group.ideal))
    np.testing.assert_array_equal(group.scores, judge_batch(group.candidates, sources, ideals, [group.edit_type] * 4))


def test_ratings_follow_the_scores():
    scores = np.array([[5, 5, 5], [5, 0, 2.4], [0, 5, 1.6], [3.4, 3.3, 0]], np.float32)
    np.testing.assert_array_equal(to_ratings(scores), [[4, 4], [1, 2], [1, 2], [3, 1]])


def test_every_two_candidates_are_a_pair(source):
    assert isinstance(source, PreferenceSource)
    assert len(source) == len(source.labels) == 5 * 6
    assert len({label.key for label in source.labels}) == len(source)


def test_pairs_are_what_was_made(source):
    for i, label in enumerate(source.labels):
        pair, group = source[i], shapes_candidates(i // 6, "train")
        a, b = (int(name[-1]) for name in label.names[1:])
        assert (pair.key, pair.instruction) == (label.key, group.instruction)
        for found, made in ((pair.source, group.source), (pair.edited_a, group.candidates[a])):
            np.testing.assert_array_equal(found, made)
        np.testing.assert_array_equal(pair.edited_b, group.candidates[b])
        np.testing.assert_array_equal([pair.ratings_a, pair.ratings_b], group.ratings[[a, b]])
        better = {1: "a", 0: "tie", -1: "b"}[int(np.sign(group.ratings[a].sum() - group.ratings[b].sum()))]
        assert pair.preferred == better


def test_groups_are_read_back(source):
    found, made = source.group(2), shapes_candidates(2, "train")
    for name, value in vars(made).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_what_is_there_is_not_made_again(root, source, monkeypatch):
    monkeypatch.setattr("rewardedit_jax.shapes.preferences.shapes_candidates", None)
    assert len(ShapesPreferences(prepare_shapes_preferences(root, **SIZES), "test")) == 3 * 6
