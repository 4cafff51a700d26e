"""The noise schedule: how much signal and how much noise a sample holds at each training timestep.

    x_t = alpha_t x_0 + sigma_t eps,    alpha_t² + sigma_t² = 1,    alpha_t² = prod_{s≤t} (1 - beta_s)

(Ho et al. 2020, eq. 4). A network predicts eps, or v = alpha_t eps - sigma_t x_0 (Salimans and Ho 2022).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": (None, "leading", "trailing", "linspace"),
    "final_sigmas_type": ("zero", "sigma_min"),
}

# Settings of diffusers' schedulers that change samples; they may have these values only. Of algorithms and of
# solver types diffusers reads all as the first: the others come from the files of other solvers.
_FIXED = {
    "thresholding": (False,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    "algorithm_type": ("dpmsolver++", "deis"),
    "solver_type": ("midpoint", "logrho", "bh1", "bh2"),
    "solver_order": (2,),
    "lower_order_final": (True,),
    "euler_at_final": (False,),
    "lambda_min_clipped": (-math.inf,),
}


@dataclass(frozen=True)
class Schedule:
    """What a diffusers `scheduler_config.json` says, whatever scheduler class wrote it.

    Defaults are those of diffusers' classes. None stands for a silent file where the classes differ: each
    sampler then takes the default of its own class, as `from_config` of that class does.
    """

    num_train_timesteps: int = 1000  # T
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"  # "linear" | "scaled_linear" (linear in sqrt(beta)) | "squaredcos_cap_v2"
    trained_betas: tuple[float, ...] | None = None  # T betas that replace the three settings above
    rescale_betas_zero_snr: bool = False  # last timestep without signal (Lin et al. 2023, algorithm 1)
    prediction_type: str = "epsilon"  # "epsilon" | "v_prediction"
    timestep_spacing: str | None = None  # "leading" | "trailing" | "linspace" (Lin et al. 2023, table 2)
    steps_offset: int = 0  # added to the timesteps of "leading"
    clip_sample: bool | None = None  # DDIM clips x_0 to ±clip_sample_range; by default it does
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool | None = None  # DDIM ends at alpha_bar 1, as by default, or at alpha_bar_0
    final_sigmas_type: str = "zero"  # Euler and DPM-Solver++ end at 0, or at timestep 0 ("sigma_min")
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)  # settings that nothing here reads

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={value!r} is not supported; choose one of {choices}")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"{len(self.trained_betas)} trained_betas, {self.num_train_timesteps} timesteps")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Schedule":
        """The schedule of a diffusers scheduler config.

        Raises:
          ValueError: naming the setting, if it asks for what the samplers here do not do.
        """
        if config.get("_class_name", "").startswith(("FlowMatch", "EDM")):
            raise ValueError(f"{config['_class_name']} is not supported: its noise does not come from betas")
        silent = ("_use_default_values", *config.get("_use_default_values", ()))
        given = {name: value for name, value in config.items() if name not in silent}
        for name, values in _FIXED.items():
            if name in given and given[name] not in values:
                raise ValueError(f"{name}={given[name]!r} is not supported; set it to {values[0]!r}")
        read = {f.name for f in fields(cls)} - {"others"}
        own = {name: value for name, value in given.items() if name in read and value is not None}
        if "trained_betas" in own:
            own["trained_betas"] = tuple(own["trained_betas"])
        return cls(**own, others={name: value for name, value in given.items() if name not in read})

    def to_config(self) -> dict[str, Any]:
        """The config that `from_config` reads as this schedule; settings at their default are left out."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {"_class_name": "DDIMScheduler", **own.pop("others"), **own}

    @cached_property
    def alphas_cumprod(self) -> Float[np.ndarray, " T"]:
        """alpha_bar, float64, falling; its last entry is exactly 0 if `rescale_betas_zero_snr`."""
        alpha_bar = np.cumprod(1 - self._betas())
        if self.rescale_betas_zero_snr:
            alpha = np.sqrt(alpha_bar)
            alpha_bar = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2
        return alpha_bar

    def _betas(self) -> Float[np.ndarray, " T"]:
        if self.trained_betas is not None:
            return np.asarray(self.trained_betas, np.float64)
        if self.beta_schedule == "linear":
            return np.linspace(self.beta_start, self.beta_end, self.num_train_timesteps)
        if self.beta_schedule == "scaled_linear":
            return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps) ** 2
        # Nichol and Dhariwal 2021, eq. 17, with betas of at most 0.999.
        time = np.arange(self.num_train_timesteps + 1) / self.num_train_timesteps
        alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)

    def add_noise(
        self,
        clean: Float[Array, "b *shape"],
        noise: Float[Array, "b *shape"],
        timesteps: Int[Array, " b"],
    ) -> Float[Array, "b *shape"]:
        """x_t of clean samples: alpha_t clean + sigma_t noise. A timestep past the last one gives NaN."""
        alpha, sigma = self._alpha_sigma(timesteps, clean.ndim)
        return alpha * clean + sigma * noise

    def target(
        self,
        clean: Float[Array, "b *shape"],
        noise: Float[Array, "b *shape"],
        timesteps: Int[Array, " b"],
    ) -> Float[Array, "b *shape"]:
        """What the network is trained to predict at x_t: the noise, or v = alpha_t noise - sigma_t clean."""
        if self.prediction_type == "epsilon":
            return noise
        alpha, sigma = self._alpha_sigma(timesteps, clean.ndim)
        return alpha * noise - sigma * clean

    def _alpha_sigma(self, timesteps: Int[Array, " b"], ndim: int) -> tuple[Array, Array]:
        """alpha_t and sigma_t, float32, each [b, 1, ...] of `ndim` axes."""
        tables = np.sqrt(self.alphas_cumprod), np.sqrt(1 - self.alphas_cumprod)
        column = (-1, *(1,) * (ndim - 1))
        alpha, sigma = (jnp.take(jnp.asarray(t, jnp.float32), timesteps).reshape(column) for t in tables)
        return alpha, sigma
