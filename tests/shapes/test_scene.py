"""Scenes and edits: the edits of each type, their effect, and splits without common combinations."""

import numpy as np
import pytest

from rewardedit_jax.shapes.render import render, to_uint8
from rewardedit_jax.shapes.scene import COLORS, EDIT_TYPES, SHAPES, Edit, Scene, Shape, sample_case


def cases(split, count):
    return [sample_case(np.random.default_rng([7, index]), split) for index in range(count)]


def combination(scene, edit):
    """The shape and its new state, or the look of the whole scene and its new state."""
    shape = edit.subject
    if shape is None:
        return edit.type, edit.value, scene.background, scene.fill
    return edit.type, shape.form, shape.color, edit.value if edit.attribute else shape.cell


def grounds(scene):
    return {(shape.form, shape.color, scene.background) for shape in scene.shapes}


@pytest.fixture(scope="module")
def train():
    return cases("train", 4000)


@pytest.fixture(scope="module")
def test():
    return cases("test", 400)


def test_every_type_is_asked_for_and_object_edits_more_often(train):
    counts = {name: sum(edit.type == name for _, edit in train) for name in EDIT_TYPES}
    assert min(counts.values()) > 300
    assert counts["local"] > 1.5 * counts["style"]
    assert {edit.attribute for _, edit in train if edit.type == "local"} == {"color", "form"}


def test_splits_share_no_edit_and_no_shape_on_background(train, test):
    assert not {combination(*case) for case in train} & {combination(*case) for case in test}
    trained = set().union(*(grounds(scene) for scene, _ in train))
    assert all(grounds(scene) - trained for scene, _ in test)


def test_training_knows_the_parts_of_every_held_out_edit(train, test):
    trained = [set(combination(*case)) for case in train]
    for held_out in {combination(*case) for case in test}:
        for left_out in range(1, 4):
            parts = {part for i, part in enumerate(held_out) if i != left_out}
            assert any(parts <= known for known in trained), held_out


def test_edits_change_the_picture_and_keep_references_unambiguous(train):
    for scene, edit in train[:600]:
        ideal = edit.apply(scene)
        assert np.abs(render(ideal) - render(scene)).max() > 0.05
        for one in (scene, ideal):
            assert len({shape.color for shape in one.shapes}) == len(one.shapes)
            assert len({shape.cell for shape in one.shapes}) == len(one.shapes)


@pytest.mark.parametrize("form", SHAPES)
@pytest.mark.parametrize("radius", [6.0, 7.0])
def test_a_shape_stays_in_its_cell_and_shows_its_color(form, radius):
    empty = Scene("white", "even", ())
    shape = Shape(form, "blue", cell=3, radius=radius, dx=0.5, dy=-0.5)
    changed = np.abs(render(empty.with_shape(None, shape)) - render(empty)).max(-1) > 0
    assert not changed[:16].any()
    assert not changed[:, :16].any()
    np.testing.assert_allclose(render(empty.with_shape(None, shape))[25, 24], COLORS["blue"], atol=1e-6)


def test_removing_undoes_adding():
    scene = Scene("pink", "fading", (Shape("circle", "red", "dotted", cell=1),))
    shape = Shape("square", "cyan", cell=2)
    assert Edit("remove", shape).apply(Edit("add", shape).apply(scene)) == scene


def test_to_uint8_rounds_and_clips():
    np.testing.assert_array_equal(to_uint8(np.float32([[-0.5, 0.5, 2.0]])), [[0, 128, 255]])
