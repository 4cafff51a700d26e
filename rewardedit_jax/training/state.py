"""What a training run carries from step to step, and all that a checkpoint holds."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from rewardedit_jax.params import Params


@flax.struct.dataclass
class TrainState:
    """Leaves are arrays; or `ShapeDtypeStruct`s, or shardings, in trees that describe a state."""

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


def update_ema(ema: Params, params: Params, step: Int[Array, ""], decay: float) -> Params:
    """ema ← d·ema + (1 - d)·params with d = min(decay, (1 + n) / (10 + n)), n = updates made before this one.

    Kept in float32 whatever the parameters' type: at decay 0.9999 a bfloat16 average would never move.
    """
    n = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + n) / (10 + n))
    return jax.tree.map(lambda e, p: e + (1 - d) * (p.astype(jnp.float32) - e), ema, params)
