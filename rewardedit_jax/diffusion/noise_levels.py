"""Timesteps and noise levels at which the steps of a sampler start, as diffusers' schedulers lay them."""

import numpy as np
from jaxtyping import Float

from rewardedit_jax.diffusion.scheduler_config import BetaSchedule

# At zero terminal SNR, Euler and DPM-Solver++ use this alpha_bar instead of 0, which keeps their sigma finite
# (diffusers' EulerDiscreteScheduler.__init__).
_LAST_ALPHA_BAR = 2.0**-24


def spaced_timesteps(
    schedule: BetaSchedule,
    spacing: str,
    steps: int,
    *,
    whole: bool = True,
    beyond: int = 0,
    total: int | None = None,
) -> Float[np.ndarray, " {steps}"]:
    """The first `steps` of `steps + beyond` decreasing timesteps (Lin et al. 2023, table 2), rounded if `whole`.

    Args:
      total: timesteps from this one on are left out; None: none is.
    Raises:
      ValueError: if they are not distinct, or exceed the last timestep.
    """
    every, points = schedule.num_train_timesteps, steps + beyond
    total = every if total is None else total
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, points)[::-1]
    elif spacing == "leading":
        timesteps = np.arange(points)[::-1] * float(total // points) + schedule.steps_offset
    else:
        timesteps = np.arange(total, 0, -every / points).round() - 1
    timesteps = timesteps[:steps]  # the rounded strides of "trailing" may leave one point too many
    timesteps = timesteps.round() if whole else timesteps
    if len(timesteps) < steps or timesteps[0] > every - 1 or (np.diff(timesteps) >= 0).any():
        clipped = " (`lambda_min_clipped`)" if total < every else ""
        raise ValueError(
            f"{spacing!r} spacing cannot lay {steps} distinct timesteps below {total}{clipped}: use fewer steps"
        )
    return timesteps


def training_sigmas(schedule: BetaSchedule, dtype: type = np.float64) -> Float[np.ndarray, " T"]:
    """sigma_t / alpha_t of every timestep, computed from alpha_bar_t in `dtype`."""
    alpha_bar = schedule.alphas_cumprod.copy()
    if schedule.rescale_betas_zero_snr:
        alpha_bar[-1] = _LAST_ALPHA_BAR
    alpha_bar = alpha_bar.astype(dtype)
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def timesteps_at(sigmas: Float[np.ndarray, " steps"], training: Float[np.ndarray, " T"]) -> Float[np.ndarray, " steps"]:
    """Timesteps between which the logarithm of the training sigma takes these values, by linear interpolation."""
    return np.interp(np.log(sigmas), np.log(training), np.arange(len(training)))


def karras(first: float, last: float, steps: int) -> Float[np.ndarray, " {steps}"]:
    """Equal steps in sigma^(1/7) (Karras et al. 2022, eq. 5)."""
    ramp, root = np.linspace(0, 1, steps), 1 / 7
    return (first**root + ramp * (last**root - first**root)) ** 7


def exponential(first: float, last: float, steps: int) -> Float[np.ndarray, " {steps}"]:
    """Equal steps in log sigma."""
    return np.geomspace(first, last, steps)


def beta(first: float, last: float, steps: int) -> Float[np.ndarray, " {steps}"]:
    """Quantiles of the beta distribution with alpha = beta = 0.6 (Lee et al. 2024, "Beta Sampling is All You Need")."""
    # Imported here: scipy.special takes 0.4 s, which commands with other noise levels need not wait for.
    from scipy.special import betaincinv

    return last + betaincinv(0.6, 0.6, 1 - np.linspace(0, 1, steps)) * (first - last)


_RESPACINGS = {"use_karras_sigmas": karras, "use_exponential_sigmas": exponential, "use_beta_sigmas": beta}


def is_respaced(settings: object) -> bool:
    """Whether the settings of a process ask for other noise levels than those of its timesteps."""
    return any(getattr(settings, name) for name in _RESPACINGS)


def respaced(settings: object, first: float, last: float, steps: int) -> Float[np.ndarray, " {steps}"]:
    """Noise levels from `first` to `last`, spaced as the settings of a process ask.

    Raises:
      ValueError: if they ask for two spacings, or the levels do not decrease.
    """
    asked = [name for name in _RESPACINGS if getattr(settings, name)]
    if len(asked) > 1:
        raise ValueError(f"scheduler_config.json sets {' and '.join(f'`{name}`' for name in asked)}: expected one")
    if not (first > last > 0 or steps == 1):
        raise ValueError(
            f"noise levels from {first:g} to {last:g} do not decrease to a positive number: check `sigma_max` and "
            "`sigma_min` in scheduler_config.json"
        )
    return _RESPACINGS[asked[0]](first, last, steps)
