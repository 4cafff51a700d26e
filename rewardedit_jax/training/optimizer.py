"""AdamW with clipping by global norm and the learning-rate schedules."""

import optax
from ml_collections import ConfigDict


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate of step n = 0, 1, ...: a linear warm-up from 0, then constant, or a cosine to 0 at `steps`.

    Args:
      config: `learning_rate`, `schedule` ("constant" | "cosine") and `warmup_steps`.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    else:
        raise ValueError(f"optimizer.schedule must be 'constant' or 'cosine', not {config.schedule!r}")
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Clip all gradients together to `clip_norm` (None: off), then AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).

    The decay is decoupled: each step takes learning rate · weight_decay · parameter away, whatever the gradient, from
    every parameter that trains, biases and norms included, as the published editor was trained.

    Args:
      config: also `b1`, `b2`, `eps`, `weight_decay`, and `mu_dtype`, the type of the first moment (None: the
        parameters').
      steps: length of the run, which the cosine schedule needs.
    """
    adamw = optax.adamw(
        make_schedule(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mu_dtype=config.mu_dtype,
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
