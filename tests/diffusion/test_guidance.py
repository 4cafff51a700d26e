import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.diffusion.guidance import combine, repeat

BATCH, SHAPE = 2, (3, 3, 4)


def outputs_of(k: int) -> jax.Array:
    """Outputs of a network for `k` branches."""
    return jnp.asarray(np.random.default_rng(0).standard_normal((k * BATCH, *SHAPE), np.float32))


def instruct_pix2pix(text: float, image: float, reward: float) -> np.ndarray:
    """Weights of the branches (text, image, neither, low), as the docstring of the module derives them."""
    return np.array([text + reward, image - text, 1 - image, -reward], np.float32)


@pytest.mark.parametrize(("s_t", "s_i", "s_r"), [(7.5, 1.5, 0.5), (5.0, 1.2, 3.0), (1.0, 1.0, 0.0)])
def test_weights_of_instruct_pix2pix_equal_the_nested_formula(s_t, s_i, s_r):
    outputs = outputs_of(4)
    text, image, neither, low = np.asarray(outputs, np.float64).reshape(4, BATCH, *SHAPE)
    expected = neither + s_i * (image - neither) + s_t * (text - image) + s_r * (text - low)
    guided = combine(outputs, instruct_pix2pix(s_t, s_i, s_r))
    np.testing.assert_allclose(guided, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_a_unit_vector_selects_a_branch(branch):
    outputs = outputs_of(3)
    guided = combine(outputs, np.eye(3, dtype=np.float32)[branch])
    np.testing.assert_array_equal(guided, outputs.reshape(3, BATCH, *SHAPE)[branch])


def test_guidance_is_linear_in_the_outputs():
    a, weights = outputs_of(4), instruct_pix2pix(5.0, 2.0, 1.0)
    b = a[::-1]
    expected = 2 * combine(a, weights) - 3 * combine(b, weights)
    np.testing.assert_allclose(combine(2 * a - 3 * b, weights), expected, rtol=0, atol=2e-4)


def test_weights_that_sum_to_one_keep_equal_outputs():
    output = outputs_of(1)
    guided = combine(repeat(output, 4), instruct_pix2pix(9.0, 3.0, 2.0))
    np.testing.assert_allclose(guided, output, rtol=0, atol=1e-5)
    # Exact with weights and outputs that float32 can multiply without rounding.
    whole = jnp.round(8 * output)
    np.testing.assert_array_equal(combine(repeat(whole, 4), instruct_pix2pix(9.0, 3.0, 2.0)), whole)


def test_a_branch_of_weight_zero_changes_nothing():
    outputs, weights = outputs_of(4), instruct_pix2pix(7.5, 1.5, 0.0)
    np.testing.assert_array_equal(combine(outputs, weights), combine(outputs[: 3 * BATCH], weights[:3]))


def test_repeat_lays_the_branches_one_after_the_other():
    x = jnp.arange(BATCH)[:, None]
    np.testing.assert_array_equal(repeat(x, 3)[:, 0], [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(combine(repeat(1.0 * x, 3), np.array([0.5, 0.25, 0.25])), x)


def test_half_precision_outputs_are_combined_in_float32():
    outputs, weights = outputs_of(3).astype(jnp.bfloat16), instruct_pix2pix(7.5, 1.5, 0.0)[:3]
    guided = combine(outputs, weights)
    assert guided.dtype == jnp.float32
    np.testing.assert_array_equal(guided, combine(outputs.astype(jnp.float32), weights))


def test_other_weights_do_not_recompile():
    traces = 0

    @jax.jit
    def guided(outputs, weights):
        nonlocal traces
        traces += 1
        return combine(outputs, weights)

    results = [guided(outputs_of(4), instruct_pix2pix(scale, 1.5, 0.0)) for scale in (2.0, 7.5)]
    assert traces == 1
    assert np.abs(results[0] - results[1]).max() > 1
    guided(outputs_of(3), np.ones(3, np.float32))
    assert traces == 2
