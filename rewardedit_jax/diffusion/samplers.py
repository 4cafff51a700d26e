"""Samplers: from noise to a sample in a few steps.

DDIM (Song et al. 2021, eq. 12, eta 0), Euler (Karras et al. 2022, without churn), Euler ancestral
(k-diffusion) and DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) are linear in what a step has at hand.
With the denoised x0 = x0_from_x x + x0_from_output out, where out is what the network predicts,

    x_{i+1} = keep_i x_i + output_i out_i + new_i x0_i + previous_i x0_{i-1} + noise_i z_i

So a sampler is a table of coefficients, made on the host in float64, and there is one loop. The tables
follow diffusers' schedulers: timesteps, the scale that latents live at, the rules of the first and last step.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Num, PRNGKeyArray

from rewardedit_jax.diffusion.schedule import Schedule

# Where the terminal SNR is zero, Euler and DPM-Solver++ take this alpha_bar, so that their sigma is finite.
_LAST_ALPHA_BAR = 2.0**-24
# DPM-Solver++ ends with a step of first order if it has fewer steps than this.
_FEW_STEPS = 15


@struct.dataclass
class Step:
    """Coefficients of one step (scalars), or of all steps (float32[steps])."""

    timestep: Any  # what the network is told; whole numbers but for Euler with "linspace"
    input_scale: Any  # the network sees input_scale x
    x0_from_x: Any  # x0 = x0_from_x x + x0_from_output out
    x0_from_output: Any
    keep: Any
    output: Any
    new: Any
    previous: Any
    noise: Any


@struct.dataclass
class SamplerTable:
    """A sampler for one schedule and one number of steps.

    Everything but `stochastic` is an array, so tables of equally many steps share one compilation.
    """

    steps: Step
    initial_scale: Any  # float32[]: what standard-normal latents are multiplied by
    clip: Any  # float32[]: x0 is clipped to ± this, infinity for not at all
    stochastic: bool = struct.field(pytree_node=False)  # whether steps add noise


def sampler_table(name: str, schedule: Schedule, steps: int) -> SamplerTable:
    """The table of the sampler `name`, one of `SAMPLERS`, for `steps` steps.

    Raises:
      ValueError: for an unknown name, or more steps than the schedule has distinct timesteps for.
    """
    if name not in _TABLES:
        raise ValueError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}")
    if not 1 <= steps <= schedule.num_train_timesteps:
        raise ValueError(f"cannot sample in {steps} steps; choose 1 to {schedule.num_train_timesteps}")
    return _TABLES[name](schedule, steps)


def sample(
    predict: Callable[[Array, Array], Array],
    table: SamplerTable,
    latents: Float[Array, "*shape"],
    *,
    noise: Float[Array, "steps *shape"] | None = None,
    rng: PRNGKeyArray | None = None,
    keep_trajectory: bool = False,
) -> Float[Array, "*shape"] | tuple[Float[Array, "*shape"], Float[Array, "steps *shape"]]:
    """Run the sampler in float32.

    Args:
      predict: (scaled x, timestep float32[]) → the network's output, after guidance.
      latents: standard normal; scaled here.
      noise: standard normal, one for each step. Neither it nor `rng` is looked at unless `table.stochastic`.
      rng: in the absence of noise, step i draws it from `fold_in(rng, i)`.
      keep_trajectory: also give x after every step, the last being the sample.
    Returns:
      The sample, or (sample, trajectory).
    Raises:
      ValueError: if the sampler is stochastic and has neither noise nor rng.
    """
    if table.stochastic and noise is None and rng is None:
        raise ValueError("this sampler adds noise: give `noise` or `rng`")

    def advance(carry, inputs):
        x, x0_before = carry
        step, i, z = inputs
        out = predict(step.input_scale * x, step.timestep).astype(jnp.float32)
        x0 = jnp.clip(step.x0_from_x * x + step.x0_from_output * out, -table.clip, table.clip)
        x = step.keep * x + step.output * out + step.new * x0 + step.previous * x0_before
        if table.stochastic:
            z = jax.random.normal(jax.random.fold_in(rng, i), x.shape) if z is None else z
            x = x + step.noise * z
        return (x, x0), (x if keep_trajectory else None)

    x = table.initial_scale * latents.astype(jnp.float32)
    inputs = table.steps, jnp.arange(len(table.steps.timestep)), noise
    (x, _), trajectory = jax.lax.scan(advance, (x, jnp.zeros_like(x)), inputs)
    return (x, trajectory) if keep_trajectory else x


def _ddim(schedule: Schedule, steps: int) -> SamplerTable:
    timesteps = _timesteps(schedule, schedule.timestep_spacing or "leading", steps).astype(int)
    # A full stride back, which for "linspace" and "trailing" need not be the next timestep of the list.
    before = timesteps - schedule.num_train_timesteps // steps
    last = schedule.alphas_cumprod[0] if schedule.set_alpha_to_one is False else 1.0
    alpha_bar = schedule.alphas_cumprod[timesteps]
    alpha_bar_to = np.where(before >= 0, schedule.alphas_cumprod[before], last)
    alpha, sigma, sigma_to = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), np.sqrt(1 - alpha_bar_to)
    # eps is taken from the output itself: clipping x0 leaves it alone.
    eps_from_x, eps_from_output = (0, 1) if schedule.prediction_type == "epsilon" else (sigma, alpha)
    return _table(
        timesteps,
        *_denoise(schedule, alpha, sigma),
        clip=schedule.clip_sample_range if schedule.clip_sample is not False else math.inf,
        keep=sigma_to * eps_from_x,
        output=sigma_to * eps_from_output,
        new=np.sqrt(alpha_bar_to),
    )


def _euler(schedule: Schedule, steps: int, *, ancestral: bool = False) -> SamplerTable:
    """x lives at scale sqrt(sigma² + 1): x = x0 + sigma eps."""
    spacing = schedule.timestep_spacing or "linspace"
    timesteps = _timesteps(schedule, spacing, steps, whole=False)
    sigma, sigma_to = _sigmas(schedule, timesteps, "zero" if ancestral else schedule.final_sigmas_type)
    alpha, ratio = 1 / np.sqrt(sigma**2 + 1), sigma_to / sigma
    x0_from_scaled, x0_from_output = _denoise(schedule, alpha, sigma * alpha)
    # An ancestral step goes down to sigma_to² / sigma, then noise brings it back up to sigma_to.
    keep = ratio**2 if ancestral else ratio
    return _table(
        timesteps,
        x0_from_scaled * alpha,
        x0_from_output,
        initial_scale=math.hypot(sigma[0], spacing == "leading"),
        input_scale=alpha,
        keep=keep,
        new=1 - keep,
        noise=sigma_to * np.sqrt(1 - ratio**2) if ancestral else 0.0,
        stochastic=ancestral,
    )


def _dpmpp_2m(schedule: Schedule, steps: int) -> SamplerTable:
    """Midpoint form; lambda = -log(sigma / alpha), so that exp(-h) is the ratio of two sigmas."""
    spacing = schedule.timestep_spacing or "linspace"
    # "leading" and "linspace" lay one point more, which stands for the sample itself.
    timesteps = _timesteps(schedule, spacing, steps, beyond=0 if spacing == "trailing" else 1)
    sigma, sigma_to = _sigmas(schedule, timesteps, schedule.final_sigmas_type)
    alpha, alpha_to, ratio = 1 / np.sqrt(sigma**2 + 1), 1 / np.sqrt(sigma_to**2 + 1), sigma_to / sigma
    new = alpha_to * (1 - ratio)
    # h_i / (2 h_{i-1}), the weight of the second order; the first step has none, and mostly the last.
    second = np.zeros(steps)
    end = steps - 1 if sigma_to[-1] == 0 or steps < _FEW_STEPS else steps
    second[1:end] = 0.5 * np.log(ratio[1:end]) / np.log(ratio[: end - 1]) if end > 1 else 0.0
    return _table(
        timesteps,
        *_denoise(schedule, alpha, sigma * alpha),
        keep=ratio * alpha_to / alpha,
        new=new * (1 + second),
        previous=-new * second,
    )


_TABLES = {
    "ddim": _ddim,
    "euler": _euler,
    "euler_ancestral": partial(_euler, ancestral=True),
    "dpmpp_2m": _dpmpp_2m,
}
SAMPLERS = tuple(_TABLES)


def _timesteps(
    schedule: Schedule, spacing: str, steps: int, *, whole: bool = True, beyond: int = 0
) -> Float[np.ndarray, " {steps}"]:
    """The first `steps` of `steps + beyond` falling timesteps (Lin et al. 2023, table 2), rounded if `whole`.

    Raises:
      ValueError: if they are not distinct or leave the schedule.
    """
    total, points = schedule.num_train_timesteps, steps + beyond
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, points)[::-1]
    elif spacing == "leading":
        timesteps = np.arange(points)[::-1] * float(total // points) + schedule.steps_offset
    else:
        timesteps = np.arange(total, 0, -total / points).round() - 1
    timesteps = timesteps[:steps]  # rounding may also have left one more than asked for
    timesteps = timesteps.round() if whole else timesteps
    if timesteps[0] > total - 1 or (np.diff(timesteps) >= 0).any():
        raise ValueError(f"{spacing} has no {steps} distinct timesteps below {total}; take fewer steps")
    return timesteps


def _sigmas(
    schedule: Schedule, timesteps: Float[np.ndarray, " steps"], final: str
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """sigma_t / alpha_t at the timesteps, interpolated, and those that the steps go to."""
    alpha_bar = schedule.alphas_cumprod.copy()
    if schedule.rescale_betas_zero_snr:
        alpha_bar[-1] = _LAST_ALPHA_BAR
    sigmas = np.sqrt((1 - alpha_bar) / alpha_bar)
    sigma = np.interp(timesteps, np.arange(len(sigmas)), sigmas)
    return sigma, np.append(sigma[1:], 0.0 if final == "zero" else sigmas[0])


def _denoise(
    schedule: Schedule, alpha: Float[np.ndarray, " steps"], sigma: Float[np.ndarray, " steps"]
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """Coefficients of x0 in x = alpha x0 + sigma eps and in the network's output."""
    if schedule.prediction_type == "v_prediction":
        return alpha, -sigma
    if not alpha.all():
        raise ValueError("eps cannot tell x0 at zero terminal SNR; it takes prediction_type v_prediction")
    return 1 / alpha, -sigma / alpha


def _table(
    timesteps: Num[np.ndarray, " steps"],
    x0_from_x: Float[np.ndarray, " steps"],
    x0_from_output: Float[np.ndarray, " steps"],
    *,
    initial_scale: float = 1.0,
    clip: float = math.inf,
    stochastic: bool = False,
    **columns: Any,
) -> SamplerTable:
    """The table in float32, with zeros for columns that are left out and ones for the scale of the input."""
    columns |= {"timestep": timesteps, "x0_from_x": x0_from_x, "x0_from_output": x0_from_output}
    defaults = {"input_scale": 1.0, "keep": 0.0, "output": 0.0, "new": 0.0, "previous": 0.0, "noise": 0.0}
    columns = defaults | columns
    columns = {k: np.broadcast_to(v, timesteps.shape).astype(np.float32) for k, v in columns.items()}
    return SamplerTable(Step(**columns), np.float32(initial_scale), np.float32(clip), stochastic)
