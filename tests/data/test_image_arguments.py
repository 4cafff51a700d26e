"""Arrays as images: which shapes and types are taken, and how a batch is divided."""

import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.data.image_arguments import array_image, image_list
from rewardedit_jax.data.images import ImageError

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(
    ("array", "mode"), [(RGB, "RGB"), (RGB[..., 0], "L"), (np.dstack([RGB, RGB[..., :1]]), "RGBA")]
)
def test_arrays_are_images(of, array, mode):
    image = array_image(of(array))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), array)


def test_memory_that_is_not_contiguous_is_read():
    np.testing.assert_array_equal(np.asarray(array_image(RGB[::-1, ::2])), RGB[::-1, ::2])


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (RGB.transpose(2, 0, 1), r"uint8\[3, 4, 6\]"),
        (RGB / 255, r"float64\[4, 6, 3\]"),
        (jnp.zeros((4, 6, 3)), r"float32\[4, 6, 3\]"),
        (RGB.astype(np.int64), r"int64\[4, 6, 3\]"),
        (RGB > 0, r"bool\[4, 6, 3\]"),
        (RGB[None], r"uint8\[1, 4, 6, 3\]"),
        (RGB[:0], r"uint8\[0, 6, 3\]"),
        (RGB[..., :2], r"uint8\[4, 6, 2\]"),
        (RGB[0, :, 0], r"uint8\[6\]"),
        (np.uint8(3), "3"),
        (None, "None"),
        (b"\x89PNG", "bytes"),
        ({"bytes": b""}, "dict"),
    ],
)
def test_other_values_are_named_by_type_and_shape(value, named):
    with pytest.raises(ImageError, match=f"{named}.* is not an image: .*uint8"):
        array_image(value)


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray])
def test_a_batch_is_a_list_of_images(of):
    images = image_list(of(np.stack([RGB, 255 - RGB])))
    assert [array_image(image).size for image in images] == [(6, 4)] * 2
    np.testing.assert_array_equal(images[1], 255 - RGB)


def test_what_is_a_single_image():
    assert len(image_list((RGB, "a.png"))) == 2
    for single in (RGB, "a.png", None, array_image(RGB), jnp.asarray(RGB)):
        assert image_list(single) is None


@pytest.mark.oracle
def test_tensors_of_pytorch_are_arrays():
    import torch

    np.testing.assert_array_equal(np.asarray(array_image(torch.from_numpy(RGB))), RGB)
    assert len(image_list(torch.from_numpy(RGB)[None])) == 1
    with pytest.raises(ImageError, match=r"torch.float32"):
        array_image(torch.zeros(4, 6, 3))
