"""One optimizer step as a pure function of state, frozen parameters and batch."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from rewardedit_jax.params import Params, merge_params
from rewardedit_jax.training.state import TrainState, update_ema
from rewardedit_jax.training.task import Batch, Metrics

LossFn = Callable[[Params, Batch, Key[Array, ""]], tuple[Float[Array, " b"], Mapping[str, Array]]]


def train_step(
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    seed: int,
    accumulate: int,
    ema_decay: float | None,
) -> tuple[TrainState, Metrics]:
    """The state after one step, and its metrics: scalars in float32.

    Randomness depends on (seed, step) alone: a checkpoint holds no key, and any step can be recomputed.

    Args:
      batch: leaves [batch_size · accumulate, ...].
      loss_fn: `Task.loss`.
      accumulate: micro-batches per step.
    """
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    grads, metrics = _gradients(state.params, frozen, batch, rng, loss_fn, accumulate)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {
        "grad_norm": optax.tree.norm(grads),
        "update_norm": optax.tree.norm(updates),
        "param_norm": optax.tree.norm(params),
        "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
    }
    ema = None if ema_decay is None else update_ema(state.ema, params, state.step, ema_decay)
    return TrainState(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), metrics


def _gradients(
    params: Params, frozen: Params, batch: Batch, rng: Key[Array, ""], loss_fn: LossFn, accumulate: int
) -> tuple[Params, Metrics]:
    """Gradients of the mean loss over all examples, and mean metrics."""

    def mean_loss(params, examples, rng):
        losses, metrics = loss_fn(merge_params(params, frozen), examples, rng)
        loss = jnp.mean(losses, dtype=jnp.float32)
        means = {name: jnp.mean(value, dtype=jnp.float32) for name, value in metrics.items()}
        return loss, means | {"loss": loss}

    def micro_batch(index, examples):
        return jax.grad(mean_loss, has_aux=True)(params, examples, jax.random.fold_in(rng, index))

    def add(total, part):
        grads, metrics = micro_batch(*part)
        return jax.tree.map(lambda t, g: t + g.astype(jnp.float32) / accumulate, total, grads), metrics

    if accumulate == 1:  # no loop, hence no second buffer of gradients
        return micro_batch(0, batch)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    parts = jnp.arange(accumulate), jax.tree.map(lambda x: _deal(x, accumulate), batch)
    grads, metrics = jax.lax.scan(add, zeros, parts)
    return grads, jax.tree.map(jnp.mean, metrics)


def _deal(x: Array, accumulate: int) -> Array:
    """[b·a, ...] → [a, b, ...]: micro-batch i takes every a-th example from i on.

    The leading axis is spread over the devices in blocks. Dealt out this way, each device's block holds its
    share of every micro-batch, and no example moves between devices.
    """
    return jnp.swapaxes(x.reshape(-1, accumulate, *x.shape[1:]), 0, 1)
