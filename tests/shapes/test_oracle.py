"""The oracle judge: pictures with full scores, pictures that fail, and the ranking of pictures."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from rewardedit_jax.shapes import judge, judge_batch, shapes_example
from rewardedit_jax.shapes.oracle import YES
from rewardedit_jax.shapes.render import render
from rewardedit_jax.shapes.scene import COLORS, EDIT_TYPES, Edit, Scene, Shape

COUNT = 600


@pytest.fixture(scope="module")
def world():
    examples = [shapes_example(index, "train", seed=5) for index in range(COUNT)]
    pictures = {name: np.stack([getattr(e, name) for e in examples]) for name in ("source", "ideal", "edited")}
    types = [e.edit_type for e in examples]
    severity = np.array([e.severity for e in examples])
    return {**pictures, "types": types, "severity": severity}


def scores_of(world, pictures):
    return judge_batch(pictures, world["source"], world["ideal"], world["types"])


def unit(pictures):
    return pictures.astype(np.float32) / 255


def smooth(pictures, sigma):
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (4, 4)
        pictures = sliding_window_view(np.pad(pictures, pad, mode="edge"), 9, axis=axis) @ kernel
    return pictures


def test_the_ideal_gets_full_marks(world):
    scores = scores_of(world, world["ideal"])
    assert (np.rint(scores) == 5).all()
    assert scores.mean() > 4.98


def test_the_unchanged_source_fails_following_and_passes_preserving(world):
    scores = scores_of(world, world["source"])
    assert scores[:, 0].max() <= 0.5
    assert scores[:, 1].min() >= 4.5
    assert np.quantile(scores[:, 2], 0.01) > 4.9


def test_noise_fails_in_everything(world):
    scores = scores_of(world, np.random.default_rng(0).random(world["ideal"].shape, np.float32))
    assert scores.mean(0)[:2].max() <= 1.0
    assert scores[:, 2].max() == 0


def test_half_an_edit_is_worth_about_half(world):
    scores = scores_of(world, 0.5 * (unit(world["source"]) + unit(world["ideal"])))
    assert np.quantile(scores[:, 0], 0.02) > 2.4
    assert np.quantile(scores[:, 0], 0.98) < 3.3
    assert scores[:, 1].min() > 4.5


def test_an_autoencoders_error_costs_next_to_nothing(world):
    error = 0.01 * np.random.default_rng(0).standard_normal(world["ideal"].shape, np.float32)
    scores = scores_of(world, smooth(unit(world["ideal"]), 0.4) + error)
    assert (scores.mean(0) > 4.8).all()
    assert (np.quantile(scores, 0.02, axis=0) > 4.3).all(), np.quantile(scores, 0.02, axis=0)


def test_visible_mottling_and_soft_outlines_are_seen(world):
    ideal = unit(world["ideal"])
    mottling = smooth(np.random.default_rng(0).standard_normal(ideal.shape, np.float32), 1.5)
    mottled = scores_of(world, ideal + 0.04 * mottling / mottling.std())[:, 2]
    assert np.quantile(mottled, 0.9) < 4.5
    soft = scores_of(world, smooth(ideal, 0.65))[:, 2]
    assert np.median(soft) < 4.5


def test_ranking(world):
    ideal, imperfect, unrelated = (
        scores_of(world, pictures)[:, :2].mean(1)
        for pictures in (world["ideal"], world["edited"], np.roll(world["ideal"], 1, axis=0))
    )
    severity = world["severity"][:, :2]
    spoiled = severity.min(1) < 5
    assert (ideal > imperfect)[spoiled].mean() >= 0.97
    # One picture in ten is spoiled badly in both; it may lose to an unrelated one that happens to look alike.
    assert (imperfect > unrelated).mean() >= 0.93
    assert (imperfect > unrelated)[severity.max(1) >= 3].mean() >= 0.97


def test_another_color_than_the_one_wanted_fails_following():
    shape = Shape("circle", "red", cell=1)
    scene = Scene("gray", "split", (shape,))
    for wanted in COLORS:
        for made in COLORS:
            if len({wanted, made, "red"}) == 3:
                pictures = (render(Edit("local", shape, "color", c).apply(scene)) for c in (made, wanted))
                output, ideal = pictures
                assert judge(output, render(scene), ideal, "local").following < 1.5, (wanted, made)


def test_an_edit_of_the_whole_picture_must_keep_the_layout():
    scene = Scene("pink", "even", (Shape("circle", "red", cell=0), Shape("square", "blue", cell=3)))
    lost = scene.with_shape(scene.shapes[1], None)
    night, style = Edit("global", None, "effect", "night"), Edit("style", None, "style", "sketch")
    for edit in (night, style):
        kept, missing = (
            judge(render(edit.apply(s)), render(scene), render(edit.apply(scene)), edit.type) for s in (scene, lost)
        )
        assert kept.preserving == 5
        assert missing.preserving < 3 < missing.following
    sunset = render(Edit("global", None, "effect", "sunset").apply(scene))
    other = judge(sunset, render(scene), render(night.apply(scene)), "global")
    assert other.following < 2 < 4.5 < other.preserving


def test_one_at_a_time_is_the_same_as_together_whatever_the_type(world):
    together = scores_of(world, world["edited"])
    seen = set()
    for i in range(60):
        one = judge(world["edited"][i], world["source"][i], world["ideal"][i], world["types"][i])
        np.testing.assert_allclose(one[:3], together[i], atol=1e-4)
        assert one.yes == tuple(score >= YES for score in one[:3])
        seen.add(world["types"][i])
    assert seen == set(EDIT_TYPES)
    assert together.dtype == np.float32
