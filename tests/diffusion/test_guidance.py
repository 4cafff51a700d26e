import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.diffusion.guidance import TEXT_IMAGE, TEXT_IMAGE_REWARD, Guidance, combine, repeat, stack

BATCH, SHAPE = 2, (2, 3, 3, 4)


def outputs_of(branches) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((len(branches) * BATCH, *SHAPE[1:]), np.float32))


def test_the_branches_are_those_of_the_formula():
    e = outputs_of(TEXT_IMAGE_REWARD)
    text, image, neither, low = e.reshape(4, *SHAPE)
    expected = neither + 7.5 * (text - image) + 1.5 * (image - neither) + 0.5 * (text - low)
    guided = combine(e, Guidance(text=7.5, image=1.5, reward=0.5), TEXT_IMAGE_REWARD)
    np.testing.assert_allclose(guided, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("text", "image", "branch"), [(1.0, 1.0, 0), (0.0, 1.0, 1), (0.0, 0.0, 2)])
def test_scales_of_zero_and_one_choose_a_branch(text, image, branch):
    e = outputs_of(TEXT_IMAGE)
    guided = combine(e, Guidance(text=text, image=image), TEXT_IMAGE)
    np.testing.assert_allclose(guided, e.reshape(3, *SHAPE)[branch], rtol=0, atol=1e-6)


def test_guidance_is_linear_in_the_outputs():
    a = outputs_of(TEXT_IMAGE_REWARD)
    b, guidance = a[::-1], Guidance(text=5.0, image=2.0, reward=1.0)
    together = combine(2 * a - 3 * b, guidance, TEXT_IMAGE_REWARD)
    apart = 2 * combine(a, guidance, TEXT_IMAGE_REWARD) - 3 * combine(b, guidance, TEXT_IMAGE_REWARD)
    np.testing.assert_allclose(together, apart, rtol=0, atol=2e-4)


def test_branches_that_agree_are_left_alone():
    e = repeat(TEXT_IMAGE_REWARD, outputs_of(TEXT_IMAGE)[:BATCH])
    guided = combine(e, Guidance(text=9.0, image=3.0, reward=2.0), TEXT_IMAGE_REWARD)
    np.testing.assert_array_equal(guided, e[:BATCH])


def test_no_guidance_by_reward_equals_three_branches():
    e = outputs_of(TEXT_IMAGE_REWARD)
    without = combine(e, Guidance(reward=0.0), TEXT_IMAGE_REWARD)
    np.testing.assert_array_equal(without, combine(e[: 3 * BATCH], Guidance(), TEXT_IMAGE))


def test_scales_choose_the_branches():
    assert Guidance().branches == TEXT_IMAGE
    assert Guidance(reward=0.5).branches == TEXT_IMAGE_REWARD


def test_each_branch_gets_its_conditions():
    """Seen by a network that adds up a power of ten for each condition; the last branch has a low reward."""
    ones = jnp.ones((BATCH, 1))
    text = stack(TEXT_IMAGE_REWARD, "text", 100 * ones, jnp.zeros((1, 1)))
    image = stack(TEXT_IMAGE_REWARD, "image", 10 * ones, jnp.zeros_like(ones))
    reward = stack(TEXT_IMAGE_REWARD, "reward", {"scores": ones}, {"scores": 0 * ones})["scores"]
    seen = (text + image + reward).reshape(4, BATCH)
    np.testing.assert_array_equal(seen, [[111] * BATCH, [11] * BATCH, [1] * BATCH, [110] * BATCH])


def test_repeat_and_combine_keep_samples_apart():
    x = jnp.arange(BATCH, dtype=jnp.float32)[:, None]
    np.testing.assert_array_equal(combine(repeat(TEXT_IMAGE, x), Guidance(), TEXT_IMAGE), x)


def test_half_precision_outputs_are_combined_in_float32():
    e = outputs_of(TEXT_IMAGE).astype(jnp.bfloat16)
    guided = combine(e, Guidance(), TEXT_IMAGE)
    assert guided.dtype == jnp.float32
    np.testing.assert_array_equal(guided, combine(e.astype(jnp.float32), Guidance(), TEXT_IMAGE))
