"""DDPM: the variance-preserving noise process with discrete timesteps.

    x_t = alpha_t x_0 + sigma_t eps,    alpha_t² = alpha_bar_t,    sigma_t² = 1 - alpha_bar_t

(Ho et al. 2020, eq. 4). A network predicts eps, or v = alpha_t eps - sigma_t x_0 (Salimans & Ho 2022).

Samplers: DDIM (Song et al. 2021, eq. 12, with eta = 0), Euler (Karras et al. 2022, without churn), Euler ancestral
(k-diffusion) and DPM-Solver++(2M) (Lu et al. 2022, algorithm 2). They follow diffusers' schedulers in their timesteps,
in the scale of the latents, and in the special cases of the first and the last step.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rewardedit_jax.diffusion.samplers import SamplerTable, check_sampler, make_table
from rewardedit_jax.diffusion.scheduler_config import BetaSchedule

# At zero terminal SNR, Euler and DPM-Solver++ use this alpha_bar instead of 0, which keeps their sigma finite
# (diffusers' EulerDiscreteScheduler.__init__).
_LAST_ALPHA_BAR = 2.0**-24
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

    def sampler_table(self, sampler: str, steps: int, shape: tuple[int, ...] | None = None) -> SamplerTable:
        """The table of `sampler`, one of `samplers`, for `steps` steps. `shape` makes no difference.

        Raises:
          ValueError: for an unknown sampler, or more steps than there are distinct timesteps.
        """
        check_sampler(sampler, self.samplers, steps, self.num_train_timesteps)
        return _TABLES[sampler](self, steps)

    def _alpha_sigma(self, times: Int[Array, " b"], ndim: int) -> tuple[Array, Array]:
        """alpha_t and sigma_t, float32, both [b, 1, ...] with `ndim` axes."""
        tables = np.sqrt(self.alphas_cumprod), np.sqrt(1 - self.alphas_cumprod)
        column = (-1, *(1,) * (ndim - 1))
        alpha, sigma = (jnp.take(jnp.asarray(t, jnp.float32), times).reshape(column) for t in tables)
        return alpha, sigma


def _ddim(process: DDPM, steps: int) -> SamplerTable:
    timesteps = _timesteps(process, process.timestep_spacing or "leading", steps).astype(int)
    # One full stride back. With "linspace" and "trailing" this need not be the next timestep of the list.
    before = timesteps - process.num_train_timesteps // steps
    last = process.alphas_cumprod[0] if process.set_alpha_to_one is False else 1.0
    alpha_bar = process.alphas_cumprod[timesteps]
    alpha_bar_to = np.where(before >= 0, process.alphas_cumprod[before], last)
    alpha, sigma, sigma_to = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), np.sqrt(1 - alpha_bar_to)
    # eps is computed from the network's output, not from x0: clipping x0 does not change it.
    eps_from_x, eps_from_output = (0, 1) if process.prediction_type == "epsilon" else (sigma, alpha)
    return make_table(
        timesteps,
        *_denoise(process, alpha, sigma),
        clip=process.clip_sample_range if process.clip_sample is not False else math.inf,
        keep=sigma_to * eps_from_x,
        output=sigma_to * eps_from_output,
        new=np.sqrt(alpha_bar_to),
    )


def _euler(process: DDPM, steps: int, *, ancestral: bool = False) -> SamplerTable:
    """Euler steps in x = x0 + sigma eps, whose standard deviation is sqrt(sigma² + 1)."""
    spacing = process.timestep_spacing or "linspace"
    timesteps = _timesteps(process, spacing, steps, whole=False)
    sigma, sigma_to = _sigmas(process, timesteps, "zero" if ancestral else process.final_sigmas_type)
    alpha, ratio = 1 / np.sqrt(sigma**2 + 1), sigma_to / sigma
    x0_from_scaled, x0_from_output = _denoise(process, alpha, sigma * alpha)
    # An ancestral step goes down to sigma_to² / sigma; its noise brings the level back up to sigma_to.
    keep = ratio**2 if ancestral else ratio
    return make_table(
        timesteps,
        x0_from_scaled * alpha,
        x0_from_output,
        # sqrt(sigma² + 1) for "leading", sigma for the other spacings (EulerDiscreteScheduler.init_noise_sigma).
        initial_scale=math.hypot(sigma[0], spacing == "leading"),
        input_scale=alpha,
        keep=keep,
        new=1 - keep,
        noise=sigma_to * np.sqrt(1 - ratio**2) if ancestral else 0.0,
        stochastic=ancestral,
    )


def _dpmpp_2m(process: DDPM, steps: int) -> SamplerTable:
    """DPM-Solver++(2M), midpoint. With lambda = -log(sigma / alpha), exp(-h) is the ratio of two sigmas."""
    spacing = process.timestep_spacing or "linspace"
    # With "leading" and "linspace", diffusers lays one point more, which stands for the sample itself.
    timesteps = _timesteps(process, spacing, steps, beyond=0 if spacing == "trailing" else 1)
    sigma, sigma_to = _sigmas(process, timesteps, process.final_sigmas_type)
    alpha, alpha_to, ratio = 1 / np.sqrt(sigma**2 + 1), 1 / np.sqrt(sigma_to**2 + 1), sigma_to / sigma
    new = alpha_to * (1 - ratio)
    # h_i / (2 h_{i-1}), the weight of the second-order term. It is 0 in the first step, which has no predecessor,
    # and in the last step if that ends at sigma 0, where h is infinite, or if there are few steps.
    second = np.zeros(steps)
    end = steps - 1 if sigma_to[-1] == 0 or steps < _FEW_STEPS else steps
    second[1:end] = 0.5 * np.log(ratio[1:end]) / np.log(ratio[: end - 1]) if end > 1 else 0.0
    return make_table(
        timesteps,
        *_denoise(process, alpha, sigma * alpha),
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


def _timesteps(
    process: DDPM, spacing: str, steps: int, *, whole: bool = True, beyond: int = 0
) -> Float[np.ndarray, " {steps}"]:
    """The first `steps` of `steps + beyond` decreasing timesteps (Lin et al. 2023, table 2), rounded if `whole`.

    Raises:
      ValueError: if they are not distinct, or exceed the last timestep.
    """
    total, points = process.num_train_timesteps, steps + beyond
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, points)[::-1]
    elif spacing == "leading":
        timesteps = np.arange(points)[::-1] * float(total // points) + process.steps_offset
    else:
        timesteps = np.arange(total, 0, -total / points).round() - 1
    timesteps = timesteps[:steps]  # the rounded strides of "trailing" may leave one point too many
    timesteps = timesteps.round() if whole else timesteps
    if timesteps[0] > total - 1 or (np.diff(timesteps) >= 0).any():
        raise ValueError(f"{spacing!r} spacing has no {steps} distinct timesteps below {total}: use fewer steps")
    return timesteps


def _sigmas(
    process: DDPM, timesteps: Float[np.ndarray, " steps"], final: str
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """sigma_t / alpha_t at the start and at the end of every step, interpolated between whole timesteps."""
    alpha_bar = process.alphas_cumprod.copy()
    if process.rescale_betas_zero_snr:
        alpha_bar[-1] = _LAST_ALPHA_BAR
    sigmas = np.sqrt((1 - alpha_bar) / alpha_bar)
    sigma = np.interp(timesteps, np.arange(len(sigmas)), sigmas)
    return sigma, np.append(sigma[1:], 0.0 if final == "zero" else sigmas[0])


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
