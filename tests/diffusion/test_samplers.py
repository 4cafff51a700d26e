import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import REFERENCES

from rewardedit_jax.diffusion.ddpm import DDPM
from rewardedit_jax.diffusion.flow_matching import FlowMatching
from rewardedit_jax.diffusion.guidance import combine, repeat
from rewardedit_jax.diffusion.samplers import SAMPLERS, sample

EDITOR_A = REFERENCES / "editor_a"
DETERMINISTIC = ("ddim", "euler", "dpmpp_2m")
SHAPE = (2, 4, 4, 3)
LATENTS = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE, np.float32))


def stable_diffusion(**settings) -> DDPM:
    """The process of Stable Diffusion without clipping. DDIM ends at alpha_bar 1 unless `settings` differ."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return DDPM(**betas, clip_sample=False, **settings)


def sigmas_of(process: DDPM) -> jax.Array:
    """sigma_t / alpha_t of every timestep."""
    return jnp.asarray(np.sqrt(1 / process.alphas_cumprod - 1), jnp.float32)


def optimal_network(process: DDPM, mean: jax.Array | float, variance: float):
    """Output (eps or v) of a perfect network for data N(mean, variance), also between two timesteps."""
    sigmas = sigmas_of(process)

    def predict(x, t):
        ratio = jnp.interp(t, jnp.arange(len(sigmas), dtype=jnp.float32), sigmas)
        alpha = jax.lax.rsqrt(1 + ratio**2)
        sigma = ratio * alpha
        eps = sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        x0 = (x - sigma * eps) / alpha
        return eps if process.prediction_type == "epsilon" else alpha * eps - sigma * x0

    return predict


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perfect_network_of_a_single_data_point_samples_it(name, steps, prediction):
    process = stable_diffusion(prediction_type=prediction)
    truth = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE, np.float32))
    found = sample(
        optimal_network(process, truth, 0.0),
        process.sampler_table(name, steps),
        LATENTS,
        rng=jax.random.key(0),
    )
    np.testing.assert_allclose(found, truth, rtol=0, atol=2e-5)


def error_on_gaussian_data(name: str, steps: int) -> float:
    """Distance to the exact solution of the probability-flow ODE, which for Gaussian data is a rescaling."""
    process = stable_diffusion(timestep_spacing="linspace", final_sigmas_type="sigma_min")
    deviation = 0.5
    table = process.sampler_table(name, steps)
    _, x = sample(optimal_network(process, 0.0, deviation**2), table, LATENTS, keep_trajectory=True)
    ratio = sigmas_of(process)[jnp.array([999, 0])]
    spread = jnp.sqrt(deviation**2 + ratio**2)
    space = jnp.sqrt(1 + ratio**2) if name == "dpmpp_2m" else 1.0
    exact = table.initial_scale * LATENTS * (spread / space)[1] / (spread / space)[0]
    return float(jnp.abs(x[-1] - exact).max())


def test_twice_the_steps_halve_the_error_of_euler_and_do_better_for_dpm_solver():
    coarse, fine = ({name: error_on_gaussian_data(name, n) for name in ("euler", "dpmpp_2m")} for n in (100, 200))
    assert 1.8 < coarse["euler"] / fine["euler"] < 2.2
    assert coarse["dpmpp_2m"] / fine["dpmpp_2m"] > 2.8  # 4 in the limit


def test_ddim_ends_at_the_first_alpha_bar_if_configured():
    truth = jnp.ones(SHAPE)
    process = stable_diffusion(set_alpha_to_one=False)
    found = sample(optimal_network(process, truth, 0.0), process.sampler_table("ddim", 5), LATENTS)
    distance = np.abs(found - truth).max()
    noise_left = np.sqrt(1 - process.alphas_cumprod[0])
    assert 0.1 * noise_left < distance < 4 * noise_left


@pytest.mark.parametrize("clip_sample", [None, True])
def test_only_ddim_clips_by_default(clip_sample):
    process = DDPM(clip_sample=clip_sample, clip_sample_range=0.5)
    found = sample(lambda x, _: x, process.sampler_table("ddim", 5), LATENTS)
    assert np.abs(found).max() == 0.5
    for name in ("euler", "dpmpp_2m"):
        assert process.sampler_table(name, 5).clip == np.inf


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_trajectory_ends_in_the_sample_and_timesteps_fall(name):
    table = stable_diffusion().sampler_table(name, 7)
    noise = jnp.ones((7, *SHAPE))
    final, trajectory = sample(lambda x, t: jnp.sin(x), table, LATENTS, noise=noise, keep_trajectory=True)
    assert trajectory.shape == (7, *SHAPE)
    np.testing.assert_array_equal(final, trajectory[-1])
    np.testing.assert_array_equal(final, sample(lambda x, t: jnp.sin(x), table, LATENTS, noise=noise))
    assert (np.diff(table.steps.timestep) < 0).all()


def test_sampler_names_are_those_of_all_processes():
    assert DDPM().samplers == SAMPLERS
    assert set(FlowMatching().samplers) <= set(SAMPLERS)


def test_only_the_ancestral_sampler_is_stochastic():
    process = stable_diffusion()
    assert [name for name in SAMPLERS if process.sampler_table(name, 4).stochastic] == ["euler_ancestral"]
    for name in DETERMINISTIC:
        np.testing.assert_array_equal(process.sampler_table(name, 4).steps.noise, 0)
    with pytest.raises(ValueError, match="`noise` or `rng`"):
        sample(lambda x, _: x, process.sampler_table("euler_ancestral", 4), LATENTS)


def test_noise_depends_on_the_key_and_the_step():
    table = stable_diffusion().sampler_table("euler_ancestral", 4)
    rngs = jax.random.split(jax.random.key(3))
    drawn = jnp.stack([jax.random.normal(jax.random.fold_in(rngs[0], i), SHAPE) for i in range(4)])
    by_noise = sample(lambda x, _: 0.1 * x, table, LATENTS, noise=drawn)
    by_key = jax.jit(lambda rng: sample(lambda x, _: 0.1 * x, table, LATENTS, rng=rng))
    np.testing.assert_allclose(by_key(rngs[0]), by_noise, rtol=0, atol=1e-5)
    assert np.abs(by_key(rngs[1]) - by_noise).max() > 0.1


def test_no_random_numbers_are_drawn_for_a_deterministic_sampler():
    table = stable_diffusion().sampler_table("ddim", 4)
    jaxpr = jax.make_jaxpr(lambda rng: sample(lambda x, _: x, table, LATENTS, rng=rng))(jax.random.key(0))
    assert "random" not in str(jaxpr.eqns)


def test_half_precision_networks_are_sampled_in_float32():
    table = stable_diffusion().sampler_table("dpmpp_2m", 4)
    final = sample(lambda x, _: x.astype(jnp.bfloat16), table, LATENTS.astype(jnp.bfloat16))
    assert final.dtype == jnp.float32


def test_one_compilation_serves_all_guidance_scales_prompts_seeds_processes_and_samplers():
    traces = 0

    @jax.jit
    def edit(context, weights, table, rng):
        nonlocal traces
        traces += 1

        def predict(x, t):
            outputs = jnp.tanh(repeat(x, len(weights)) + context + 1e-3 * t)
            return combine(outputs, weights)

        latents_rng, noise_rng = jax.random.split(rng)
        return sample(predict, table, jax.random.normal(latents_rng, (1, 4, 4, 3)), rng=noise_rng)

    processes = stable_diffusion(), DDPM(prediction_type="v_prediction")
    finals = [
        edit(jnp.full((3, 1, 1, 1), float(i)), jnp.array([2.0 + i, 1.0, -2.0 - i]), table, jax.random.key(i))
        for i, table in enumerate(p.sampler_table(name, 6) for name in DETERMINISTIC for p in processes)
    ]
    assert traces == 1
    assert len({float(final.sum()) for final in finals}) == len(finals)
    edit(jnp.zeros((3, 1, 1, 1)), jnp.ones(3), processes[0].sampler_table("ddim", 7), jax.random.key(0))
    assert traces == 2


def test_unknown_samplers_and_impossible_step_counts_are_refused():
    process = stable_diffusion()
    with pytest.raises(ValueError, match=rf"heun.*{', '.join(SAMPLERS)}"):
        process.sampler_table("heun", 5)
    for steps in (0, -1, 1001, 3.0, "3", True, None, float("nan")):
        with pytest.raises(ValueError, match=rf"steps={steps!r}.*1 to 1000"):
            process.check_sampler("ddim", steps)
    with pytest.raises(ValueError, match=r"steps=1001.*1 to 1000"):
        process.sampler_table("ddim", 1001)
    # 1000 steps with an offset of 1 would start at timestep 1000, which does not exist.
    with pytest.raises(ValueError, match=r"leading.*1000"):
        process.sampler_table("ddim", 1000)
    zero_snr = DDPM(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(ValueError, match="v_prediction"):
        zero_snr.sampler_table("ddim", 5)


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_start": 0.0},  # no noise at the first timestep
        {"num_train_timesteps": 5, "trained_betas": (0.1, 0.2, 0.3, 0.4, 1.0), "prediction_type": "v_prediction"},
    ],
    ids=["no_noise", "no_signal"],
)
def test_coefficients_that_are_not_finite_are_refused(settings):
    with pytest.raises(ValueError, match="NaN or infinite"):
        DDPM(**settings).sampler_table("euler", 5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_trailing_spacing_has_the_requested_number_of_steps(name):
    """61 strides of 1000 / 61 are less than 1000 in floating point: there must be no 62nd point."""
    table = stable_diffusion(timestep_spacing="trailing").sampler_table(name, 61)
    assert table.steps.timestep.shape == (61,)
    assert (table.steps.timestep >= 0).all()


@pytest.mark.parametrize(
    ("name", "theirs", "steps"),
    [
        ("ddim", "ddim", 5),
        ("euler_ancestral", "euler", 4),
        ("euler_ancestral", "euler30", 30),
        ("dpmpp_2m", "dpm", 5),
    ],
)
def test_tables_of_the_reference_editor(name, theirs, steps):
    config = json.loads((EDITOR_A / "editor_a.json").read_text())["scheduler"]
    with np.load(EDITOR_A / "edit.npz") as arrays:
        timesteps, sigmas = arrays[f"{theirs}_timesteps"], arrays.get(f"{theirs}_sigmas")
    table = DDPM.from_config(config).sampler_table(name, steps)
    np.testing.assert_allclose(table.steps.timestep, timesteps, rtol=0, atol=1e-4 if name[0] == "e" else 0)
    if sigmas is not None:
        # x0_from_output is -sigma, in units where x = x0 + sigma eps. The tolerance is relative to the largest sigma.
        np.testing.assert_allclose(-table.steps.x0_from_output, sigmas[:-1], rtol=0, atol=5e-6 * sigmas[0])
    if name == "euler_ancestral":
        np.testing.assert_allclose(table.initial_scale, sigmas[0], rtol=5e-6)
        assert table.steps.noise[-1] == 0
