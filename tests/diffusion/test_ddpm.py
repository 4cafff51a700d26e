import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import REFERENCES
from scheduler_files import STABLE_DIFFUSION

from rewardedit_jax.diffusion.ddpm import DDPM

EDITOR_A = REFERENCES / "editor_a"


def samples(count: int = 4) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Clean samples, noise, and timesteps from the first to the last."""
    rng = np.random.default_rng(0)
    clean, noise = jnp.asarray(rng.standard_normal((2, count, 3, 3, 2), np.float32))
    return clean, noise, jnp.linspace(0, 999, count).astype(jnp.int32)


def test_alpha_bar_of_stable_diffusion():
    alpha_bar = DDPM.from_config(STABLE_DIFFUSION).alphas_cumprod
    assert alpha_bar.dtype == np.float64
    assert alpha_bar.shape == (1000,)
    assert alpha_bar[0] == 1 - 0.00085
    np.testing.assert_allclose(alpha_bar[-1], 0.00466, atol=1e-5)


@pytest.mark.parametrize(
    "process",
    [
        DDPM(),
        DDPM(beta_schedule="scaled_linear"),
        DDPM(beta_schedule="squaredcos_cap_v2"),
        DDPM(rescale_betas_zero_snr=True),
        DDPM(num_train_timesteps=3, trained_betas=(0.1, 0.2, 0.5)),
    ],
    ids=["linear", "scaled_linear", "cosine", "zero_snr", "trained_betas"],
)
def test_alpha_bar_decreases(process):
    alpha_bar = process.alphas_cumprod
    assert (np.diff(alpha_bar) < 0).all()
    assert 0 <= alpha_bar[-1] < alpha_bar[0] < 1


def test_zero_terminal_snr_keeps_the_first_alpha_bar_and_ends_at_zero():
    plain, rescaled = DDPM(), DDPM(rescale_betas_zero_snr=True)
    assert rescaled.alphas_cumprod[-1] == 0
    np.testing.assert_allclose(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-12)
    clean, noise, _ = samples(1)
    np.testing.assert_array_equal(rescaled.add_noise(clean, noise, jnp.array([999])), noise)


def test_noise_process_preserves_variance():
    """alpha² + sigma² = 1. Clean 1 with noise 0 gives alpha, clean 0 with noise 1 gives sigma."""
    process, timesteps = DDPM.from_config(STABLE_DIFFUSION), jnp.arange(1000)
    one, zero = jnp.ones((1000, 1)), jnp.zeros((1000, 1))
    alpha = process.add_noise(one, zero, timesteps)
    sigma = process.add_noise(zero, one, timesteps)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=3e-7)
    np.testing.assert_allclose(alpha[:, 0] ** 2, process.alphas_cumprod, rtol=1e-6)


def test_target_of_epsilon_prediction_is_the_noise():
    clean, noise, timesteps = samples()
    np.testing.assert_array_equal(DDPM().target(clean, noise, timesteps), noise)


def test_v_and_the_noisy_sample_determine_clean_and_noise():
    """(x_t, v) is (clean, noise) rotated by an angle; the inverse rotation recovers both."""
    process = DDPM(prediction_type="v_prediction")
    clean, noise, timesteps = samples()
    noisy = jax.jit(process.add_noise)(clean, noise, timesteps)
    v = jax.jit(process.target)(clean, noise, timesteps)
    alpha_bar = process.alphas_cumprod[np.asarray(timesteps)][:, None, None, None].astype(np.float32)
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    np.testing.assert_allclose(alpha * noisy - sigma * v, clean, atol=2e-6)
    np.testing.assert_allclose(sigma * noisy + alpha * v, noise, atol=2e-6)


def test_a_timestep_beyond_the_last_gives_nan():
    clean, noise, _ = samples(1)
    assert jnp.isnan(DDPM().add_noise(clean, noise, jnp.array([1000]))).all()


def test_training_times_are_uniform_whole_timesteps():
    process, rng = DDPM(num_train_timesteps=8), jax.random.key(0)
    times = process.sample_times(rng, (4096, 1, 1, 1))
    # Exactly these draws, because training runs must stay reproducible.
    np.testing.assert_array_equal(times, jax.random.randint(rng, (4096,), 0, 8))
    np.testing.assert_allclose(np.bincount(times), 512, atol=4 * np.sqrt(512))


def test_config_round_trip():
    """Settings of other scheduler classes are kept; nulls and defaults are left out."""
    written = DDPM.from_config(STABLE_DIFFUSION | {"timestep_spacing": "trailing"}).to_config()
    expected = STABLE_DIFFUSION | {"timestep_spacing": "trailing"}
    del expected["trained_betas"], expected["num_train_timesteps"]
    assert json.loads(json.dumps(written)) == expected
    assert DDPM.from_config(written).to_config() == written


def test_trained_betas_round_trip_through_json_and_hash():
    process = DDPM(num_train_timesteps=2, trained_betas=(0.1, 0.2))
    read = DDPM.from_config(json.loads(json.dumps(process.to_config())))
    assert (read, hash(read)) == (process, hash(process))
    np.testing.assert_allclose(read.alphas_cumprod, [0.9, 0.72])


def test_equal_files_give_equal_processes():
    """Also in settings that nothing here reads, and whatever the order of the settings."""
    process = DDPM.from_config(STABLE_DIFFUSION)
    again = DDPM.from_config(dict(reversed(STABLE_DIFFUSION.items())))
    assert (again, hash(again)) == (process, hash(process))
    assert DDPM.from_config(STABLE_DIFFUSION | {"skip_prk_steps": False}) != process


def test_defaults_that_another_class_filled_in_are_ignored():
    config = {"timestep_spacing": "leading", "clip_sample": True, "_use_default_values": ["timestep_spacing"]}
    process = DDPM.from_config(config)
    assert process.timestep_spacing is None
    assert process.clip_sample is True
    assert "_use_default_values" not in process.to_config()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("prediction_type", "sample"),
        ("beta_schedule", "sigmoid"),
        ("beta_start", "0.1"),
        ("beta_start", float("nan")),
        ("beta_start", -0.1),
        ("beta_end", 1.5),
        ("beta_end", 5e-05),  # below `beta_start`
        ("num_train_timesteps", 0),
        ("num_train_timesteps", 1000.0),
        ("num_train_timesteps", 2**24 + 1),
        ("steps_offset", -1),
        ("clip_sample", "no"),
        ("clip_sample_range", float("inf")),
        ("use_karras_sigmas", 1),
        ("sigma_min", 0),
        ("solver_order", "3"),
        ("lambda_min_clipped", float("nan")),
        ("_class_name", 5),
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
        ("_class_name", "CogVideoXDDIMScheduler"),
    ],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=re.escape(f"{setting}={value!r}")):
        DDPM.from_config({setting: value})


def test_what_replaces_the_betas_may_come_with_any_of_them():
    for replacement in ({"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.1], "num_train_timesteps": 1}):
        DDPM.from_config({"beta_start": 0.1, "beta_end": 0.01, **replacement})


def test_trained_betas_need_one_value_for_each_timestep():
    with pytest.raises(ValueError, match=r"trained_betas.*2.*1000"):
        DDPM.from_config({"trained_betas": [0.1, 0.2]})


@pytest.mark.skipif(not EDITOR_A.exists(), reason="fixtures of editor a are not here")
@pytest.mark.parametrize("step", [1, 2])
def test_noisy_latents_of_the_reference_training(step):
    config = json.loads((EDITOR_A / "editor_a.json").read_text())["scheduler"]
    with np.load(EDITOR_A / "train.npz") as arrays:
        names = ("z", "noise", "timesteps", "noisy")
        z, noise, timesteps, noisy = (jnp.asarray(arrays[f"{name}{step}"]) for name in names)
    ours = DDPM.from_config(config).add_noise(z, noise, timesteps)
    np.testing.assert_allclose(ours, noisy, rtol=0, atol=1e-5)
