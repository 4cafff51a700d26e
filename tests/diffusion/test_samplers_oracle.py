"""Whole trajectories against diffusers' schedulers, with a synthetic network and equal noise."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from scheduler_files import STABLE_DIFFUSION

from rewardedit_jax.diffusion.ddpm import DDPM
from rewardedit_jax.diffusion.samplers import sample
from rewardedit_jax.diffusion.scheduler_config import CLASSES as BETA_CLASSES

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

CLASSES = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
}
SHAPE = (2, 4, 4, 4)


def network(lib, x, t):
    """A bounded output that depends on the sample and the timestep."""
    return lib.tanh(0.7 * x + t * 0.001 - 0.4)


def theirs(name, config, steps, latents, noise, monkeypatch):
    """Timesteps and latents after every step of the scheduler's own pipeline loop."""
    scheduler = getattr(diffusers, CLASSES[name]).from_config(config)
    scheduler.set_timesteps(steps)
    if name == "euler_ancestral":
        draws = iter(torch.from_numpy(noise))
        module = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
        monkeypatch.setattr(module, lambda *_, **__: next(draws))
    x, trajectory = torch.from_numpy(latents) * scheduler.init_noise_sigma, []
    for t in scheduler.timesteps:
        output = network(torch, scheduler.scale_model_input(x, t), t.float())
        x = scheduler.step(output, t, x, return_dict=False)[0]
        trajectory.append(x.numpy())
    return scheduler.timesteps.numpy(), np.stack(trajectory)


def compare(name, config, steps, monkeypatch):
    """Asserts equal timesteps and equal trajectories, to float32 precision of the largest latent."""
    rng = np.random.default_rng(steps)
    latents = rng.standard_normal(SHAPE, np.float32)
    noise = rng.standard_normal((steps, *SHAPE), np.float32)
    timesteps, expected = theirs(name, config, steps, latents, noise, monkeypatch)

    table = DDPM.from_config(config).sampler_table(name, steps)
    final, trajectory = sample(
        lambda x, t: network(jnp, x, t),
        table,
        jnp.asarray(latents),
        noise=jnp.asarray(noise),
        keep_trajectory=True,
    )
    np.testing.assert_allclose(table.steps.timestep, timesteps, rtol=0, atol=1e-4)
    scale = max(1.0, table.initial_scale, np.abs(expected).max())
    np.testing.assert_allclose(trajectory, expected, rtol=0, atol=2e-6 * scale)
    np.testing.assert_array_equal(final, trajectory[-1])


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 14, 15, 30])
def test_follows_diffusers_on_the_file_of_stable_diffusion(name, steps, monkeypatch):
    compare(name, STABLE_DIFFUSION, steps, monkeypatch)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 15])
def test_follows_diffusers_with_each_spacing_and_prediction(name, spacing, prediction, steps, monkeypatch):
    config = STABLE_DIFFUSION | {"timestep_spacing": spacing, "prediction_type": prediction}
    compare(name, config, steps, monkeypatch)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    "config",
    [
        {},  # every class on its defaults; DDIM clips and ends at alpha_bar 1
        {"prediction_type": "v_prediction", "clip_sample_range": 0.5},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample": False},
        {"num_train_timesteps": 50, "trained_betas": list(np.linspace(0.001, 0.2, 50)), "clip_sample": False},
        STABLE_DIFFUSION | {"final_sigmas_type": "sigma_min", "set_alpha_to_one": True},
        STABLE_DIFFUSION
        | {
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
        },
    ],
    ids=["defaults", "clip", "cosine", "trained_betas", "sigma_min", "zero_snr"],
)
@pytest.mark.parametrize("steps", [14, 15])  # where the last step of DPM-Solver++ changes its order
def test_follows_diffusers_on_other_settings(name, config, steps, monkeypatch):
    compare(name, config, steps, monkeypatch)


@pytest.mark.parametrize("name", CLASSES)
def test_diffusers_reads_our_config(name):
    process = DDPM.from_config(STABLE_DIFFUSION | {"prediction_type": "v_prediction"})
    scheduler = getattr(diffusers, CLASSES[name]).from_config(process.to_config())
    assert scheduler.config.prediction_type == "v_prediction"
    np.testing.assert_allclose(scheduler.alphas_cumprod, process.alphas_cumprod, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_add_noise_and_target_follow_diffusers(prediction):
    config = STABLE_DIFFUSION | {"prediction_type": prediction}
    theirs, ours = diffusers.DDIMScheduler.from_config(config), DDPM.from_config(config)
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, *SHAPE), np.float32)
    timesteps = np.array([3, 999])
    arrays = [torch.from_numpy(x) for x in (clean, noise, timesteps)]
    target = arrays[1] if prediction == "epsilon" else theirs.get_velocity(*arrays)
    ours_arrays = [jnp.asarray(x) for x in (clean, noise, timesteps)]
    np.testing.assert_allclose(ours.add_noise(*ours_arrays), theirs.add_noise(*arrays), atol=1e-5)
    np.testing.assert_allclose(ours.target(*ours_arrays), target, atol=1e-5)


@pytest.mark.parametrize("name", BETA_CLASSES)
def test_accepted_scheduler_classes_have_betas(name):
    settings = set(inspect.signature(getattr(diffusers, name).__init__).parameters)
    if settings == {"self", "args", "kwargs"}:
        pytest.skip(f"diffusers offers {name} only together with another package")
    assert {"beta_schedule", "trained_betas"} <= settings
