"""Tests `training/step.py`: gradients, randomness, and what the compiled step holds in memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_task import ToyTask, toy_config

from rewardedit_jax.params import split_params
from rewardedit_jax.training.optimizer import make_optimizer, make_schedule
from rewardedit_jax.training.step import create_state, train_step, update_ema


def setup(config, **toy):
    """(step, state, frozen, batch) of the toy task; the step is a pure function of the other three."""
    task = ToyTask(config, **toy)
    trained, frozen = split_params(task.init(jax.random.key(0)), task.trainable)
    optimizer = make_optimizer(config.optimizer, config.steps)
    step = partial(
        train_step,
        loss_fn=task.loss,
        optimizer=optimizer,
        schedule=make_schedule(config.optimizer, config.steps),
        seed=jnp.uint32(config.seed),
        accumulate=config.accumulate,
        ema_decay=config.optimizer.ema_decay,
    )
    return step, create_state(trained, optimizer, ema=True), frozen, next(task.batches(0))


def assert_close(a, b, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), a, b)


def test_metrics_are_what_they_are_called():
    step, state, frozen, batch = setup(toy_config())
    after, metrics = jax.jit(step)(state, frozen, batch)
    task = ToyTask(toy_config())

    def mean_loss(params):
        losses, told = task.loss(params | frozen, batch, jax.random.key(0))
        return losses.mean(), told

    (loss, told), grads = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(state.params)
    expected = {
        "loss": loss,
        "error": told["error"].mean(),
        "largest": told["largest"],
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(after.params),
        "learning_rate": 1e-2,
    }
    assert [int(metrics.pop(name)) for name in ("broken_gradient", "broken_parameter")] == [-1, -1]
    assert metrics.keys() == expected.keys()
    assert_close(metrics, expected, rtol=1e-5)
    assert {(m.shape, m.dtype.name) for m in metrics.values()} == {((), "float32")}
    assert int(after.step) == 1
    assert_close(after.ema, update_ema(state.ema, after.params, state.step, 0.9), rtol=1e-5)


def test_a_skipped_step_changes_nothing_but_the_number_of_the_step():
    config = toy_config(**{"optimizer.schedule": "cosine"})
    step, state, frozen, batch = setup(config, noise=0.1)
    skipping = jax.jit(partial(step, skip_nonfinite=True))
    broken = {"x": batch["x"], "y": jnp.full_like(batch["y"], jnp.inf)}
    one, _ = skipping(state, frozen, batch)
    assert_close(one, jax.jit(step)(state, frozen, batch)[0], rtol=0, atol=1e-7)
    two, metrics = skipping(one, frozen, broken)
    assert (int(two.step), float(metrics["skipped_steps"]), int(metrics["broken_gradient"])) == (2, 1, 0)
    assert not np.isfinite(metrics["loss"])
    assert_close(two.replace(step=one.step), one, rtol=0)
    # The optimizer goes on as if the step had not been: its second update, with the rate of the second step.
    three, metrics = skipping(two, frozen, batch)
    assert float(metrics["skipped_steps"]) == 1
    np.testing.assert_allclose(metrics["learning_rate"], make_schedule(config.optimizer, config.steps)(1), rtol=1e-6)
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, three.params, two.params))) > 0
    out = one.params["head"]["out"] | {"bias": jnp.full(4, jnp.inf)}
    _, metrics = skipping(one.replace(params={"head": one.params["head"] | {"out": out}}), frozen, batch)
    # After hidden/bias and hidden/kernel, whose gradients are not finite.
    assert [int(metrics[name]) for name in ("broken_gradient", "broken_parameter")] == [0, 2]


def test_accumulated_micro_batches_equal_one_large_batch():
    once = setup(toy_config(batch_size=16, accumulate=1))
    twice = setup(toy_config(batch_size=8, accumulate=2))
    np.testing.assert_array_equal(once[3]["x"], twice[3]["x"])
    (state_1, metrics_1), (state_2, metrics_2) = (jax.jit(step)(*rest) for step, *rest in (once, twice))
    for metrics in (metrics_1, metrics_2):
        metrics.pop("largest")  # a mean of maxima is not the maximum
    assert_close(metrics_1, metrics_2, rtol=1e-6)
    assert_close(optax.tree.get(state_1, "mu"), optax.tree.get(state_2, "mu"), rtol=1e-5, atol=1e-8)
    assert_close(state_1.params, state_2.params, rtol=0, atol=1e-5)


def test_randomness_depends_on_seed_step_and_micro_batch():
    def losses(*steps, **changes):
        run, state, frozen, batch = setup(toy_config(**changes), noise=1.0)
        batch = jax.tree.map(lambda x: np.repeat(x[:1], len(x), axis=0), batch)
        run = jax.jit(run)
        return [float(run(state.replace(step=jnp.int32(n)), frozen, batch)[1]["loss"]) for n in steps]

    first, again, next_step = losses(0, 0, 1)
    assert first == again
    assert len({first, next_step, *losses(0, seed=4)}) == 3
    # Had both micro-batches one key, their noise and so their mean would be those of one of them.
    assert losses(0, accumulate=2) != pytest.approx([first], rel=1e-4)


def test_frozen_parameters_are_arguments_of_the_step():
    step, state, frozen, batch = setup(toy_config())

    def sizes_of_constants(fn, *args):
        return [np.size(c) for c in jax.make_jaxpr(fn)(*args).consts]

    assert max(sizes_of_constants(step, state, frozen, batch), default=0) <= 1
    # The same step with the frozen parameters closed over: what the check is for.
    assert max(sizes_of_constants(lambda state, batch: step(state, frozen, batch), state, batch)) == 64


@pytest.mark.parametrize("accumulate", [1, 2])
def test_step_holds_one_buffer_of_gradients_beside_the_state(accumulate):
    """Parameters, two moments, average and gradients: 20 bytes per parameter, and what one or two layers need."""
    width, layers = 256, 12

    def loss(params, batch, rng):
        x = batch
        for i in range(layers):
            x = jnp.tanh(x @ params[str(i)])
        return jnp.square(x).mean(axis=-1), {}

    config = toy_config(accumulate=accumulate)
    optimizer = make_optimizer(config.optimizer, 1)
    params = {str(i): jax.ShapeDtypeStruct((width, width), jnp.float32) for i in range(layers)}
    state = jax.eval_shape(lambda p: create_state(p, optimizer, True), params)
    step = setup(config)[0].keywords | {"loss_fn": loss, "optimizer": optimizer}
    batch = jax.ShapeDtypeStruct((2 * accumulate, width), jnp.float32)
    compiled = jax.jit(partial(train_step, **step), donate_argnums=0).lower(state, {}, batch).compile()
    memory, params_bytes = compiled.memory_analysis(), 4 * layers * width**2
    assert memory.alias_size_in_bytes >= 4 * params_bytes  # all of the old state is reused
    assert memory.temp_size_in_bytes < 1.4 * params_bytes
