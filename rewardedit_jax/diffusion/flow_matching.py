"""Flow matching: straight paths between data and noise.

    x_t = (1 - sigma) x_0 + sigma eps,    velocity = dx_t / dsigma = eps - x_0,    sigma = t / T

with sigma from 0 (data) to 1 (noise). This is rectified flow (Liu et al. 2022), or the optimal-transport path of Lipman
et al. 2023 with sigma_min = 0, in the time direction of Esser et al. 2024. The network predicts the velocity.

High resolutions need more noise to hide the same image, so training and sampling may shift the noise levels
(Esser et al. 2024, section 5.3.2):

    sigma' = s sigma / (1 + (s - 1) sigma)

In logits this adds log s. The shift s is a constant, or grows with the number of tokens of the image. The schedule
follows diffusers' `FlowMatchEulerDiscreteScheduler`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from msgspec import Meta

from rewardedit_jax.diffusion.noise_levels import is_respaced, respaced
from rewardedit_jax.diffusion.sampler_settings import FLOW_SETTINGS, check_settings
from rewardedit_jax.diffusion.samplers import SamplerTable, check_sampler, make_table
from rewardedit_jax.diffusion.scheduler_config import (
    Positive,
    check_choices,
    convert_fields,
    read_settings,
    write_settings,
)

FLOW_MATCHING_CLASS = "FlowMatchEulerDiscreteScheduler"

_MAX_LOG = 100.0  # of the shift: beyond it, all steps are at sigma 1

_CHOICES = {
    "time_shift_type": ("exponential", "linear"),
    "sigma_spacing": ("linspace", "trailing"),
    "time_sampling": ("uniform", "logit_normal", "shifted"),
}

_Mu = Annotated[float, Meta(ge=-100, le=100)]  # a logarithm, or a shift
_Tokens = Annotated[int, Meta(ge=1)]
_Terminal = Annotated[float, Meta(ge=0, lt=1)]


@dataclass(frozen=True)
class FlowMatching:
    """The flow-matching process of a diffusers scheduler config. Times are t = sigma T, real numbers in [0, T].

    The first group of fields are diffusers' settings. The second group does not exist there: diffusers leaves these
    choices to its pipelines and training scripts, so a base editor or a recipe sets them.
    """

    samplers: ClassVar[tuple[str, ...]] = ("euler",)
    default_sampler: ClassVar[str] = "euler"

    num_train_timesteps: Annotated[int, Meta(ge=1, le=2**24)] = 1000  # T, the unit of the network's time input
    shift: Positive = 1.0  # s without dynamic shifting; 1 leaves sigma unchanged
    use_dynamic_shifting: bool = False  # s from the number of image tokens, by the five settings below
    base_image_seq_len: _Tokens = 256  # tokens at which mu = base_shift
    base_shift: _Mu = 0.5
    max_image_seq_len: _Tokens = 4096  # tokens at which mu = max_shift; mu is linear in the tokens, also beyond it
    max_shift: _Mu = 1.15
    time_shift_type: str = "exponential"  # "exponential": s = exp(mu) | "linear": s = mu
    shift_terminal: _Terminal | None = None  # stretches the sigmas so that the last step starts at this one
    use_karras_sigmas: bool = False  # the shifted sigmas are spaced anew between the first and the last of them
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    stochastic_sampling: bool = False  # a step goes to the denoised sample, and adds new noise

    patch_size: _Tokens = 2  # a token covers patch_size² latents
    # Where n sampling steps start, before the shift: "linspace" is n points from 1 to 1/T, the scheduler's own choice
    # (Stable Diffusion 3); "trailing" is n points from 1 to 1/n, which the pipelines of FLUX and Qwen-Image pass to the
    # scheduler, and which Step1X-Edit uses.
    sigma_spacing: str = "linspace"
    time_sampling: str = "uniform"  # training sigmas: "uniform" | "logit_normal" | "shifted" (uniform, then the shift)
    logit_mean: _Mu = 0.0  # "logit_normal": sigmoid of N(mean, std²); adding log s to the mean shifts them by s
    logit_std: Positive = 1.0
    unread: str = "{}"  # JSON text of the other settings of the file, written back by `to_config`

    def __post_init__(self):
        convert_fields(self)
        check_choices(vars(self), _CHOICES)
        if self.base_image_seq_len == self.max_image_seq_len:
            raise ValueError(
                f"`max_image_seq_len={self.max_image_seq_len}`: expected another number than `base_image_seq_len`"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FlowMatching":
        """The process that a diffusers `scheduler_config.json` describes.

        Raises:
          ValueError: for another scheduler class, or a setting of another type or out of range.
        """
        return cls(**read_settings(cls, config, (FLOW_MATCHING_CLASS,), FLOW_SETTINGS))

    def to_config(self) -> dict[str, Any]:
        """The config that `from_config` reads as this process. Settings at their default are left out."""
        return write_settings(self, FLOW_MATCHING_CLASS)

    def sample_times(self, rng: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, " b"]:
        """Random training times for latents of `shape` (b, h, w, c), distributed as `time_sampling` says."""
        if self.time_sampling == "logit_normal":
            # Esser et al. 2024, section 3.1: more training in the middle of the path, where prediction is hardest.
            sigma = jax.nn.sigmoid(self.logit_mean + self.logit_std * jax.random.normal(rng, shape[:1]))
        else:
            sigma = jax.random.uniform(rng, shape[:1])
        if self.time_sampling == "shifted":
            sigma = _shifted(sigma, self._shift_of(shape))
        return self.num_train_timesteps * sigma

    def add_noise(
        self, clean: Float[Array, "b *shape"], noise: Float[Array, "b *shape"], times: Float[Array, " b"]
    ) -> Float[Array, "b *shape"]:
        """x_t = (1 - sigma) clean + sigma noise."""
        sigma = (times / self.num_train_timesteps).reshape(-1, *[1] * (clean.ndim - 1))
        return (1 - sigma) * clean + sigma * noise

    def target(
        self, clean: Float[Array, "b *shape"], noise: Float[Array, "b *shape"], times: Float[Array, " b"]
    ) -> Float[Array, "b *shape"]:
        """The velocity, noise - clean: it is the same at all times of a path."""
        return noise - clean

    def check_sampler(self, sampler: Any, steps: Any) -> None:
        """Raise the errors of `sampler_table` that do not depend on the resolution."""
        check_sampler(sampler, self.samplers, steps, self.num_train_timesteps)
        check_settings(self, FLOW_SETTINGS, sampler)

    def sampler_table(self, sampler: str, steps: int, shape: tuple[int, ...] | None = None) -> SamplerTable:
        """The table of Euler's method for `steps` steps, from sigma 1 to 0.

        Args:
          sampler: "euler".
          shape: (b, h, w, c) of the latents, required with `use_dynamic_shifting`.
        Raises:
          ValueError: for another sampler, an impossible number of steps, a setting that is not implemented, or a
            missing shape.
        """
        self.check_sampler(sampler, steps)
        sigma = self._sigmas(steps, self._shift_of(shape))
        sigma_to = np.append(sigma[1:], 0.0)
        denoised = self.num_train_timesteps * sigma, np.ones(steps), -sigma  # x0 = x - sigma velocity
        if self.stochastic_sampling:
            return make_table(*denoised, new=1 - sigma_to, noise=sigma_to, stochastic=True)
        return make_table(*denoised, keep=1.0, output=sigma_to - sigma)

    def _sigmas(self, steps: int, shift: float) -> Float[np.ndarray, " {steps}"]:
        """Decreasing noise levels at which the steps start (FlowMatchEulerDiscreteScheduler.set_timesteps)."""
        last = 1 / (steps if self.sigma_spacing == "trailing" else self.num_train_timesteps)
        if self.sigma_spacing == "linspace" and not self.use_dynamic_shifting:
            # The scheduler's `sigma_min` already has the static shift, and set_timesteps shifts it again below.
            last = _shifted(last, shift)
        sigma = _shifted(np.linspace(1.0, last, steps), shift)
        if self.shift_terminal:
            if steps == 1:
                raise ValueError("`shift_terminal` needs at least 2 steps: the only step starts at sigma 1")
            sigma = 1 - (1 - sigma) * (1 - self.shift_terminal) / (1 - sigma[-1])
        return respaced(self, sigma[0], sigma[-1], steps) if is_respaced(self) else sigma

    def _shift_of(self, shape: tuple[int, ...] | None) -> float:
        """The shift s for latents of `shape` (diffusers' `calculate_shift` in pipeline_flux.py, then `time_shift`)."""
        if not self.use_dynamic_shifting:
            return self.shift
        if shape is None:
            raise ValueError(
                "`use_dynamic_shifting=True`: the shift depends on the resolution, pass `shape` (b, h, w, c)"
            )
        tokens = (shape[1] // self.patch_size) * (shape[2] // self.patch_size)
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        mu = self.base_shift + slope * (tokens - self.base_image_seq_len)
        # exp(mu) / (exp(mu) + 1/sigma - 1), as diffusers writes it, is the static formula with s = exp(mu).
        shift = mu if self.time_shift_type == "linear" else math.exp(min(mu, _MAX_LOG))
        if not 0 < shift < math.exp(_MAX_LOG):
            raise ValueError(
                f"`base_shift={self.base_shift}` and `max_shift={self.max_shift}` give {tokens} tokens a shift of "
                f"{shift:g}, which is out of range: use another resolution, or change scheduler_config.json"
            )
        return shift


def _shifted(sigma: Any, shift: float) -> Any:
    """Noise levels after the time shift (Esser et al. 2024, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)
