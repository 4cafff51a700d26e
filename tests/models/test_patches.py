"""Patch embeddings: positions at other sizes are resized by cubic interpolation; partition rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.models.patches import PatchEmbeddings, cubic_weights, resize_grid


def test_equal_sizes_are_left_as_they_are():
    grid = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4, 3), np.float32))
    np.testing.assert_array_equal(cubic_weights(5, 5), np.eye(5))
    assert resize_grid(grid, 5, 4) is grid


@pytest.mark.parametrize(("old", "new"), [(37, 16), (7, 20), (4, 3), (1, 5), (5, 1), (2, 2)])
def test_a_constant_stays_constant(old, new):
    weights = cubic_weights(old, new)
    assert weights.shape == (new, old)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_weights_between_points_are_those_of_the_cubic_kernel():
    # Twice as many points: the third one lies at 0.75, between the points 0 and 1; its distances to the points 0..2 and
    # to the repeated border are 0.75, 0.25, 1.25 and 1.75. With a = -0.75:
    near = lambda x: 1.25 * x**3 - 2.25 * x**2 + 1  # noqa: E731
    far = lambda x: -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)  # noqa: E731
    expected = [near(0.75) + far(1.75), near(0.25), far(1.25), 0, 0, 0]
    np.testing.assert_allclose(cubic_weights(6, 12)[2], expected, atol=1e-7)


def test_rows_and_columns_are_resized_one_after_the_other():
    grid = np.random.default_rng(1).standard_normal((6, 5, 2), np.float32)
    expected = np.einsum("ir,rcd->icd", cubic_weights(6, 4), grid)
    expected = np.einsum("jc,icd->ijd", cubic_weights(5, 9), expected)
    np.testing.assert_allclose(resize_grid(jnp.asarray(grid), 4, 9), expected, atol=1e-6)


def test_tokens_are_the_class_then_patches_row_by_row():
    module = PatchEmbeddings(2, 4, 12, use_bias=True)
    images = jnp.zeros((1, 8, 17, 3)).at[:, :, 8:12].set(1)  # the last column of pixels fills no patch
    params = module.init(jax.random.key(0), images)["params"]
    params["position_embedding"]["embedding"] *= 0
    params["patch_embedding"] = {"kernel": jnp.ones((4, 4, 3, 2)), "bias": jnp.array([0.5, 0.0])}
    tokens = module.apply({"params": params}, images)
    assert tokens.shape == (1, 1 + 2 * 4, 2)
    np.testing.assert_array_equal(tokens[0, 0], params["class_embedding"])
    np.testing.assert_array_equal(tokens[0, 1:, 0], np.tile([0.5, 0.5, 48.5, 0.5], 2))
    np.testing.assert_array_equal(tokens[0, 1:, 1], np.tile([0, 0, 48, 0], 2))


def test_positions_are_resized_in_float32():
    single, half = (PatchEmbeddings(8, 4, 12, use_bias=False, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    images = jnp.zeros((1, 20, 8, 3))
    params = single.init(jax.random.key(0), images)["params"]
    params["class_embedding"] *= 0
    expected = single.apply({"params": params}, images).astype(jnp.bfloat16)
    np.testing.assert_array_equal(half.apply({"params": params}, images), expected)
