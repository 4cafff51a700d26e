"""Resizing, cropping and normalising as CLIP and DINO take images."""

import numpy as np
import pytest
from PIL import Image
from tiny_metric_models import SHAPES, picture

from rewardedit_jax.evaluation.metrics.image_inputs import CLIP, IMAGENET, normalise, resize_and_crop


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_becomes_a_square(shape):
    out = resize_and_crop(picture(*shape), 40, 32)
    assert out.shape == (32, 32, 3)
    assert out.dtype == np.uint8


def test_an_image_of_the_right_size_is_not_changed():
    image = picture(32, 32)
    np.testing.assert_array_equal(resize_and_crop(image, 32, 32), image)


@pytest.mark.parametrize(("height", "width"), [(50, 20), (20, 50), (47, 20)])
def test_the_centre_of_the_longer_side_is_kept(height, width):
    image = picture(height, width)
    top, left = (height - 20) // 2, (width - 20) // 2
    np.testing.assert_array_equal(resize_and_crop(image, 20, 20), image[top : top + 20, left : left + 20])


def test_the_longer_side_is_rounded_down():
    # 40 · 55 / 30 = 73.3
    expected = np.asarray(Image.fromarray(picture(30, 55)).resize((73, 40), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_and_crop(picture(30, 55), 40, 40), expected[:, 16:56])


@pytest.mark.parametrize("statistics", [CLIP, IMAGENET])
def test_colours_are_normalised(statistics):
    image = picture(8, 9)
    expected = (image / 255 - statistics.mean) / statistics.std
    out = normalise(image, statistics)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)
