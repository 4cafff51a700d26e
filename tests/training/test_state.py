"""Tests `training/state.py`: what a state starts from, and the moving average."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardedit_jax.training.step import create_state, update_ema


def test_average_is_optional_and_starts_as_the_parameters():
    params = {"w": jnp.array([1.0, 2.0])}
    state = create_state(params, optax.sgd(1.0), ema=True)
    assert int(state.step) == 0
    np.testing.assert_array_equal(state.ema["w"], params["w"])
    assert create_state(params, optax.sgd(1.0), ema=False).ema is None


@pytest.mark.parametrize(("decay", "d"), [(0.9999, [1 / 10, 2 / 11, 3 / 12]), (0.15, [0.1, 0.15, 0.15])])
def test_average_follows_its_closed_form(decay, d):
    ema = {"w": jnp.array(0.0)}
    for n in range(3):
        ema = update_ema(ema, {"w": jnp.array(1.0)}, jnp.int32(n), decay)
        # What is missing to the constant parameter shrinks by d in every step.
        np.testing.assert_allclose(1 - ema["w"], np.prod(d[: n + 1]), rtol=1e-4)


def test_ramp_ends_at_the_decay():
    for n, d in ((80, 0.9), (10**5, 0.9), (79, 80 / 89)):
        moved = update_ema({"w": jnp.array(0.0)}, {"w": jnp.array(1.0)}, jnp.int32(n), 0.9)
        np.testing.assert_allclose(moved["w"], 1 - d, rtol=1e-5)


def test_average_of_half_precision_parameters_still_moves():
    params = {"w": jnp.array([1.0], jnp.bfloat16)}
    state = create_state(params, optax.sgd(1.0), ema=True)
    moved = update_ema(state.ema, {"w": jnp.array([1.0078125], jnp.bfloat16)}, jnp.int32(10**6), 0.9999)
    assert moved["w"].dtype == jnp.float32
    np.testing.assert_allclose(moved["w"] - 1, 0.0078125e-4, rtol=0.2)
