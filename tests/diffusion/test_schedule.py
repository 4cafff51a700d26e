import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import REFERENCES

from rewardedit_jax.diffusion.schedule import Schedule

EDITOR_A = REFERENCES / "editor_a"
STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def samples(count: int = 4) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Clean samples, noise and timesteps from both ends of the schedule."""
    rng = np.random.default_rng(0)
    clean, noise = jnp.asarray(rng.standard_normal((2, count, 3, 3, 2), np.float32))
    return clean, noise, jnp.linspace(0, 999, count).astype(jnp.int32)


def test_alpha_bar_of_stable_diffusion():
    alpha_bar = Schedule.from_config(STABLE_DIFFUSION).alphas_cumprod
    assert alpha_bar.dtype == np.float64
    assert alpha_bar.shape == (1000,)
    assert alpha_bar[0] == 1 - 0.00085
    np.testing.assert_allclose(alpha_bar[-1], 0.00466, atol=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(),
        Schedule(beta_schedule="scaled_linear"),
        Schedule(beta_schedule="squaredcos_cap_v2"),
        Schedule(rescale_betas_zero_snr=True),
        Schedule(num_train_timesteps=3, trained_betas=(0.1, 0.2, 0.5)),
    ],
    ids=["linear", "scaled_linear", "cosine", "zero_snr", "trained_betas"],
)
def test_signal_only_falls(schedule):
    alpha_bar = schedule.alphas_cumprod
    assert (np.diff(alpha_bar) < 0).all()
    assert 0 <= alpha_bar[-1] < alpha_bar[0] < 1


def test_zero_terminal_snr_keeps_the_first_alpha_and_ends_without_signal():
    plain, rescaled = Schedule(), Schedule(rescale_betas_zero_snr=True)
    assert rescaled.alphas_cumprod[-1] == 0
    np.testing.assert_allclose(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-12)
    clean, noise, _ = samples(1)
    np.testing.assert_array_equal(rescaled.add_noise(clean, noise, jnp.array([999])), noise)


def test_noising_keeps_unit_variance():
    """alpha² + sigma² = 1: noising (1, 0) gives alpha, noising (0, 1) gives sigma."""
    schedule, timesteps = Schedule.from_config(STABLE_DIFFUSION), jnp.arange(1000)
    one, zero = jnp.ones((1000, 1)), jnp.zeros((1000, 1))
    alpha = schedule.add_noise(one, zero, timesteps)
    sigma = schedule.add_noise(zero, one, timesteps)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=3e-7)
    np.testing.assert_allclose(alpha[:, 0] ** 2, schedule.alphas_cumprod, rtol=1e-6)


def test_eps_is_the_noise():
    clean, noise, timesteps = samples()
    np.testing.assert_array_equal(Schedule().target(clean, noise, timesteps), noise)


def test_v_and_the_noisy_sample_give_back_clean_and_noise():
    """(x_t, v) is (clean, noise) turned by an angle; turning back recovers both."""
    schedule = Schedule(prediction_type="v_prediction")
    clean, noise, timesteps = samples()
    noisy = jax.jit(schedule.add_noise)(clean, noise, timesteps)
    v = jax.jit(schedule.target)(clean, noise, timesteps)
    alpha_bar = schedule.alphas_cumprod[np.asarray(timesteps)][:, None, None, None].astype(np.float32)
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    np.testing.assert_allclose(alpha * noisy - sigma * v, clean, atol=2e-6)
    np.testing.assert_allclose(sigma * noisy + alpha * v, noise, atol=2e-6)


def test_a_timestep_past_the_end_is_not_taken_for_the_last():
    clean, noise, _ = samples(1)
    assert jnp.isnan(Schedule().add_noise(clean, noise, jnp.array([1000]))).all()


def test_a_config_survives_reading_and_writing():
    """Also what other scheduler classes need from the file; nulls and defaults go without saying."""
    written = Schedule.from_config(STABLE_DIFFUSION | {"timestep_spacing": "trailing"}).to_config()
    expected = STABLE_DIFFUSION | {"timestep_spacing": "trailing"}
    del expected["trained_betas"], expected["num_train_timesteps"]
    assert json.loads(json.dumps(written)) == expected
    assert Schedule.from_config(written).to_config() == written


def test_trained_betas_survive_json_and_can_be_hashed():
    schedule = Schedule(num_train_timesteps=2, trained_betas=(0.1, 0.2))
    read = Schedule.from_config(json.loads(json.dumps(schedule.to_config())))
    assert hash(read) == hash(schedule)
    np.testing.assert_allclose(read.alphas_cumprod, [0.9, 0.72])


def test_values_that_another_class_filled_in_do_not_count():
    config = {"timestep_spacing": "leading", "clip_sample": True, "_use_default_values": ["timestep_spacing"]}
    schedule = Schedule.from_config(config)
    assert schedule.timestep_spacing is None
    assert schedule.clip_sample is True
    assert "_use_default_values" not in schedule.to_config()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("thresholding", True),
        ("use_karras_sigmas", True),
        ("prediction_type", "sample"),
        ("beta_schedule", "sigmoid"),
        ("timestep_spacing", "quadratic"),
        ("algorithm_type", "sde-dpmsolver++"),
        ("solver_order", 3),
        ("variance_type", "learned_range"),
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_what_is_not_supported_is_named(setting, value):
    name = value if setting == "_class_name" else setting
    with pytest.raises(ValueError, match=name):
        Schedule.from_config({setting: value})


def test_trained_betas_must_be_one_for_each_timestep():
    with pytest.raises(ValueError, match="2 trained_betas, 1000 timesteps"):
        Schedule.from_config({"trained_betas": [0.1, 0.2]})


@pytest.mark.parametrize("step", [1, 2])
def test_noisy_latents_of_the_reference_training(step):
    config = json.loads((EDITOR_A / "editor_a.json").read_text())["scheduler"]
    with np.load(EDITOR_A / "train.npz") as arrays:
        names = ("z", "noise", "timesteps", "noisy")
        z, noise, timesteps, noisy = (jnp.asarray(arrays[f"{name}{step}"]) for name in names)
    ours = Schedule.from_config(config).add_noise(z, noise, timesteps)
    np.testing.assert_allclose(ours, noisy, rtol=0, atol=1e-5)
