"""DDPM: the variance-preserving noise process with discrete timesteps.

    x_t = alpha_t x_0 + sigma_t eps,    alpha_t² = alpha_bar_t,    sigma_t² = 1 - alpha_bar_t

(Ho et al. 2020, eq. 4). A network predicts eps, or v = alpha_t eps - sigma_t x_0 (Salimans & Ho 2022).

Samplers: DDIM (Song et al. 2021, eq. 12, with eta = 0), Euler (Karras et al. 2022, without churn), Euler ancestral
(k-diffusion) and DPM-Solver++(2M) (Lu et al. 2022, algorithm 2). They follow diffusers' schedulers in their timesteps,
in the scale of the latents, and in the special cases of the first and the last step.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rewardedit_jax.diffusion.noise_levels import (
    exponential,
    is_respaced,
    respaced,
    spaced_timesteps,
    timesteps_at,
    training_sigmas,
)
from rewardedit_jax.diffusion.sampler_settings import DDPM_SETTINGS, check_settings, warn_ignored
from rewardedit_jax.diffusion.samplers import SamplerTable, check_sampler, make_table
from rewardedit_jax.diffusion.scheduler_config import BetaSchedule

# DPM-Solver++ takes its last step at first order if it has fewer steps than this (DPMSolverMultistepScheduler.step).
_FEW_STEPS = 15


@dataclass(frozen=True)
class DDPM(BetaSchedule):
    """The noise process of a `BetaSchedule`. Times are whole timesteps 0 ≤ t < `num_train_timesteps`."""

    default_sampler: ClassVar[str] = "euler_ancestral"

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names that `sampler_table` accepts."""
        return tuple(_TABLES)

    def sample_times(self, rng: PRNGKeyArray, shape: tuple[int, ...]) -> Int[Array, " b"]:
        """Uniform training timesteps for latents of `shape` (b, h, w, c)."""
        return jax.random.randint(rng, shape[:1], 0, self.num_train_timesteps)

    def add_noise(
        self, clean: Float[Array, "b *shape"], noise: Float[Array, "b *shape"], times: Int[Array, " b"]
    ) -> Float[Array, "b *shape"]:
        """x_t = alpha_t clean + sigma_t noise. A timestep beyond the last one gives NaN."""
        alpha, sigma = self._alpha_sigma(times, clean.ndim)
        return alpha * clean + sigma * noise

    def target(
        self, clean: Float[Array, "b *shape"], noise: Float[Array, "b *shape"], times: Int[Array, " b"]
    ) -> Float[Array, "b *shape"]:
        """What the network learns to predict from x_t: the noise, or v = alpha_t noise - sigma_t clean."""
        if self.prediction_type == "epsilon":
            return noise
        alpha, sigma = self._alpha_sigma(times, clean.ndim)
        return alpha * noise - sigma * clean

    def check_sampler(self, sampler: Any, steps: Any) -> None:
        """Raise the errors of `sampler_table` but for those of the timesteps; warn of settings that are ignored."""
        check_sampler(sampler, self.samplers, steps, self.num_train_timesteps)
        check_settings(self, DDPM_SETTINGS, sampler)
        warn_ignored(self, DDPM_SETTINGS, sampler)

    def sampler_table(self, sampler: str, steps: int, shape: tuple[int, ...] | None = None) -> SamplerTable:
        """The table of `sampler`, one of `samplers`, for `steps` steps. `shape` makes no difference.

        Raises:
          ValueError: for an unknown sampler, a setting that it reads but does not implement, or more steps than there
            are distinct timesteps.
        """
        check_sampler(sampler, self.samplers, steps, self.num_train_timesteps)
        check_settings(self, DDPM_SETTINGS, sampler)
        with np.errstate(divide="ignore", invalid="ignore"):  # `make_table` refuses what is not finite
            return _TABLES[sampler](self, steps)

    def _alpha_sigma(self, times: Int[Array, " b"], ndim: int) -> tuple[Array, Array]:
        """alpha_t and sigma_t, float32, both [b, 1, ...] with `ndim` axes."""
        tables = np.sqrt(self.alphas_cumprod), np.sqrt(1 - self.alphas_cumprod)
        column = (-1, *(1,) * (ndim - 1))
        alpha, sigma = (jnp.take(jnp.asarray(t, jnp.float32), times).reshape(column) for t in tables)
        return alpha, sigma


def _ddim(process: DDPM, steps: int) -> SamplerTable:
    timesteps = spaced_timesteps(process, process.timestep_spacing or "leading", steps).astype(int)
    # One full stride back. With "linspace" and "trailing" this need not be the next timestep of the list.
    before = timesteps - process.num_train_timesteps // steps
    last = process.alphas_cumprod[0] if process.set_alpha_to_one is False else 1.0
    alpha_bar = process.alphas_cumprod[timesteps]
    alpha_bar_to = np.where(before >= 0, process.alphas_cumprod[before], last)
    alpha, sigma, sigma_to = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), np.sqrt(1 - alpha_bar_to)
    # eps is computed from the network's output, not from x0: clipping x0 does not change it.
    eps_from_x, eps_from_output = (0, 1) if process.prediction_type == "epsilon" else (sigma, alpha)
    clip = process.clip_sample_range if process.clip_sample is not False else math.inf
    return make_table(
        timesteps,
        *_denoise(process, alpha, sigma),
        **_thresholding(process) or {"clip": clip},
        keep=sigma_to * eps_from_x,
        output=sigma_to * eps_from_output,
        new=np.sqrt(alpha_bar_to),
    )


def _euler(process: DDPM, steps: int) -> SamplerTable:
    """Euler steps in x = x0 + sigma eps, whose standard deviation is sqrt(sigma² + 1)."""
    timesteps = spaced_timesteps(process, process.timestep_spacing or "linspace", steps, whole=False)
    sigma = _interpolated(timesteps, training_sigmas(process))
    if is_respaced(process):
        training = training_sigmas(process, np.float32)
        first, last = _interpolated(timesteps[[0, -1]], training).tolist()
        sigma = respaced(process, process.sigma_max or first, process.sigma_min or last, steps)
        timesteps = timesteps_at(sigma, training)
    if process.timestep_type == "continuous" and process.prediction_type == "v_prediction":
        timesteps = np.log(sigma) / 4
    sigma_to = _ends(process, sigma, process.final_sigmas_type)
    ratio = sigma_to / sigma
    return make_table(timesteps, **_in_sigma_space(process, sigma), keep=ratio, new=1 - ratio)


def _euler_ancestral(process: DDPM, steps: int) -> SamplerTable:
    timesteps = spaced_timesteps(process, process.timestep_spacing or "linspace", steps, whole=False)
    sigma = _interpolated(timesteps, training_sigmas(process))
    sigma_to = _ends(process, sigma, "zero")
    ratio = sigma_to / sigma
    return make_table(
        timesteps,
        **_in_sigma_space(process, sigma),
        # A step goes down to sigma_to² / sigma; its noise brings the level back up to sigma_to.
        keep=ratio**2,
        new=1 - ratio**2,
        noise=sigma_to * np.sqrt(1 - ratio**2),
        stochastic=True,
    )


def _dpmpp_2m(process: DDPM, steps: int) -> SamplerTable:
    """DPM-Solver++(2M). With lambda = -log(sigma / alpha), exp(-h) is the ratio of two sigmas."""
    timesteps, sigma = _dpm_levels(process, steps)
    sigma_to = _ends(process, sigma, process.final_sigmas_type)
    alpha, alpha_to, ratio = 1 / np.sqrt(sigma**2 + 1), 1 / np.sqrt(sigma_to**2 + 1), sigma_to / sigma
    new, second = alpha_to * (1 - ratio), np.zeros(steps)
    if process.solver_order > 1:
        # The first step has no predecessor, and in the last one h is infinite if it ends at sigma 0.
        few = process.lower_order_final is not False and steps < _FEW_STEPS
        end = steps - 1 if sigma_to[-1] == 0 or few or process.euler_at_final else steps
        second[1:end] = _second_order(process.solver_type, ratio[:end])
    return make_table(
        timesteps,
        *_denoise(process, alpha, sigma * alpha),
        **_thresholding(process),
        keep=ratio * alpha_to / alpha,
        new=new * (1 + second),
        previous=-new * second,
    )


def _dpm_levels(process: DDPM, steps: int) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """Timesteps and noise levels (DPMSolverMultistepScheduler.set_timesteps)."""
    if not (process.use_lu_lambdas or is_respaced(process)):
        training, spacing = training_sigmas(process), process.timestep_spacing or "linspace"
        kept = int((-np.log(training) >= process.lambda_min_clipped).sum())
        # With "leading" and "linspace", diffusers lays one point more, which stands for the sample itself.
        beyond = 0 if spacing == "trailing" else 1
        timesteps = spaced_timesteps(process, spacing, steps, beyond=beyond, total=kept)
        return timesteps, _interpolated(timesteps, training)
    # float32 as in diffusers, because rounding decides which timestep stands for a noise level.
    training = training_sigmas(process, np.float32)
    lu = process.use_lu_lambdas and not process.use_karras_sigmas
    if lu:
        sigma = exponential(*np.exp(np.log(training[[-1, 0]]).astype(np.float64)), steps)
    else:
        lowest, *_, highest = training.tolist()
        sigma = respaced(process, process.sigma_max or highest, process.sigma_min or lowest, steps)
    timesteps = timesteps_at(sigma, training)
    rounded = (lu or process.use_karras_sigmas) and process.beta_schedule != "squaredcos_cap_v2"
    return (timesteps.round() if rounded else np.floor(timesteps)), sigma


def _second_order(solver_type: str | None, ratio: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " rest"]:
    """The weight of x0_i - x0_{i-1} relative to that of x0_i, in every step after the first."""
    h = np.log(ratio)
    if solver_type != "heun":
        return 0.5 * h[1:] / h[:-1]
    # Where h is 0, the weight of x0_i is 0.
    return (-h[1:] / np.where(h[1:] < 0, 1 - ratio[1:], 1) - 1) / -h[:-1]


_TABLES = {
    "ddim": _ddim,
    "euler": _euler,
    "euler_ancestral": _euler_ancestral,
    "dpmpp_2m": _dpmpp_2m,
}


def _interpolated(
    timesteps: Float[np.ndarray, " steps"], training: Float[np.ndarray, " T"]
) -> Float[np.ndarray, " steps"]:
    """sigma_t / alpha_t, interpolated between whole timesteps."""
    return np.interp(timesteps, np.arange(len(training)), training)


def _ends(process: DDPM, sigma: Float[np.ndarray, " steps"], final: str) -> Float[np.ndarray, " steps"]:
    """The noise levels at which the steps end."""
    return np.append(sigma[1:], 0.0 if final == "zero" else training_sigmas(process)[0])


def _in_sigma_space(process: DDPM, sigma: Float[np.ndarray, " steps"]) -> dict[str, Any]:
    """The columns that both of Euler's samplers have."""
    alpha = 1 / np.sqrt(sigma**2 + 1)
    x0_from_scaled, x0_from_output = _denoise(process, alpha, sigma * alpha)
    # sqrt(sigma² + 1) for "leading", sigma for the other spacings (EulerDiscreteScheduler.init_noise_sigma).
    scale = math.hypot(sigma[0], process.timestep_spacing == "leading")
    return {
        "x0_from_x": x0_from_scaled * alpha,
        "x0_from_output": x0_from_output,
        "initial_scale": scale,
        "input_scale": alpha,
    }


def _thresholding(process: DDPM) -> dict[str, float]:
    if not process.thresholding:
        return {}
    return {"clip": process.sample_max_value, "quantile": process.dynamic_thresholding_ratio}


def _denoise(
    process: DDPM, alpha: Float[np.ndarray, " steps"], sigma: Float[np.ndarray, " steps"]
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """The table's columns (x0_from_x, x0_from_output), where x = alpha x0 + sigma eps."""
    if process.prediction_type == "v_prediction":
        return alpha, -sigma
    if not alpha.all():
        raise ValueError(
            "`prediction_type='epsilon'`: eps does not determine x0 at zero terminal SNR; expected 'v_prediction'"
        )
    return 1 / alpha, -sigma / alpha
