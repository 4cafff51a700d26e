"""Noise levels and whole trajectories against diffusers' `FlowMatchEulerDiscreteScheduler`."""

import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.diffusion.flow_matching import FLOW_MATCHING_CLASS, FlowMatching
from rewardedit_jax.diffusion.samplers import sample

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 8, 8, 4)
STEPS = [1, 4, 30]
QWEN_IMAGE = {"base_shift": 0.5, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}


def network(lib, x, t):
    """A bounded velocity that depends on the sample and the timestep."""
    return lib.tanh(0.7 * x + t * 0.001 - 0.4)


def mu_of(config: dict, shape: tuple[int, ...]) -> float | None:
    """The argument `mu` of `set_timesteps`, as the pipeline of FLUX computes it from 2 × 2 patches."""
    if not config.get("use_dynamic_shifting"):
        return None
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    ranges = [config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)]
    shifts = [config.get("base_shift", 0.5), config.get("max_shift", 1.15)]
    return calculate_shift((shape[1] // 2) * (shape[2] // 2), *ranges, *shifts)


def scheduler_of(config: dict, steps: int, shape: tuple[int, ...]):
    """diffusers' scheduler, ready for `steps` steps. Pipelines pass the sigmas of "trailing" explicitly."""
    config = {"_class_name": FLOW_MATCHING_CLASS} | config
    spacing = config.pop("sigma_spacing", "linspace")
    sigmas = np.linspace(1.0, 1 / steps, steps) if spacing == "trailing" else None
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(None if sigmas is not None else steps, sigmas=sigmas, mu=mu_of(config, shape))
    return scheduler


def compare(config: dict, steps: int, shape: tuple[int, ...] = SHAPE):
    """Asserts equal sigmas, timesteps and trajectories."""
    scheduler = scheduler_of(config, steps, shape)
    latents = np.random.default_rng(steps).standard_normal(shape, np.float32)
    x, expected = torch.from_numpy(latents), []
    for t in scheduler.timesteps:
        x = scheduler.step(network(torch, x, t), t, x, return_dict=False)[0]
        expected.append(x.numpy())

    table = FlowMatching.from_config(config).sampler_table("euler", steps, shape)
    _, trajectory = sample(lambda x, t: network(jnp, x, t), table, jnp.asarray(latents), keep_trajectory=True)
    np.testing.assert_allclose(-table.steps.x0_from_output, scheduler.sigmas[:-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(table.steps.output, np.diff(scheduler.sigmas), rtol=0, atol=1e-6)
    np.testing.assert_allclose(table.steps.timestep, scheduler.timesteps, rtol=1e-6)
    np.testing.assert_allclose(trajectory, np.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_static_shift(spacing, shift, steps):
    compare({"shift": shift, "sigma_spacing": spacing}, steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shape", [(1, 8, 8, 4), (2, 32, 32, 4), (1, 64, 96, 4), (1, 160, 160, 1)], ids=str)
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_resolution_dependent_shift(spacing, shape, steps):
    """From 16 tokens, below the base length, to 6400 tokens, above the maximum length."""
    compare({"use_dynamic_shifting": True, "sigma_spacing": spacing}, steps, shape)


@pytest.mark.parametrize("steps", [4, 30])
@pytest.mark.parametrize(
    "config",
    [
        {"shift": 3.0, "shift_terminal": 0.1},
        {"use_dynamic_shifting": True, "sigma_spacing": "trailing", **QWEN_IMAGE},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"shift": 2.0, "num_train_timesteps": 100},
    ],
    ids=["terminal", "qwen_image", "linear", "100_timesteps"],
)
def test_other_settings(config, steps):
    compare(config, steps)


def test_add_noise_follows_diffusers():
    config = {"shift": 3.0}
    scheduler, process = diffusers.FlowMatchEulerDiscreteScheduler(**config), FlowMatching(**config)
    clean, noise = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    times = scheduler.timesteps[[3, 700]]
    expected = scheduler.scale_noise(torch.from_numpy(clean), times, torch.from_numpy(noise))
    ours = process.add_noise(jnp.asarray(clean), jnp.asarray(noise), jnp.asarray(times.numpy()))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_diffusers_reads_our_config():
    process = FlowMatching(shift=2.5, use_dynamic_shifting=True, max_shift=0.9)
    config = diffusers.FlowMatchEulerDiscreteScheduler.from_config(process.to_config()).config
    assert (config.shift, config.use_dynamic_shifting, config.max_shift) == (2.5, True, 0.9)
