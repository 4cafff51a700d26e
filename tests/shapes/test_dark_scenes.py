"""The brightness error of dark scenes: exact for made-up outputs, on the pixels that an edit should leave alone."""

import math

import numpy as np
import pytest

from rewardedit_jax.shapes.dark_scenes import brightness_error, untouched_backgrounds
from rewardedit_jax.shapes.editor_benchmark import held_out_scenes


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(40)


@pytest.fixture(scope="module")
def masks(scenes):
    return untouched_backgrounds(scenes)


def pictures(scenes, name="ideal"):
    return np.stack([getattr(scene, name) for scene in scenes])


def test_scenes_are_dark_and_keep_their_background(scenes, masks):
    expected = [
        i
        for i, scene in enumerate(scenes)
        if scene.source.mean() < 0.2 * 255 and scene.edit_type in ("local", "remove", "add", "texture")
    ]
    assert list(masks) == expected
    assert len(masks) > 2


def test_the_mask_is_background_away_from_the_edit(scenes, masks):
    for i, mask in masks.items():
        source, changed = scenes[i].source.astype(int), (scenes[i].source != scenes[i].ideal).any(-1)
        assert 100 < mask.sum() < 1024
        assert np.ptp(source[mask].mean(-1)) < 30  # shapes are brighter; a background fades
        for y, x in np.argwhere(changed):
            assert not mask[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].any()


def test_the_ideal_edit_has_no_error(scenes, masks):
    assert brightness_error([pictures(scenes)], scenes, masks).value == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("shift", [0.1, -0.02])
def test_a_shift_of_the_brightness_is_the_error(scenes, masks, shift):
    shifted = np.uint8(np.rint(pictures(scenes, "source").astype(float).clip(6, 200) + 255 * shift))
    start = np.uint8(pictures(scenes, "source").clip(6, 200))
    kept = [type(scene)(**{**vars(scene), "source": picture}) for scene, picture in zip(scenes, start, strict=True)]
    assert brightness_error([shifted], kept, masks).value == pytest.approx(abs(shift), abs=2e-3)


def test_errors_of_seeds_and_scenes_do_not_cancel_out(scenes, masks):
    """One seed is too bright, the other too dark."""
    source = pictures(scenes, "source").astype(int).clip(10, 200)
    kept = [type(s)(**{**vars(s), "source": np.uint8(p)}) for s, p in zip(scenes, source, strict=True)]
    found = brightness_error([np.uint8(source + 10), np.uint8(source - 10)], kept, masks)
    assert found.value == pytest.approx(10 / 255)
    assert found.scenes == len(masks)


def test_what_is_outside_the_mask_does_not_count(scenes, masks):
    output = pictures(scenes, "source")
    for i, mask in masks.items():
        output[i][~mask] = 255
    assert brightness_error([output], scenes, masks).value == 0


def test_without_dark_scenes_there_is_no_value(scenes, masks):
    bright = [scenes[i] for i in range(40) if i not in masks][:1]
    found = brightness_error([pictures(bright)], bright, {})
    assert math.isnan(found.value)
    assert found.to_json() == {"value": None, "scenes": 0}
    assert "no dark scene" in str(found)
