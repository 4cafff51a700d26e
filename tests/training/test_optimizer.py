"""Tests `training/optimizer.py` against the formulas, written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_task import toy_config

from rewardedit_jax.training.optimizer import clip_by_global_norm, make_optimizer, make_schedule, warn_of_warmup

# The recipe of the published editor.
PUBLISHED = {"learning_rate": 5e-5, "weight_decay": 1e-2, "clip_norm": 1.0}


def optimizer_config(**changes):
    return toy_config(**{f"optimizer.{name}": value for name, value in changes.items()}).optimizer


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "a": {"kernel": scale * rng.standard_normal((5, 3), np.float32)},
        "b": {"bias": scale * rng.standard_normal(4, np.float32)},
    }


def run(config, params, gradients):
    """Parameters after each step."""
    optimizer = make_optimizer(config, len(gradients))
    state, history = optimizer.init(params), []
    for grads in gradients:
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def closed_form(config, params, gradients):
    """The same in float64: clip, moments, bias correction, decoupled decay."""
    p = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(params)])
    m, v, history = np.zeros_like(p), np.zeros_like(p), []
    for t, grads in enumerate(gradients, 1):
        g = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(grads)])
        if config.clip_norm is not None:
            g = g * min(1.0, config.clip_norm / np.linalg.norm(g))
        m = config.b1 * m + (1 - config.b1) * g
        v = config.b2 * v + (1 - config.b2) * g**2
        direction = (m / (1 - config.b1**t)) / (np.sqrt(v / (1 - config.b2**t)) + config.eps)
        p = p - config.learning_rate * (direction + config.weight_decay * p)
        history.append(p)
    return history


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize(
    "changes",
    [
        PUBLISHED,
        PUBLISHED | {"clip_norm": None},
        {"learning_rate": 1e-2, "b1": 0.5, "b2": 0.9, "eps": 1e-3},
        {"b1": 0.0, "b2": 0.0},
    ],  # no memory: the sign of the gradient
)
def test_two_steps_follow_the_closed_form(changes):
    config = optimizer_config(**changes)
    params = random_tree(0)
    gradients = [random_tree(1, scale=3.0), random_tree(2, scale=0.7)]  # one and both above the clip, unequally
    for ours, expected in zip(run(config, params, gradients), closed_form(config, params, gradients), strict=True):
        np.testing.assert_allclose(flat(ours), expected, rtol=0, atol=2e-7)


def test_clipping_is_real():
    gradients = [random_tree(1, scale=3.0), random_tree(2, scale=0.7)]
    params = random_tree(0)
    clipped = run(optimizer_config(**PUBLISHED), params, gradients)[-1]
    free = run(optimizer_config(**PUBLISHED | {"clip_norm": None}), params, gradients)[-1]
    # AdamW's first step does not see the scale of a gradient; the second does.
    assert np.abs(flat(clipped) - flat(free)).max() > 1e-6


@pytest.mark.parametrize("norm", [0.0, 0.3, 30.0])
def test_clipped_gradients_keep_their_direction(norm):
    grads = {"x": jnp.array([3.0, 0.0]) * norm / 5, "y": jnp.array([4.0]) * norm / 5}
    clipped, _ = clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    factor = min(1.0, 1.0 / norm) if norm else 1.0
    np.testing.assert_allclose(flat(clipped), flat(grads) * factor, rtol=1e-6)
    expected, _ = optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    np.testing.assert_allclose(flat(clipped), flat(expected), rtol=1e-6)


def test_weight_decay_is_decoupled_from_the_gradient():
    params, zero = random_tree(0), jax.tree.map(np.zeros_like, random_tree(0))
    config = optimizer_config(learning_rate=0.1, weight_decay=0.5)
    after = run(config, params, [zero])[0]
    np.testing.assert_allclose(flat(after), flat(params) * (1 - 0.1 * 0.5), rtol=1e-6)


def test_first_moment_can_be_kept_in_half_precision():
    state = make_optimizer(optimizer_config(mu_dtype="bfloat16"), 1).init(random_tree(0))
    assert {str(x.dtype) for x in jax.tree.leaves(optax.tree.get(state, "mu"))} == {"bfloat16"}
    assert {str(x.dtype) for x in jax.tree.leaves(optax.tree.get(state, "nu"))} == {"float32"}


def test_schedules():
    rate = make_schedule(optimizer_config(learning_rate=2.0), 10)
    assert [float(rate(n)) for n in (0, 9)] == [2, 2]
    rate = make_schedule(optimizer_config(learning_rate=2.0, warmup_steps=4), 10)
    assert [float(rate(n)) for n in (0, 1, 4, 9)] == [0, 0.5, 2, 2]
    rate = make_schedule(optimizer_config(learning_rate=2.0, warmup_steps=4, schedule="cosine"), 10)
    np.testing.assert_allclose([float(rate(n)) for n in (0, 2, 4, 7, 10)], [0, 1, 2, 1, 0], atol=1e-6)


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="schedule='linear': expected 'constant' or 'cosine'"):
        make_schedule(optimizer_config(schedule="linear"), 10)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize(("warmup", "warns"), [(0, False), (9, False), (10, True), (200, True)])
def test_a_warmup_that_lasts_longer_than_the_run_is_logged(schedule, warmup, warns, caplog):
    """Of such a run, no step has the learning rate that was asked for."""
    config = optimizer_config(learning_rate=0.25, schedule=schedule, warmup_steps=warmup)
    warn_of_warmup(config, 10)
    assert ("warmup_steps" in caplog.text and "steps=10" in caplog.text and "0.25" in caplog.text) == warns
    rate = make_schedule(config, 10)
    assert (max(float(rate(n)) for n in range(10)) == pytest.approx(0.25)) == (not warns)
