"""The Bidirectional Interaction Module: its start, its grid, its constant (its numbers: the tests with an oracle)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_models import draw, tiny_interaction

from rewardedit_jax.models.interaction import PARTITION_RULES, InteractionConfig, fourier_features
from rewardedit_jax.params import abstract_params, find_rule, random_params

MODULE = tiny_interaction(context_factor=0.25)
QUERIES = jax.random.normal(jax.random.key(1), (2, 5, 16))
IMAGE = jax.random.normal(jax.random.key(2), (2, 9, 16))
CONVOLUTION = "dimension_reduction_head_zeroconv"


@pytest.fixture(scope="module")
def params():
    return draw(MODULE)


def run(params, queries=QUERIES, image=IMAGE):
    return jax.jit(MODULE.apply)({"params": params}, queries, image)


def test_it_starts_as_the_plain_editor():
    context, residual = run(random_params(MODULE, jax.random.key(0)))
    np.testing.assert_array_equal(context, QUERIES)
    np.testing.assert_array_equal(residual, np.zeros((2, 3, 3, 8)))


def test_both_read_both(params):
    """Context and residual follow from queries and image."""
    for other in (run(params, queries=QUERIES + 1.0), run(params, image=IMAGE.at[:, 4].add(1.0))):
        for before, after in zip(run(params), other, strict=True):
            assert jnp.abs(before - after).max() > 1e-3


def test_the_factor_scales_what_is_added(params):
    context, residual = run(params)
    other, same = tiny_interaction(context_factor=1.0).apply({"params": params}, QUERIES, IMAGE)
    np.testing.assert_allclose(context - QUERIES, 0.25 * (other - QUERIES), atol=1e-6)
    np.testing.assert_allclose(residual, same, atol=1e-6)


@pytest.mark.parametrize("size", [(6, 6), (8, 12), (3, 5)])
def test_resizing_commutes_with_the_convolution(size, params):
    """SmartEdit resizes the image features, then applies the 1×1 convolution."""
    kernel, bias = params[CONVOLUTION]["kernel"], params[CONVOLUTION]["bias"]
    identity = {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}
    bare = tiny_interaction(residual_size=16)
    _, features = bare.apply({"params": {**params, CONVOLUTION: identity}}, QUERIES, IMAGE)

    def resize(x):
        return jax.image.resize(x, (2, *size, x.shape[-1]), "bilinear", antialias=False)

    np.testing.assert_allclose(resize(run(params)[1]), resize(features) @ kernel + bias, atol=1e-5)


def test_the_constant_has_no_gradient(params):
    def loss(params):
        context, residual = run(params)
        return (context**2).sum() + (residual**2).sum()

    gradient = flatten_dict(jax.grad(loss)(params), sep="/")
    matrix = gradient.pop("positional_encoding_gaussian_matrix")
    np.testing.assert_array_equal(matrix, np.zeros((2, 8)))
    # A bias of all keys alike cancels in the softmax.
    assert all(jnp.abs(x).max() > 1e-6 for path, x in gradient.items() if not path.endswith("k_proj/bias"))


def test_positions_follow_column_and_row():
    matrix = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    places = fourier_features(matrix, 4).reshape(4, 4, 4)
    angles = 2 * np.pi * (np.array([1, 3, 5, 7]) / 4 - 1)
    np.testing.assert_allclose(places[2, :, 0], np.sin(angles), atol=1e-6)  # x first
    np.testing.assert_allclose(places[:, 1, 1], np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(places[2, :, 2], np.cos(angles), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8, 16), (2, 9, 12)])
def test_features_that_do_not_fit_are_an_error(shape, params):
    with pytest.raises(ValueError, match="hidden_size=16"):
        MODULE.apply({"params": params}, QUERIES, jnp.zeros(shape))


def test_heads_that_do_not_divide_the_width_are_an_error():
    with pytest.raises(ValueError, match=r"hidden_size=24.*num_attention_heads=8 × attention_downsample_rate=2"):
        InteractionConfig(hidden_size=24)


def test_every_parameter_has_a_partition_rule():
    for path, leaf in flatten_dict(abstract_params(MODULE), sep="/").items():
        assert len(find_rule(PARTITION_RULES, path)[1]) <= leaf.ndim
