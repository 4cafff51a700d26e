"""AdamW with clipping by global norm and the learning-rate schedules."""

import math

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from rewardedit_jax.training.eight_bit_adam import scale_by_eight_bit_adam


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate of step n = 0, 1, ...: linear warm-up from 0, then constant, or a cosine to 0 at `steps`.

    Args:
      config: `learning_rate`, `schedule` ("constant" | "cosine") and `warmup_steps`.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    else:
        raise ValueError(f"optimizer.schedule={config.schedule!r}: expected 'constant' or 'cosine'")
    # Without warm-up the first step must have the full rate, not 0.
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def warn_of_warmup(config: ConfigDict, steps: int) -> None:
    """Logs a warning if the warm-up is not over before the last step: such a run never has its learning rate."""
    if config.warmup_steps >= steps:
        message = "optimizer.warmup_steps=%d is not below steps=%d: the learning rate never reaches %g"
        logging.warning(message, config.warmup_steps, steps, config.learning_rate)


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) on gradients clipped to norm `clip_norm` together (None: off).

    The decay is decoupled: each step subtracts learning rate · weight_decay · parameter, whatever the gradient, from
    every parameter that trains. Biases and norms are included, as in the training of the published editor.

    Args:
      config: also `b1`, `b2`, `eps`, `weight_decay`, and `mu_dtype`, the type of the first moment (None: the
        parameters'), unless `eight_bit`: both moments in 8 bits (`eight_bit_adam`).
      steps: length of the run, which the cosine schedule needs.
    """
    decays = config.b1, config.b2
    # Decay comes after the preconditioner, else Adam would divide it away, and before the learning rate scales it.
    adamw = optax.chain(
        scale_by_eight_bit_adam(*decays, config.eps)
        if config.get("eight_bit")
        else scale_by_adam(*decays, config.eps, config.mu_dtype),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(clip_by_global_norm(config.clip_norm), adamw)


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """Scale all gradients by min(1, largest / their global norm).

    Written as one product, which XLA fuses into the next operation. `optax.clip_by_global_norm` selects between clipped
    and unclipped gradients and keeps a second copy of all of them (measured on the CPU: 4 more bytes per parameter).
    """

    def update(grads, state, params=None):
        # A norm of 0 gives infinity here, and the minimum is 1.
        scale = jnp.minimum(1.0, largest / optax.tree.norm(grads))
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_adam(b1: float, b2: float, eps: float, mu_dtype: str | None) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with bias corrections that are exact in float32; the state is the same.

    Optax computes 1 - b**n in float32, which for b2 = 0.999 and n = 1 is off by 1.3e-5: the first step is 6e-6 too
    short. PyTorch corrects in float64, and the difference shows in the loss and the gradients of the second step.
    """
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype)

    def update(grads, state, params=None):
        updates, state = adam.update(grads, state, params)
        # The second moment enters by its square root.
        repair = _correction_error(b1, state.count) / jnp.sqrt(_correction_error(b2, state.count))
        return jax.tree.map(lambda u: (u * repair).astype(u.dtype), updates), state

    return optax.GradientTransformation(adam.init, update)


def _correction_error(b: float, n: Int[Array, ""]) -> Float[Array, ""]:
    """1 - b**n as optax computes it, over its true value."""
    return (1 - b**n) / -jnp.expm1(n * (math.log(b) if b else -math.inf))
