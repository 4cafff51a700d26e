from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm

from rewardedit_jax.diffusion.flow_matching import FlowMatching
from rewardedit_jax.diffusion.samplers import sample

SHAPE = (2, 4, 4, 3)
LATENTS = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE, np.float32))
SETTINGS = {
    "plain": {},
    "static_shift": {"shift": 3.0},
    "trailing": {"shift": 3.0, "sigma_spacing": "trailing"},
    "dynamic_shift": {"use_dynamic_shifting": True},
    "other_unit": {"num_train_timesteps": 100},
}
# Draws for tests of densities, and the Kolmogorov-Smirnov distance that uniform draws exceed once in 100,000 times.
DRAWS = 20_000
KS_DISTANCE = 2.47 / np.sqrt(DRAWS)


def sigmas_drawn(process: FlowMatching, shape: tuple[int, int, int] = (8, 8, 4)) -> np.ndarray:
    """Training times of many latents of `shape` (h, w, c), as noise levels."""
    times = process.sample_times(jax.random.key(0), (DRAWS, *shape))
    return np.asarray(times, np.float64) / process.num_train_timesteps


def shift(sigma: np.ndarray, s: float) -> np.ndarray:
    return s * sigma / (1 + (s - 1) * sigma)


# Noise and target


def test_paths_are_straight_from_data_to_noise():
    process = FlowMatching()
    clean, noise = jnp.full((3, 2), 5.0), jnp.full((3, 2), -3.0)
    noisy = process.add_noise(clean, noise, jnp.array([0.0, 250.0, 1000.0]))
    np.testing.assert_allclose(noisy[:, 0], [5.0, 3.0, -3.0], rtol=1e-6)


def test_the_target_is_the_derivative_of_the_path():
    process = FlowMatching(num_train_timesteps=1)
    clean, noise = jax.random.normal(jax.random.key(0), (2, 3, 5))
    times = jnp.array([0.1, 0.5, 0.9])
    _, velocity = jax.jvp(lambda t: process.add_noise(clean, noise, t), (times,), (jnp.ones(3),))
    np.testing.assert_allclose(process.target(clean, noise, times), velocity, rtol=0, atol=1e-6)


# Training times


def test_uniform_times():
    process = FlowMatching(num_train_timesteps=500)
    times = process.sample_times(jax.random.key(0), (DRAWS, 8, 8, 4))
    assert times.min() >= 0
    assert 499 < times.max() <= 500
    np.testing.assert_allclose(times.mean(), 250, rtol=0.01)
    np.testing.assert_allclose(times.std(), 500 / np.sqrt(12), rtol=0.01)
    assert kstest(times / 500, "uniform").statistic < KS_DISTANCE


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7), (1.15, 1.0)])
def test_logit_normal_times(mean, std):
    """CDF(sigma) = Φ((logit sigma - mean) / std)."""
    sigma = sigmas_drawn(FlowMatching(time_sampling="logit_normal", logit_mean=mean, logit_std=std))
    logit = np.log(sigma / (1 - sigma))
    np.testing.assert_allclose(logit.mean(), mean, atol=0.03)
    np.testing.assert_allclose(logit.std(), std, rtol=0.03)
    assert kstest(sigma, lambda s: norm.cdf(np.log(s / (1 - s)), mean, std)).statistic < KS_DISTANCE


@pytest.mark.parametrize("s", [0.5, 1.0, 3.0])
def test_shifted_times(s):
    """CDF(sigma') is the inverse of the shift, sigma' / (s - (s - 1) sigma')."""
    sigma = sigmas_drawn(FlowMatching(time_sampling="shifted", shift=s))
    assert kstest(sigma, lambda x: x / (s - (s - 1) * x)).statistic < KS_DISTANCE


def test_the_shift_of_logit_normal_times_is_their_mean():
    """As the docstring says: the shift adds log s to the logit."""
    draws = {"time_sampling": "logit_normal", "logit_std": 0.8}
    shifted = shift(sigmas_drawn(FlowMatching(**draws)), np.exp(1.15))
    np.testing.assert_allclose(sigmas_drawn(FlowMatching(**draws, logit_mean=1.15)), shifted, rtol=0, atol=1e-6)


def test_shifted_times_grow_with_the_resolution():
    """A latent of 32 × 32 has 256 tokens and mu 0.5; 128 × 128 has 4096 tokens and mu 1.15."""
    process = FlowMatching(time_sampling="shifted", use_dynamic_shifting=True)
    for size, mu in ((32, 0.5), (128, 1.15)):
        s = np.exp(mu)
        sigma = sigmas_drawn(process, (size, size, 4))
        assert kstest(sigma, lambda x, s=s: x / (s - (s - 1) * x)).statistic < KS_DISTANCE


# Sampling


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("steps", [1, 6])
def test_sampling_starts_at_noise_and_ends_at_data(settings, steps):
    process = FlowMatching(**settings)
    table = process.sampler_table("euler", steps, SHAPE)
    assert table.steps.timestep[0] == process.num_train_timesteps
    np.testing.assert_allclose(table.steps.output.sum(), -1, rtol=1e-6)
    assert not table.stochastic


@pytest.mark.parametrize("steps", [1, 5])
def test_a_single_data_point_is_sampled_exactly(steps):
    """Its path is straight, so that Euler's method makes no error, not even in one step."""
    truth = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE, np.float32))
    process = FlowMatching(shift=3.0)

    def velocity(x, t):
        return (x - truth) / (t / process.num_train_timesteps)

    found = sample(velocity, process.sampler_table("euler", steps), LATENTS)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-6)


def error_on_gaussian_data(process: FlowMatching, steps: int, deviation: float = 0.5) -> float:
    """Distance to the exact solution for data N(0, deviation²), which is x_1 · deviation."""

    def velocity(x, t):
        sigma = t / process.num_train_timesteps
        # E[eps - x0 | x] where x has the variance (1 - sigma)² deviation² + sigma².
        return x * (sigma - (1 - sigma) * deviation**2) / ((1 - sigma) ** 2 * deviation**2 + sigma**2)

    found = sample(velocity, process.sampler_table("euler", steps, SHAPE), LATENTS)
    return float(jnp.abs(found - deviation * LATENTS).max())


@pytest.mark.parametrize("settings", [{}, {"shift": 3.0}, {"use_dynamic_shifting": True}], ids=str)
def test_twice_the_steps_halve_the_error_of_euler(settings):
    process = FlowMatching(**settings, sigma_spacing="trailing")
    errors = [error_on_gaussian_data(process, steps) for steps in (50, 100, 200)]
    assert errors[-1] < 0.02
    for coarse, fine in pairwise(errors):
        assert 1.85 < coarse / fine < 2.15


def test_step1x_edit_schedule():
    """sigma = e^mu / (e^mu + 1/s - 1) at s = 1, ..., 1/n, with 1024 tokens at 512 × 512 pixels."""
    table = FlowMatching(use_dynamic_shifting=True, sigma_spacing="trailing").sampler_table(
        "euler", 28, (1, 64, 64, 16)
    )
    s, mu = np.linspace(1, 0, 29)[:-1], 0.5 + (1024 - 256) * 0.65 / 3840
    np.testing.assert_allclose(table.steps.timestep / 1000, np.exp(mu) / (np.exp(mu) + 1 / s - 1), rtol=1e-6)


def test_tokens_follow_from_the_patch_size():
    fine, coarse = (FlowMatching(use_dynamic_shifting=True, patch_size=size) for size in (1, 2))
    tables = fine.sampler_table("euler", 5, (1, 16, 24, 4)), coarse.sampler_table("euler", 5, (1, 32, 48, 4))
    np.testing.assert_array_equal(tables[0].steps.timestep, tables[1].steps.timestep)
    assert (coarse.sampler_table("euler", 5, (1, 16, 24, 4)).steps.timestep[1:] < tables[0].steps.timestep[1:]).all()


def test_the_last_step_starts_at_shift_terminal():
    process = FlowMatching(shift=3.0, shift_terminal=0.1)
    table = process.sampler_table("euler", 5)
    np.testing.assert_allclose(table.steps.timestep[[0, -1]], [1000, 100], rtol=1e-6)
    with pytest.raises(ValueError, match="shift_terminal"):
        process.sampler_table("euler", 1)


def test_a_resolution_dependent_shift_needs_the_shape():
    with pytest.raises(ValueError, match=r"use_dynamic_shifting.*shape"):
        FlowMatching(use_dynamic_shifting=True).sampler_table("euler", 5)


# Settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_karras_sigmas", "yes"),
        ("time_shift_type", "quadratic"),
        ("sigma_spacing", "leading"),
        ("time_sampling", "mode"),
        ("shift", 0.0),
        ("shift", "3"),
        ("shift", float("inf")),
        ("base_shift", float("nan")),
        ("shift_terminal", 1.0),
        ("max_image_seq_len", 256),  # that of `base_image_seq_len`
        ("patch_size", 0),
        ("_class_name", "FlowMatchHeunDiscreteScheduler"),
    ],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value!r}"):
        FlowMatching.from_config({setting: value})


def test_inverted_sigmas_are_refused_at_sampling():
    process = FlowMatching.from_config({"invert_sigmas": True})
    for method in (process.check_sampler, process.sampler_table):
        with pytest.raises(ValueError, match=r"invert_sigmas=True.*'euler'"):
            method("euler", 5)


def test_a_shift_out_of_range_is_refused_with_its_settings():
    for settings in ({"time_shift_type": "linear", "base_shift": -1.0}, {"base_shift": 90.0, "max_shift": 99.0}):
        process = FlowMatching(use_dynamic_shifting=True, **settings)
        with pytest.raises(ValueError, match=r"base_shift.*max_shift.*tokens"):
            process.sampler_table("euler", 5, (1, 512, 512, 4) if "time_shift_type" not in settings else SHAPE)


def test_settings_of_stable_diffusion_3():
    """The file has a whole number for the shift and leaves the rest to the defaults."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.29.0", "shift": 3}
    process = FlowMatching.from_config(config)
    assert process.shift == 3.0
    assert process.to_config() == config
