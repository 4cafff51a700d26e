"""The sampling loop: from noise to a sample in a few steps.

All samplers here are linear in the quantities of a step. With the network's output out_i and the denoised sample
x0_i = x0_from_x x_i + x0_from_output out_i, clipped where a sampler does so,

    x_{i+1} = keep_i x_i + output_i out_i + new_i x0_i + previous_i x0_{i-1} + noise_i z_i

A sampler is therefore a table of coefficients, which a noise process computes on the host in float64
(`NoiseProcess.sampler_table`), and `sample` is the only loop.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Num, PRNGKeyArray

# Names of all samplers, e.g. for the choices of a command. `NoiseProcess.samplers` has those of one process.
SAMPLERS = ("ddim", "euler", "euler_ancestral", "dpmpp_2m")


@struct.dataclass
class Step:
    """Coefficients of one step (scalars), or of all steps (float32[steps])."""

    timestep: Any  # input of the network; whole numbers except for "euler" and "euler_ancestral"
    input_scale: Any  # the network's other input is input_scale x
    x0_from_x: Any  # x0 = x0_from_x x + x0_from_output out
    x0_from_output: Any
    keep: Any
    output: Any
    new: Any
    previous: Any
    noise: Any


@struct.dataclass
class SamplerTable:
    """A sampler for one noise process and one number of steps.

    All numbers of the steps are arrays, so tables with equally many steps share one compilation.
    """

    steps: Step
    initial_scale: Any  # float32[]: factor of the standard-normal latents at the start
    clip: Any  # float32[]: x0 is clipped to ± this value; infinity disables clipping
    stochastic: bool = struct.field(pytree_node=False)  # whether the steps add noise
    # With dynamic thresholding, x0 is clipped to this quantile of its magnitude, at least 1 and at most `clip`.
    quantile: float | None = struct.field(pytree_node=False, default=None)


def make_table(
    timesteps: Num[np.ndarray, " steps"],
    x0_from_x: Float[np.ndarray, " steps"],
    x0_from_output: Float[np.ndarray, " steps"],
    *,
    initial_scale: float = 1.0,
    clip: float = math.inf,
    stochastic: bool = False,
    quantile: float | None = None,
    **columns: Any,
) -> SamplerTable:
    """The table in float32. Columns that are not given are 0, except `input_scale`, which is 1.

    Raises:
      ValueError: if a coefficient is not finite.
    """
    columns |= {"timestep": timesteps, "x0_from_x": x0_from_x, "x0_from_output": x0_from_output}
    defaults = {"input_scale": 1.0, "keep": 0.0, "output": 0.0, "new": 0.0, "previous": 0.0, "noise": 0.0}
    columns = defaults | columns
    columns = {k: np.broadcast_to(v, timesteps.shape).astype(np.float32) for k, v in columns.items()}
    if not all(np.isfinite(column).all() for column in columns.values()):
        raise ValueError(
            "the settings in scheduler_config.json give coefficients that are NaN or infinite, e.g. by a beta of 0 or 1"
        )
    return SamplerTable(Step(**columns), np.float32(initial_scale), np.float32(clip), stochastic, quantile)


def check_sampler(sampler: Any, samplers: tuple[str, ...], steps: Any, max_steps: int) -> None:
    """Raise ValueError for a sampler that is not among a process's `samplers`, or for an impossible number of steps."""
    if sampler not in samplers:
        raise ValueError(f"sampler {sampler!r} does not fit this noise process: expected {', '.join(samplers)}")
    # bool is a subclass of int.
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or not 1 <= steps <= max_steps:
        raise ValueError(f"`steps={steps!r}`: expected a whole number from 1 to {max_steps}")


def sample(
    predict: Callable[[Array, Array], Array],
    table: SamplerTable,
    latents: Float[Array, "*shape"],
    *,
    noise: Float[Array, "steps *shape"] | None = None,
    rng: PRNGKeyArray | None = None,
    keep_trajectory: bool = False,
) -> Float[Array, "*shape"] | tuple[Float[Array, "*shape"], Float[Array, "steps *shape"]]:
    """Run a sampler in float32.

    Args:
      predict: (scaled x, timestep float32[]) → the network's output, after guidance.
      table: from `NoiseProcess.sampler_table`.
      latents: standard-normal start; scaled here by `table.initial_scale`.
      noise: standard normal, one array per step. Only used if `table.stochastic`.
      rng: used if `table.stochastic` and `noise` is None: step i draws its noise from `fold_in(rng, i)`.
      keep_trajectory: also return x after every step; the last one is the sample.
    Returns:
      The sample, or (sample, trajectory).
    Raises:
      ValueError: if the sampler is stochastic and neither `noise` nor `rng` is given.
    """
    if table.stochastic and noise is None and rng is None:
        raise ValueError("this sampler adds noise in every step: pass `noise` or `rng`")

    def advance(carry, inputs):
        x, x0_before = carry
        step, i, z = inputs
        out = predict(step.input_scale * x, step.timestep).astype(jnp.float32)
        x0 = _clipped(step.x0_from_x * x + step.x0_from_output * out, table)
        x = step.keep * x + step.output * out + step.new * x0 + step.previous * x0_before
        if table.stochastic:
            z = jax.random.normal(jax.random.fold_in(rng, i), x.shape) if z is None else z
            x = x + step.noise * z
        return (x, x0), (x if keep_trajectory else None)

    x = table.initial_scale * latents.astype(jnp.float32)
    inputs = table.steps, jnp.arange(len(table.steps.timestep)), noise
    # The first step has no x0 before it: its coefficient `previous` is 0.
    (x, _), trajectory = jax.lax.scan(advance, (x, jnp.zeros_like(x)), inputs)
    return (x, trajectory) if keep_trajectory else x


def _clipped(x0: Float[Array, "*shape"], table: SamplerTable) -> Float[Array, "*shape"]:
    if table.quantile is None:
        return jnp.clip(x0, -table.clip, table.clip)
    # Dynamic thresholding (Saharia et al. 2022, section 2.3): each sample of the batch is brought back to ±1.
    magnitude = jnp.quantile(jnp.abs(x0).reshape(len(x0), -1), table.quantile, axis=1)
    bound = jnp.clip(magnitude, 1, table.clip).reshape(-1, *[1] * (x0.ndim - 1))
    return jnp.clip(x0, -bound, bound) / bound
