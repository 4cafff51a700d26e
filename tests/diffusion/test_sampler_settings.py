"""Settings of a scheduler file that a sampler reads, ignores or refuses."""

import inspect
import re
import warnings
from dataclasses import fields

import jax
import numpy as np
import pytest
from scheduler_files import STABLE_DIFFUSION

from rewardedit_jax.diffusion.ddpm import DDPM
from rewardedit_jax.diffusion.noise_levels import respaced
from rewardedit_jax.diffusion.sampler_settings import DDPM_SETTINGS, OTHER_METHODS, IgnoredSettingWarning
from rewardedit_jax.diffusion.samplers import SAMPLERS
from rewardedit_jax.diffusion.scheduler_config import CLASSES

IGNORED = [
    ("ddim", {"use_karras_sigmas": True, "sigma_min": 0.1, "solver_order": 3}),
    ("ddim", {"final_sigmas_type": "sigma_min", "lower_order_final": False, "timestep_type": "continuous"}),
    ("euler", {"clip_sample": True, "thresholding": True, "use_lu_lambdas": True, "solver_type": "heun"}),
    (
        "euler_ancestral",
        {"use_karras_sigmas": True, "use_exponential_sigmas": True, "interpolation_type": "log_linear"},
    ),
    ("euler_ancestral", {"algorithm_type": "sde-dpmsolver++", "variance_type": "learned_range"}),
    ("dpmpp_2m", {"solver_order": 3, "clip_sample": True, "interpolation_type": "log_linear"}),
]
REFUSED = [
    ("euler", "interpolation_type", "log_linear"),
    ("euler", "final_sigmas_type", "mean"),
    ("dpmpp_2m", "algorithm_type", "sde-dpmsolver++"),
    ("dpmpp_2m", "solver_type", "rk4"),
    ("dpmpp_2m", "use_flow_sigmas", True),
    ("dpmpp_2m", "variance_type", "learned_range"),
]


@pytest.mark.parametrize(("sampler", "settings"), IGNORED)
def test_ignored_settings_warn_once_and_change_nothing(sampler, settings):
    plain, process = (DDPM.from_config(STABLE_DIFFUSION | given) for given in ({}, settings))
    with pytest.warns(IgnoredSettingWarning) as caught:
        process.check_sampler(sampler, 5)
    assert len(caught) == 1
    for name, value in settings.items():
        assert f"`{name}={value!r}`" in str(caught[0].message)
    expected, found = plain.sampler_table(sampler, 5), process.sampler_table(sampler, 5)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(("sampler", "name", "value"), REFUSED)
def test_unsupported_settings_are_refused_by_the_samplers_that_read_them_alone(sampler, name, value):
    process = DDPM.from_config(STABLE_DIFFUSION | {name: value})
    readers = DDPM_SETTINGS[name].readers
    for method in (process.check_sampler, process.sampler_table):
        with pytest.raises(ValueError, match=re.escape(f"`{name}={value!r}`") + f".*'{sampler}'.*ddim"):
            method(sampler, 5)
    for other in set(SAMPLERS) - set(readers):
        process.sampler_table(other, 5)


def test_a_spacing_that_no_sampler_has_is_refused_by_all():
    process = DDPM.from_config({"timestep_spacing": "quadratic"})
    for sampler in SAMPLERS:
        with pytest.raises(ValueError, match="timestep_spacing='quadratic'"):
            process.sampler_table(sampler, 5)


@pytest.mark.parametrize(
    "settings", [{}, {"use_flow_sigmas": None, "variance_type": "fixed_small", "solver_type": "bh2"}]
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_settings_that_ask_for_nothing_do_not_warn(sampler, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDPM.from_config(STABLE_DIFFUSION | settings).check_sampler(sampler, 5)


def test_two_kinds_of_noise_levels_are_refused():
    process = DDPM(use_karras_sigmas=True, use_beta_sigmas=True)
    for sampler in ("euler", "dpmpp_2m"):
        with pytest.raises(ValueError, match=r"`use_karras_sigmas`.*`use_beta_sigmas`"):
            process.sampler_table(sampler, 5)
    process.sampler_table("ddim", 5)


@pytest.mark.parametrize("kind", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_noise_levels_fall_from_the_first_to_the_last(kind):
    process = DDPM(**{kind: True})
    sigmas = respaced(process, 10.0, 0.1, 9)
    np.testing.assert_allclose(sigmas[[0, -1]], [10, 0.1])
    assert (np.diff(sigmas) < 0).all()
    np.testing.assert_allclose(respaced(process, 10.0, 0.1, 1), [10])
    with pytest.raises(ValueError, match=r"`sigma_max`.*`sigma_min`"):
        DDPM(**{kind: True}, sigma_max=0.001).sampler_table("euler", 5)


@pytest.mark.oracle
def test_the_table_has_the_settings_of_diffusers_classes():
    """Every setting of a scheduler class is known, and a sampler reads those of its own class."""
    diffusers = pytest.importorskip("diffusers")

    def settings(name: str) -> set[str]:
        return set(inspect.signature(getattr(diffusers, name).__init__).parameters) - {"self", "args", "kwargs"}

    known = {field.name for field in fields(DDPM)} | {*DDPM_SETTINGS, *OTHER_METHODS}
    assert set().union(*map(settings, CLASSES)) <= known
    classes = (
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
    )
    read = dict(zip(SAMPLERS, map(settings, classes), strict=True))
    for name, setting in DDPM_SETTINGS.items():
        readers = {sampler for sampler in SAMPLERS if name in read[sampler]}
        # DPM-Solver++ reads them from the config of another class (`_convert_to_karras`).
        readers |= {"dpmpp_2m"} if name in ("sigma_min", "sigma_max") else set()
        assert set(setting.readers) == readers, name
