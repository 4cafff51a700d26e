"""Which samplers read which settings of a `scheduler_config.json`.

A file has the settings of one scheduler class of diffusers, and may be sampled by any other. A sampler here reads what
its class in diffusers reads:

    ddim             DDIMScheduler
    euler            EulerDiscreteScheduler, and FlowMatchEulerDiscreteScheduler for flow matching
    euler_ancestral  EulerAncestralDiscreteScheduler
    dpmpp_2m         DPMSolverMultistepScheduler

A setting that a sampler reads but does not implement is an error of that sampler alone. A setting that it does not read
gives a warning. Training and loading read none of them.
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from rewardedit_jax.diffusion.samplers import SAMPLERS


class SamplerSetting(NamedTuple):
    """A setting that some samplers read and the others ignore. A setting that is null counts as absent."""

    readers: tuple[str, ...]
    neutral: tuple  # values that ask for nothing: no warning of samplers that do not read them
    supported: tuple | None = None  # values that the readers implement; None: all
    required: bool = True  # whether readers refuse the other values; False: they ignore them, with a warning


class IgnoredSettingWarning(UserWarning):
    """A setting of a scheduler file changes nothing."""


_SPACINGS = ("leading", "trailing", "linspace")
_SIGMAS = ("euler", "dpmpp_2m")  # the samplers that may replace the noise levels of the timesteps
_DPM = ("dpmpp_2m",)
_OFF = (False,)
# "deis", "logrho", "bh1" and "bh2" come from files of DEIS and UniPC. diffusers' DPMSolverMultistepScheduler replaces
# them by its own "dpmsolver++" and "midpoint".
_ALGORITHMS = ("dpmsolver++", "deis")
_MIDPOINT = ("midpoint", "logrho", "bh1", "bh2")
_FIXED_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")

DDPM_SETTINGS = {
    "timestep_spacing": SamplerSetting(SAMPLERS, _SPACINGS, _SPACINGS),
    "clip_sample": SamplerSetting(("ddim",), _OFF),
    "thresholding": SamplerSetting(("ddim", "dpmpp_2m"), _OFF),
    "final_sigmas_type": SamplerSetting(_SIGMAS, ("zero",), ("zero", "sigma_min")),
    "use_karras_sigmas": SamplerSetting(_SIGMAS, _OFF),
    "use_exponential_sigmas": SamplerSetting(_SIGMAS, _OFF),
    "use_beta_sigmas": SamplerSetting(_SIGMAS, _OFF),
    "use_lu_lambdas": SamplerSetting(_DPM, _OFF),
    "use_flow_sigmas": SamplerSetting(_DPM, _OFF, _OFF),
    "sigma_min": SamplerSetting(_SIGMAS, ()),
    "sigma_max": SamplerSetting(_SIGMAS, ()),
    "interpolation_type": SamplerSetting(("euler",), ("linear",), ("linear",)),
    "timestep_type": SamplerSetting(("euler",), ("discrete",), ("discrete", "continuous")),
    "algorithm_type": SamplerSetting(_DPM, _ALGORITHMS, _ALGORITHMS),
    # The name of the sampler promises at most the second order; the third solves the same equation more closely.
    "solver_order": SamplerSetting(_DPM, (2,), (1, 2), required=False),
    "solver_type": SamplerSetting(_DPM, _MIDPOINT, (*_MIDPOINT, "heun")),
    "lower_order_final": SamplerSetting(_DPM, (True,)),
    "euler_at_final": SamplerSetting(_DPM, _OFF),
    "lambda_min_clipped": SamplerSetting(_DPM, (-math.inf,)),
    "variance_type": SamplerSetting(_DPM, _FIXED_VARIANCES, _FIXED_VARIANCES),
}

FLOW_SETTINGS = {"invert_sigmas": SamplerSetting(("euler",), _OFF, _OFF)}

# Settings of other scheduler classes for methods that no sampler here has. SD 1.5's file has `skip_prk_steps`.
OTHER_METHODS = (
    *("corrector_order", "disable_corrector", "eta", "flow_shift", "noise_sampler_seed", "original_inference_steps"),
    *("predict_x0", "predictor_order", "shift_terminal", "skip_prk_steps", "solver_p", "tau_func", "time_shift_type"),
    *("timestep_scaling", "use_dynamic_shifting"),
)


def check_settings(process: Any, table: Mapping[str, SamplerSetting], sampler: str) -> None:
    """Raise ValueError for a setting of the process that `sampler` reads but does not implement."""
    for name, value in _asked(process, table).items():
        setting = table[name]
        if sampler in setting.readers and setting.required and not _implemented(setting, value):
            others = [other for other in process.samplers if other not in setting.readers]
            remedy = f"choose another sampler ({', '.join(others)}) or change the file" if others else "change the file"
            raise ValueError(
                f"`{name}={value!r}` in scheduler_config.json is not supported by the sampler {sampler!r}: "
                f"expected {' or '.join(map(repr, setting.supported))}; {remedy}"
            )


def warn_ignored(process: Any, table: Mapping[str, SamplerSetting], sampler: str) -> None:
    """Warn, in one sentence, of the settings that `sampler` ignores and that ask for something."""
    ignored = []
    for name, value in _asked(process, table).items():
        setting = table[name]
        if sampler not in setting.readers:
            ignored.append(f"`{name}={value!r}` (only for {', '.join(setting.readers)})")
        elif not _implemented(setting, value):
            ignored.append(f"`{name}={value!r}` (expected {' or '.join(map(repr, setting.supported))})")
    if ignored:
        text = f"the sampler {sampler!r} ignores in scheduler_config.json: {', '.join(ignored)}"
        # The caller of `Editor.edit`, which calls the process, which calls this.
        warnings.warn(text, IgnoredSettingWarning, stacklevel=4)


def _asked(process: Any, table: Mapping[str, SamplerSetting]) -> dict[str, Any]:
    """The settings of the table whose value asks for something."""
    given = json.loads(process.unread) | asdict(process)
    values = {name: given[name] for name in table if given.get(name) is not None}
    return {name: value for name, value in values.items() if value not in table[name].neutral}


def _implemented(setting: SamplerSetting, value: Any) -> bool:
    return setting.supported is None or value in setting.supported
