"""Reading and writing diffusers' `scheduler_config.json` as the fields of a frozen dataclass.

Every noise process is such a dataclass. Its fields are the settings that this package uses. The settings that only
diffusers uses are kept as one JSON text, `unread`, so that a saved model still has them. A string, unlike a dict, is
immutable and hashable: processes are static arguments of `jax.jit`. `BetaSchedule` holds the settings of the many
scheduler classes whose noise comes from betas.
"""

import json
import math
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any

import msgspec
import numpy as np
from absl import logging
from jaxtyping import Float
from msgspec import Meta

from rewardedit_jax.diffusion.sampler_settings import DDPM_SETTINGS, OTHER_METHODS

# Scheduler classes of diffusers whose noise comes from the settings of `BetaSchedule` alone. CogVideoX's classes are
# missing: they also shift the signal-to-noise ratio.
CLASSES = (
    "DDIMScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "RePaintScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)

# Infinity is outside of both, too.
_Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]

_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction"),
}


def read_settings(
    process: type, config: Mapping[str, Any], classes: tuple[str, ...], others: Collection[str]
) -> dict[str, Any]:
    """Keyword arguments of the dataclass `process` for a diffusers scheduler config.

    Args:
      process: a dataclass with a field `unread` and otherwise the names of diffusers' settings.
      config: the content of `scheduler_config.json`. A setting that is null or absent has its default.
      classes: scheduler classes whose configs `process` can represent.
      others: further settings of these classes. Any other setting gives a warning.
    Raises:
      ValueError: for another scheduler class, or a setting of another type or out of range.
    """
    given = _given_settings(config)
    class_name = given.pop("_class_name", classes[0])
    if class_name not in classes:
        raise ValueError(
            f"`_class_name={class_name!r}` is not supported: expected a class of the same noise process as {classes[0]}"
        )
    if class_name != classes[0]:
        given["_class_name"] = class_name  # kept among `unread`; `write_settings` adds the first class by itself

    types = {field.name: field.type for field in fields(process) if field.name != "unread"}
    known = {name: value for name, value in given.items() if name in types and value is not None}
    settings = {name: _converted(name, value, types[name]) for name, value in known.items()}
    unread = {name: value for name, value in given.items() if name not in types}
    unknown = [f"`{name}`" for name in unread if name not in others and not name.startswith("_")]
    if unknown:
        logging.warning("scheduler_config.json: unknown settings, which change nothing: %s", ", ".join(unknown))
    # Sorted keys: two files with the same settings give equal processes, whatever their order.
    return {**settings, "unread": json.dumps(unread, sort_keys=True)}


def write_settings(process: Any, class_name: str) -> dict[str, Any]:
    """The config that `read_settings` reads as `process`. Settings at their default are left out.

    Args:
      process: an instance of the dataclass.
      class_name: the class to name unless the file that `process` was read from had another one.
    """
    changed = {f.name: getattr(process, f.name) for f in fields(process) if getattr(process, f.name) != f.default}
    changed.pop("unread", None)
    return {"_class_name": class_name, **json.loads(process.unread), **changed}


def check_choices(settings: Mapping[str, Any], choices: Mapping[str, tuple]) -> None:
    """Raise ValueError for a setting whose value is not among its `choices`. Absent settings pass."""
    for name, values in choices.items():
        if name in settings and settings[name] not in values:
            expected = " or ".join(map(repr, values))
            raise ValueError(f"`{name}={settings[name]!r}` is not supported: expected {expected}")


def _given_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config without those that the class which wrote it filled in with its own defaults.

    diffusers lists these under `_use_default_values`, and `ConfigMixin.from_config` ignores them likewise: another
    class may have other defaults.
    """
    listed = config.get("_use_default_values")
    ignored = ["_use_default_values", *(listed if isinstance(listed, list) else [])]
    return {name: value for name, value in config.items() if name not in ignored}


def convert_fields(process: Any) -> None:
    """Give each field of a frozen dataclass its annotated type, e.g. whole numbers of NumPy Python's.

    Raises:
      ValueError: for a value of another type or out of range.
    """
    for field in fields(process):
        value = _converted(field.name, getattr(process, field.name), field.type)
        object.__setattr__(process, field.name, value)


def _converted(name: str, value: Any, type_: Any) -> Any:
    """The value as `type_`: JSON has lists for tuples, and may write 3.0 as 3. NaN is outside of every range."""
    try:
        return msgspec.convert(msgspec.to_builtins(value, enc_hook=lambda array: array.tolist()), type_)
    except msgspec.ValidationError as error:
        reason = str(error)
        # Shortened: `trained_betas` has a thousand values.
        raise ValueError(f"`{name}={reprlib.repr(value)}`: {reason[0].lower()}{reason[1:]}") from error


@dataclass(frozen=True)
class BetaSchedule:
    """Settings of a diffusers scheduler whose noise comes from betas, whichever of its classes wrote them.

    The defaults are those of diffusers' classes. Where these differ, the default is None, and each sampler takes the
    default of its own diffusers class, as `from_config` of that class does.
    """

    num_train_timesteps: Annotated[int, Meta(ge=1, le=2**24)] = 1000  # T; float32 has no larger whole numbers
    beta_start: _Fraction = 0.0001
    beta_end: _Fraction = 0.02
    beta_schedule: str = "linear"  # "linear" | "scaled_linear" (linear in sqrt(beta)) | "squaredcos_cap_v2"
    trained_betas: tuple[_Fraction, ...] | None = None  # T betas that replace the three settings above
    rescale_betas_zero_snr: bool = False  # no signal at the last timestep (Lin et al. 2023, algorithm 1)
    prediction_type: str = "epsilon"  # "epsilon" | "v_prediction"

    # The samplers that read a setting, and the values that they support, are those of `sampler_settings`.
    timestep_spacing: str | None = None  # "leading" | "trailing" | "linspace" (Lin et al. 2023, table 2)
    steps_offset: Annotated[int, Meta(ge=0)] = 0  # added to the timesteps of "leading"
    clip_sample: bool | None = None  # whether DDIM clips x_0 to ±clip_sample_range; None: yes
    clip_sample_range: Positive = 1.0
    set_alpha_to_one: bool | None = None  # DDIM ends at alpha_bar 1 if True or None, at alpha_bar_0 if False
    thresholding: bool = False  # x_0 is clipped to a quantile of its magnitude (Saharia et al. 2022, section 2.3)
    dynamic_thresholding_ratio: _Fraction = 0.995  # which quantile
    sample_max_value: Positive = 1.0  # its upper bound; the lower one is 1
    final_sigmas_type: str = "zero"  # Euler and DPM-Solver++ end at sigma 0 ("zero") or at timestep 0 ("sigma_min")
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_lu_lambdas: bool = False  # equal steps in log sigma, from the last timestep to the first
    sigma_min: Positive | None = None  # the lowest of Karras, exponential or beta sigmas; None: the schedule's
    sigma_max: Positive | None = None
    timestep_type: str = "discrete"  # "continuous": with v, the network's time is log(sigma) / 4
    solver_order: int = 2
    solver_type: str | None = None  # "midpoint" | "heun"; None: midpoint
    lower_order_final: bool | None = None  # the last of less than 15 steps is of the first order; None: yes
    euler_at_final: bool = False  # the last step is of the first order
    lambda_min_clipped: Annotated[float, Meta(le=100)] = -math.inf  # the lowest log(alpha / sigma) of a timestep
    unread: str = "{}"  # JSON text of the other settings of the file, written back by `to_config`

    def __post_init__(self):
        convert_fields(self)
        check_choices(vars(self), _CHOICES)
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"`trained_betas` has {len(self.trained_betas)} values: expected one for each of the "
                f"`num_train_timesteps={self.num_train_timesteps}`"
            )
        # The cosine schedule and `trained_betas` do not use the two.
        unused = self.trained_betas is not None or self.beta_schedule == "squaredcos_cap_v2"
        if not (unused or self.beta_start <= self.beta_end > 0):
            raise ValueError(
                f"`beta_end={self.beta_end}`: expected more than 0, and at least `beta_start={self.beta_start}`"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "BetaSchedule":
        """The schedule that a diffusers `scheduler_config.json` describes.

        Raises:
          ValueError: for a scheduler class without betas, or a setting of another type or out of range.
        """
        return cls(**read_settings(cls, config, CLASSES, (*DDPM_SETTINGS, *OTHER_METHODS)))

    def to_config(self) -> dict[str, Any]:
        """The config that `from_config` reads as this schedule. Settings at their default are left out."""
        return write_settings(self, CLASSES[0])

    @cached_property
    def alphas_cumprod(self) -> Float[np.ndarray, " T"]:
        """alpha_bar_t = prod_{s≤t} (1 - beta_s), float64. Exactly 0 at the end if `rescale_betas_zero_snr`."""
        alpha_bar = np.cumprod(1 - self._betas())
        if self.rescale_betas_zero_snr:
            # Lin et al. 2023, algorithm 1: shift sqrt(alpha_bar) to end at 0, scale it to keep its first value.
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
        # Nichol & Dhariwal 2021, eq. 17, with betas of at most 0.999.
        time = np.arange(self.num_train_timesteps + 1) / self.num_train_timesteps
        alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
