"""The training state, and one optimizer step as a pure function of state, frozen parameters and batch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt

from rewardedit_jax.params import Params, merge_params
from rewardedit_jax.training.task import Batch, Metrics

LossFn = Callable[[Params, Batch, Key[Array, ""]], tuple[Float[Array, " b"], Mapping[str, Array]]]


@flax.struct.dataclass
class TrainState:
    """What a run carries from step to step, and all that a checkpoint holds.

    Leaves are arrays; in trees that describe a state they are `ShapeDtypeStruct`s or shardings.
    """

    step: Any  # int32[], optimizer steps done
    params: Any  # the trained parameters only
    opt_state: Any
    ema: Any  # float32 moving average of `params`, or None


def create_state(params: Params, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step. The average starts as the parameters themselves."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(lambda x: x.astype(jnp.float32), params) if ema else None,
    )


def train_step(
    state: TrainState,
    frozen: Params,
    batch: Batch,
    seed: UInt[Array, ""],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    accumulate: int,
    ema_decay: float | None,
    skip_nonfinite: bool = False,
) -> tuple[TrainState, Metrics]:
    """The state after one step, and its metrics: scalars in float32, and positions of what is not finite in int32.

    Randomness depends on (seed, step) alone: a checkpoint holds no key, and any step can be recomputed.

    Args:
      batch: leaves [batch_size · accumulate, ...].
      seed: uint32. An array and no constant, so that runs with other seeds share the compiled program.
      loss_fn: `Task.loss`.
      accumulate: micro-batches per step.
      ema_decay: of the moving average (`update_ema`); None: there is none.
      skip_nonfinite: a step whose loss or gradients are not finite changes nothing but the number of the step; the
        metric `skipped_steps` counts such steps since the run began. The optimizer's state must have a count.
    """
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    # Only the trained part is differentiated; no gradient of a frozen network is ever computed.
    grads, metrics = _gradients(state.params, frozen, batch, rng, loss_fn, accumulate)
    metrics["grad_norm"] = optax.tree.norm(grads)  # before clipping
    # The optimizer counts the steps that were taken, and its schedule follows that count.
    taken = _count(state.opt_state) if skip_nonfinite else state.step
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if ema_decay is None else update_ema(state.ema, params, taken, ema_decay)
    new = TrainState(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
    if skip_nonfinite:
        # Decided by the gradients, which are complete before the update: the choice is part of the loop that writes
        # the new values. One by the new parameters would need a second copy of the state.
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        new = jax.tree.map(partial(jnp.where, finite), new, state.replace(step=new.step))
        metrics["skipped_steps"] = (new.step - _count(new.opt_state)).astype(jnp.float32)
    # Without the barrier XLA fuses these norms into the update of what they are of. On a GPU an update that also sums
    # does not write in place, and every array of the state is copied after it.
    params = jax.lax.optimization_barrier(new.params)
    return new.replace(params=params), metrics | {
        "param_norm": optax.tree.norm(params),
        "learning_rate": jnp.asarray(schedule(taken), jnp.float32),
        "broken_gradient": _first_broken(grads),
        "broken_parameter": _first_broken(params),
    }


def _count(opt_state: Any) -> Int[Array, ""]:
    """The number of updates that an optimizer has made; all counts in its state are equal."""
    return optax.tree.get_all_with_path(opt_state, "count")[0][1]


def _first_broken(tree: Params) -> Int[Array, ""]:
    """The position of the first leaf that is not finite, as its norm shows; -1 if all are finite."""
    # XLA computes the norm of each leaf once, here and for the norm of the tree: no array is read a second time.
    broken = ~jnp.isfinite(jnp.stack([optax.tree.norm(leaf) for leaf in jax.tree.leaves(tree)]))
    return jnp.where(broken.any(), jnp.argmax(broken), -1).astype(jnp.int32)


def update_ema(ema: Params, params: Params, step: Int[Array, ""], decay: float) -> Params:
    """ema ← d·ema + (1 - d)·params with d = min(decay, (1 + n) / (10 + n)), n = updates made before this one.

    The smaller d of the first updates lets the average forget the start, as in diffusers' `EMAModel`. Kept in float32
    whatever the type of the parameters: at decay 0.9999 a bfloat16 average would never move.
    """
    n = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + n) / (10 + n))
    return jax.tree.map(lambda e, p: e + (1 - d) * (p.astype(jnp.float32) - e), ema, params)


def _gradients(
    params: Params, frozen: Params, batch: Batch, rng: Key[Array, ""], loss_fn: LossFn, accumulate: int
) -> tuple[Params, Metrics]:
    """Gradients of the mean loss over all examples, and mean metrics."""

    def mean_loss(params, examples, rng):
        losses, metrics = loss_fn(merge_params(params, frozen), examples, rng)
        # Means in float32, whatever the type of the losses.
        loss = jnp.mean(losses, dtype=jnp.float32)
        means = {name: jnp.mean(value, dtype=jnp.float32) for name, value in metrics.items()}
        return loss, means | {"loss": loss}

    def micro_batch(index, examples):
        return jax.grad(mean_loss, has_aux=True)(params, examples, jax.random.fold_in(rng, index))

    def add(total, part):
        grads, metrics = micro_batch(*part)
        # Divided before adding: in a long sum the terms stay of the size of one gradient.
        return jax.tree.map(lambda t, g: t + g.astype(jnp.float32) / accumulate, total, grads), metrics

    if accumulate == 1:  # no loop, hence no second buffer of gradients
        return micro_batch(0, batch)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    parts = jnp.arange(accumulate), jax.tree.map(lambda x: _micro_batches(x, accumulate), batch)
    grads, metrics = jax.lax.scan(add, zeros, parts)
    # Micro-batches have equal sizes, so the mean of their means is the mean over all examples.
    return grads, jax.tree.map(jnp.mean, metrics)


def _micro_batches(x: Array, accumulate: int) -> Array:
    """[b·a, ...] → [a, b, ...]: micro-batch i has every a-th example from i on.

    The leading axis is divided over the devices in blocks. In this order each device's block holds its share of every
    micro-batch, and no example moves between devices.
    """
    return jnp.swapaxes(x.reshape(-1, accumulate, *x.shape[1:]), 0, 1)
