"""Noise processes from scheduler configs, and what all of them have in common."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.diffusion.ddpm import DDPM
from rewardedit_jax.diffusion.flow_matching import FlowMatching
from rewardedit_jax.diffusion.process import NoiseProcess, process_from_config

SHAPE = (4, 6, 6, 3)
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.36.0", "shift": 3, "max_shift": None}
CONFIGS = {
    "ddpm": {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "skip_prk_steps": True},
    "ddpm_v": {"prediction_type": "v_prediction"},
    "flow": FLOW,
    "flow_dynamic": FLOW | {"use_dynamic_shifting": True, "shift_terminal": 0.02, "time_sampling": "shifted"},
}


@pytest.fixture(params=CONFIGS)
def config(request) -> dict:
    return CONFIGS[request.param]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DDPMScheduler", DDPM),
        ("DDIMScheduler", DDPM),
        ("PNDMScheduler", DDPM),
        ("EulerDiscreteScheduler", DDPM),
        ("EulerAncestralDiscreteScheduler", DDPM),
        ("DPMSolverMultistepScheduler", DDPM),
        ("FlowMatchEulerDiscreteScheduler", FlowMatching),
    ],
)
def test_the_class_name_selects_the_process(name, kind):
    assert type(process_from_config({"_class_name": name})) is kind


def test_a_config_without_a_class_name_is_a_ddpm():
    assert process_from_config({"beta_end": 0.01}) == DDPM(beta_end=0.01)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchHeunDiscreteScheduler", "CogVideoXDDIMScheduler"])
def test_other_scheduler_classes_are_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        process_from_config({"_class_name": name})


def test_processes_fulfil_the_protocol(config):
    assert isinstance(process_from_config(config), NoiseProcess)


def test_equal_configs_give_equal_processes_and_no_second_compilation(config):
    traces = 0

    @partial(jax.jit, static_argnames="process")
    def noisy(process, clean, noise, times):
        nonlocal traces
        traces += 1
        return process.add_noise(clean, noise, times)

    clean, noise = jnp.zeros(SHAPE), jnp.ones(SHAPE)
    for text in (json.dumps(config), json.dumps(config, sort_keys=True)):
        process = process_from_config(json.loads(text))
        noisy(process, clean, noise, process.sample_times(jax.random.key(0), SHAPE))
    assert traces == 1
    assert process_from_config(config | {"unknown_setting": [1, {"a": 2}]}) != process


def test_unknown_settings_are_logged(config, monkeypatch):
    lines = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: lines.append(text % values))
    process_from_config(config)
    assert not lines
    process_from_config(config | {"use_karras_sigma": True, "_diffusers_version": "0.36.0"})
    assert len(lines) == 1
    assert "`use_karras_sigma`" in lines[0]


def test_settings_of_samplers_do_not_change_training(config):
    process = process_from_config(config)
    settings = {"use_karras_sigmas": True, "invert_sigmas": True, "algorithm_type": "sde-dpmsolver++"}
    other = process_from_config(config | settings)
    rng = jax.random.key(0)
    times = process.sample_times(rng, SHAPE)
    np.testing.assert_array_equal(other.sample_times(rng, SHAPE), times)
    clean, noise = jax.random.normal(rng, (2, *SHAPE))
    for method in ("add_noise", "target"):
        theirs, ours = (getattr(p, method)(clean, noise, times) for p in (process, other))
        np.testing.assert_array_equal(ours, theirs)


def test_configs_round_trip(config):
    config = config | {"unknown_setting": [1, {"a": 2}]}
    process = process_from_config(config)
    written = process.to_config()
    again = process_from_config(json.loads(json.dumps(written)))
    assert (again, hash(again), again.to_config()) == (process, hash(process), written)
    assert written["unknown_setting"] == config["unknown_setting"]


def test_training_times_have_one_value_per_sample_and_target_the_shape_of_latents(config):
    process = process_from_config(config)
    clean, noise = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    times = process.sample_times(jax.random.key(0), SHAPE)
    assert times.shape == SHAPE[:1]
    assert len(set(times.tolist())) > 1
    for latents in (process.add_noise(clean, noise, times), process.target(clean, noise, times)):
        assert latents.shape == SHAPE
        assert np.isfinite(latents).all()


def test_every_sampler_of_a_process_has_a_table(config):
    process = process_from_config(config)
    for sampler in process.samplers:
        table = process.sampler_table(sampler, 3, SHAPE)
        assert table.steps.timestep.shape == (3,)
        assert (np.diff(table.steps.timestep) < 0).all()


def test_an_unfit_sampler_is_refused_with_the_names_that_fit(config):
    process = process_from_config(config)
    for sampler in {"ddim", "heun"} - set(process.samplers):
        with pytest.raises(ValueError, match=rf"{sampler}.*{', '.join(process.samplers)}"):
            process.sampler_table(sampler, 3, SHAPE)
