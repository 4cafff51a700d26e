"""Noise levels that scheduler files ask for, and the settings of DPM-Solver++, against diffusers' schedulers."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest
from scheduler_files import STABLE_DIFFUSION

from rewardedit_jax.diffusion.ddpm import DDPM
from rewardedit_jax.diffusion.flow_matching import FLOW_MATCHING_CLASS, FlowMatching
from rewardedit_jax.diffusion.samplers import SamplerTable, sample

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

CLASSES = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
}
STEPS = (1, 4, 15, 50)
SPACINGS = ("leading", "trailing", "linspace")
TOLERANCE = 1e-5  # of the largest latent: diffusers computes alpha_bar in float32
SHAPE = (2, 4, 4, 4)


def network(lib, x, t):
    """A bounded output that depends on the sample and the timestep."""
    return lib.tanh(0.7 * x + t * 0.001 - 0.4)


def theirs(scheduler, latents):
    """Latents after every step of the scheduler's own pipeline loop."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else DPM-Solver++ begins at the second of two equal timesteps
    x, trajectory = torch.from_numpy(latents) * getattr(scheduler, "init_noise_sigma", 1.0), []
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(torch, scaled, t.float()), t, x, return_dict=False)[0]
        trajectory.append(x.numpy())
    return np.stack(trajectory)


def ours(table: SamplerTable, latents):
    """`sample` without its compilation, which takes longer than all of these tests."""
    x, before, trajectory = table.initial_scale * latents, 0, []
    for i, t in enumerate(table.steps.timestep):
        step = {name: column[i] for name, column in vars(table.steps).items()}
        out = network(np, step["input_scale"] * x, t)
        x0 = step["x0_from_x"] * x + step["x0_from_output"] * out
        x = step["keep"] * x + step["output"] * out + step["new"] * x0 + step["previous"] * before
        before = x0
        trajectory.append(x)
    return np.stack(trajectory)


def compare(name, settings, steps):
    """Asserts equal timesteps and equal trajectories."""
    config = STABLE_DIFFUSION | settings
    scheduler = getattr(diffusers, CLASSES[name]).from_config(config)
    scheduler.set_timesteps(steps)
    table = DDPM.from_config(config).sampler_table(name, steps)
    latents = np.random.default_rng(steps).standard_normal(SHAPE, np.float32)
    expected = theirs(scheduler, latents)
    # DPM-Solver++ has whole timesteps. Those of Euler come from logarithms of sigma, which diffusers has in float32.
    atol = 0 if name == "dpmpp_2m" else 2e-3
    np.testing.assert_allclose(table.steps.timestep, scheduler.timesteps, rtol=0, atol=atol, err_msg=str(config))
    scale = max(1, table.initial_scale, np.abs(expected).max())
    found = ours(table, latents)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale, err_msg=f"{steps}: {config}")


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("levels", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_noise_levels_follow_diffusers(name, levels, final):
    for spacing, prediction, steps in product(SPACINGS, ("epsilon", "v_prediction"), STEPS):
        settings = {"timestep_spacing": spacing, "prediction_type": prediction, "final_sigmas_type": final}
        compare(name, {levels: True, **settings}, steps)


@pytest.mark.parametrize("levels", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize(
    "settings",
    [
        {"sigma_min": 0.05, "sigma_max": 12.0},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    ],
    ids=["range", "cosine", "zero_snr"],
)
def test_noise_levels_of_other_schedules_follow_diffusers(settings, name, levels):
    for steps in (1, 4, 20):
        compare(name, {levels: True, **settings}, steps)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver_order": 1},
        {"solver_type": "heun"},
        {"solver_type": "heun", "use_karras_sigmas": True},
        {"lower_order_final": False},
        {"euler_at_final": True},
        {"lower_order_final": False, "euler_at_final": True},
        {"lambda_min_clipped": -2.0},
        {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"},
    ],
    ids=str,
)
def test_settings_of_dpm_solver_follow_diffusers(settings):
    for spacing, final, steps in product(("leading", "linspace"), ("zero", "sigma_min"), (1, 2, 14, 15, 20)):
        if steps < 15 or "use_karras_sigmas" not in settings:  # there diffusers divides 0 by 0 in the last step
            compare("dpmpp_2m", {**settings, "timestep_spacing": spacing, "final_sigmas_type": final}, steps)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_continuous_timesteps_follow_diffusers(prediction):
    """Only networks that predict v have them in diffusers."""
    for steps in (1, 5, 20):
        compare("euler", {"timestep_type": "continuous", "prediction_type": prediction}, steps)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("settings", [{}, {"sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.8}], ids=str)
def test_dynamic_thresholding_follows_diffusers(settings, name):
    config = STABLE_DIFFUSION | {"thresholding": True, **settings}
    scheduler = getattr(diffusers, CLASSES[name]).from_config(config)
    scheduler.set_timesteps(5)
    latents = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    expected = theirs(scheduler, latents)
    table = DDPM.from_config(config).sampler_table(name, 5)
    args = (lambda x, t: network(jnp, x, t)), table, jnp.asarray(latents)
    np.testing.assert_allclose(sample(*args, keep_trajectory=True)[1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_noise_levels_of_flow_matching_follow_diffusers(levels):
    for settings, steps in product(({"shift": 3.0}, {"shift": 3.0, "shift_terminal": 0.1}), (2, 5, 30)):
        config = {"_class_name": FLOW_MATCHING_CLASS, levels: True, **settings}
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
        scheduler.set_timesteps(steps)
        latents = np.random.default_rng(steps).standard_normal(SHAPE, np.float32)
        table = FlowMatching.from_config(config).sampler_table("euler", steps)
        np.testing.assert_allclose(table.steps.timestep, scheduler.timesteps, rtol=1e-6)
        np.testing.assert_allclose(ours(table, latents), theirs(scheduler, latents), rtol=0, atol=1e-5)


def test_stochastic_flow_matching_follows_diffusers(monkeypatch):
    config = {"_class_name": FLOW_MATCHING_CLASS, "shift": 3.0, "stochastic_sampling": True}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(4)
    latents, *noise = np.random.default_rng(0).standard_normal((5, *SHAPE), np.float32)
    draws = iter(noise)
    module = "diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor"
    monkeypatch.setattr(module, lambda *_, **__: torch.from_numpy(next(draws)))
    table = FlowMatching.from_config(config).sampler_table("euler", 4)
    args = (lambda x, t: network(jnp, x, t)), table, jnp.asarray(latents)
    _, found = sample(*args, noise=jnp.asarray(np.stack(noise)), keep_trajectory=True)
    np.testing.assert_allclose(found, theirs(scheduler, latents), rtol=0, atol=1e-5)
