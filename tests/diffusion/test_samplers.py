import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import REFERENCES

from rewardedit_jax.diffusion.guidance import Guidance, combine, repeat
from rewardedit_jax.diffusion.samplers import SAMPLERS, sample, sampler_table
from rewardedit_jax.diffusion.schedule import Schedule

EDITOR_A = REFERENCES / "editor_a"
DETERMINISTIC = ("ddim", "euler", "dpmpp_2m")
SHAPE = (2, 4, 4, 3)
LATENTS = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE, np.float32))


def schedule_of_stable_diffusion(**settings) -> Schedule:
    """Unclipped, and DDIM going all the way to alpha_bar 1 unless told otherwise."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return Schedule(**betas, clip_sample=False, **settings)


def sigmas_of(schedule: Schedule) -> jax.Array:
    """sigma_t / alpha_t of every timestep."""
    return jnp.asarray(np.sqrt(1 / schedule.alphas_cumprod - 1), jnp.float32)


def optimal_network(schedule: Schedule, mean: jax.Array | float, variance: float):
    """What a perfect network says of data N(mean, variance), in eps or v, also between two timesteps."""
    sigmas = sigmas_of(schedule)

    def predict(x, t):
        ratio = jnp.interp(t, jnp.arange(len(sigmas), dtype=jnp.float32), sigmas)
        alpha = jax.lax.rsqrt(1 + ratio**2)
        sigma = ratio * alpha
        eps = sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        x0 = (x - sigma * eps) / alpha
        return eps if schedule.prediction_type == "epsilon" else alpha * eps - sigma * x0

    return predict


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_network_that_knows_the_sample_finds_it(name, steps, prediction):
    schedule = schedule_of_stable_diffusion(prediction_type=prediction)
    truth = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE, np.float32))
    found = sample(
        optimal_network(schedule, truth, 0.0),
        sampler_table(name, schedule, steps),
        LATENTS,
        rng=jax.random.key(0),
    )
    np.testing.assert_allclose(found, truth, rtol=0, atol=2e-5)


def error_on_gaussian_data(name: str, steps: int) -> float:
    """Distance to the exact solution of the probability-flow ODE, which for Gaussian data is a rescaling."""
    schedule = schedule_of_stable_diffusion(timestep_spacing="linspace", final_sigmas_type="sigma_min")
    deviation = 0.5
    table = sampler_table(name, schedule, steps)
    _, x = sample(optimal_network(schedule, 0.0, deviation**2), table, LATENTS, keep_trajectory=True)
    ratio = sigmas_of(schedule)[jnp.array([999, 0])]
    spread = jnp.sqrt(deviation**2 + ratio**2)
    space = jnp.sqrt(1 + ratio**2) if name == "dpmpp_2m" else 1.0
    exact = table.initial_scale * LATENTS * (spread / space)[1] / (spread / space)[0]
    return float(jnp.abs(x[-1] - exact).max())


def test_twice_the_steps_halve_the_error_of_euler_and_do_better_for_dpm_solver():
    coarse, fine = ({name: error_on_gaussian_data(name, n) for name in ("euler", "dpmpp_2m")} for n in (100, 200))
    assert 1.8 < coarse["euler"] / fine["euler"] < 2.2
    assert coarse["dpmpp_2m"] / fine["dpmpp_2m"] > 2.8  # 4 in the limit


def test_ddim_stops_at_the_first_alpha_bar_when_told_so():
    truth = jnp.ones(SHAPE)
    schedule = schedule_of_stable_diffusion(set_alpha_to_one=False)
    found = sample(optimal_network(schedule, truth, 0.0), sampler_table("ddim", schedule, 5), LATENTS)
    distance = np.abs(found - truth).max()
    noise_left = np.sqrt(1 - schedule.alphas_cumprod[0])
    assert 0.1 * noise_left < distance < 4 * noise_left


@pytest.mark.parametrize("clip_sample", [None, True])
def test_ddim_clips_unless_told_otherwise(clip_sample):
    schedule = Schedule(clip_sample=clip_sample, clip_sample_range=0.5)
    found = sample(lambda x, _: x, sampler_table("ddim", schedule, 5), LATENTS)
    assert np.abs(found).max() == 0.5
    for name in ("euler", "dpmpp_2m"):
        assert sampler_table(name, schedule, 5).clip == np.inf


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_trajectory_ends_in_the_sample_and_timesteps_fall(name):
    table = sampler_table(name, schedule_of_stable_diffusion(), 7)
    noise = jnp.ones((7, *SHAPE))
    final, trajectory = sample(lambda x, t: jnp.sin(x), table, LATENTS, noise=noise, keep_trajectory=True)
    assert trajectory.shape == (7, *SHAPE)
    np.testing.assert_array_equal(final, trajectory[-1])
    np.testing.assert_array_equal(final, sample(lambda x, t: jnp.sin(x), table, LATENTS, noise=noise))
    assert (np.diff(table.steps.timestep) < 0).all()


def test_only_the_ancestral_sampler_is_stochastic():
    schedule = schedule_of_stable_diffusion()
    assert [name for name in SAMPLERS if sampler_table(name, schedule, 4).stochastic] == ["euler_ancestral"]
    for name in DETERMINISTIC:
        np.testing.assert_array_equal(sampler_table(name, schedule, 4).steps.noise, 0)
    with pytest.raises(ValueError, match="give `noise` or `rng`"):
        sample(lambda x, _: x, sampler_table("euler_ancestral", schedule, 4), LATENTS)


def test_noise_comes_from_the_key_and_the_step():
    table = sampler_table("euler_ancestral", schedule_of_stable_diffusion(), 4)
    rngs = jax.random.split(jax.random.key(3))
    drawn = jnp.stack([jax.random.normal(jax.random.fold_in(rngs[0], i), SHAPE) for i in range(4)])
    by_noise = sample(lambda x, _: 0.1 * x, table, LATENTS, noise=drawn)
    by_key = jax.jit(lambda rng: sample(lambda x, _: 0.1 * x, table, LATENTS, rng=rng))
    np.testing.assert_allclose(by_key(rngs[0]), by_noise, rtol=0, atol=1e-5)
    assert np.abs(by_key(rngs[1]) - by_noise).max() > 0.1


def test_no_random_numbers_are_drawn_for_a_deterministic_sampler():
    table = sampler_table("ddim", schedule_of_stable_diffusion(), 4)
    jaxpr = jax.make_jaxpr(lambda rng: sample(lambda x, _: x, table, LATENTS, rng=rng))(jax.random.key(0))
    assert "random" not in str(jaxpr.eqns)


def test_half_precision_networks_are_sampled_in_float32():
    table = sampler_table("dpmpp_2m", schedule_of_stable_diffusion(), 4)
    final = sample(lambda x, _: x.astype(jnp.bfloat16), table, LATENTS.astype(jnp.bfloat16))
    assert final.dtype == jnp.float32


def test_one_compilation_serves_all_guidance_prompts_seeds_schedules_and_samplers():
    traces = 0

    @jax.jit
    def edit(context, guidance, table, rng):
        nonlocal traces
        traces += 1

        def predict(x, t):
            outputs = jnp.tanh(repeat(branches, x) + context + 1e-3 * t)
            return combine(outputs, guidance, branches)

        latents_rng, noise_rng = jax.random.split(rng)
        return sample(predict, table, jax.random.normal(latents_rng, (1, 4, 4, 3)), rng=noise_rng)

    branches = Guidance().branches
    schedules = schedule_of_stable_diffusion(), Schedule(prediction_type="v_prediction")
    finals = [
        edit(jnp.full((3, 1, 1, 1), float(i)), Guidance(text=2.0 + i), table, jax.random.key(i))
        for i, table in enumerate(sampler_table(name, s, 6) for name in DETERMINISTIC for s in schedules)
    ]
    assert traces == 1
    assert len({float(final.sum()) for final in finals}) == len(finals)
    edit(jnp.zeros((3, 1, 1, 1)), Guidance(), sampler_table("ddim", schedules[0], 7), jax.random.key(0))
    assert traces == 2


def test_mistakes_are_told_with_the_remedy():
    schedule = schedule_of_stable_diffusion()
    with pytest.raises(ValueError, match="unknown sampler 'heun'; choose one of ddim, euler, euler_ancestral"):
        sampler_table("heun", schedule, 5)
    for steps in (0, -1, 1001):
        with pytest.raises(ValueError, match=f"{steps} steps; choose 1 to 1000"):
            sampler_table("ddim", schedule, steps)
    # 1000 steps, offset by one, would begin at timestep 1000.
    with pytest.raises(ValueError, match="take fewer steps"):
        sampler_table("ddim", schedule, 1000)
    zero_snr = Schedule(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(ValueError, match="v_prediction"):
        sampler_table("ddim", zero_snr, 5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_trailing_spacing_has_as_many_steps_as_asked_for(name):
    """61 strides of 1000 / 61 fall short of 1000 by rounding, and a 62nd point must not slip in."""
    table = sampler_table(name, schedule_of_stable_diffusion(timestep_spacing="trailing"), 61)
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
    table = sampler_table(name, Schedule.from_config(config), steps)
    np.testing.assert_allclose(table.steps.timestep, timesteps, rtol=0, atol=1e-4 if name[0] == "e" else 0)
    if sigmas is not None:
        # x0 is x - sigma eps, or that over alpha; relative to the largest, as the fixture's float32 sigmas are exact
        np.testing.assert_allclose(-table.steps.x0_from_output, sigmas[:-1], rtol=0, atol=5e-6 * sigmas[0])
    if name == "euler_ancestral":
        np.testing.assert_allclose(table.initial_scale, sigmas[0], rtol=5e-6)
        assert table.steps.noise[-1] == 0
