"""SmartEdit and Reward-SmartEdit as whole editors, against the published code's numbers on a tiny configuration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smartedit_dirs import FIXTURE, description, needs_smartedit, write_pipeline

from rewardedit_jax import Editor, Reward
from rewardedit_jax.bases.base import Base
from rewardedit_jax.bases.instruct_pix2pix import Conditions, RewardStates
from rewardedit_jax.bases.smartedit import SmartEdit
from rewardedit_jax.data.clip_tokenizer import warn_cut
from rewardedit_jax.data.images import to_unit

pytestmark = needs_smartedit
BRANCHES = ("text", "image", "neither")


@pytest.fixture(scope="module")
def expected():
    """Arrays by file name."""
    return {name: np.load(FIXTURE / f"{name}.npz") for name in ("mllm", "text", "unet", "edit", "train")}


@pytest.fixture(scope="module")
def editors(tmp_path_factory):
    """Whether it takes a reward → the editor."""
    folder = tmp_path_factory.mktemp("smartedit")
    return {reward: Editor.load(write_pipeline(folder / str(reward), reward)) for reward in (False, True)}


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def farthest(got, wanted):
    assert np.shape(got) == np.shape(wanted)
    return np.abs(np.asarray(got) - wanted).max()


def conditions(editor, row, expected):
    """The conditions of all branches for a row of the language model's inputs."""
    image = expected["mllm"][f"source_{row}"]
    inputs = editor.base.read([image], [description()["instructions"][row]], [Reward()], warn_cut)
    source = editor.base.encode(editor.params, jnp.asarray(to_unit(image[None])))
    return jax.jit(editor.base.condition_branches, static_argnums=4)(editor.params, source, inputs, inputs, BRANCHES)


def test_it_is_a_base(editors):
    assert isinstance(editors[False].base, SmartEdit)
    assert isinstance(editors[False].base, Base)
    assert (editors[False].has_reward, editors[True].has_reward) == (False, True)


def test_context_and_residual_of_a_request(editors, expected):
    found, mllm = conditions(editors[False], 2, expected), expected["mllm"]
    assert farthest(found.context[0], mllm["context"][2]) < 5e-5
    assert farthest(found.context[1], expected["text"]["null_context"][0]) < 1e-5
    for branch in range(3):  # the residual is never dropped
        assert farthest(found.residual[branch], nhwc(mllm["v_prime"][2])) < 4e-5
    assert not found.image[2].any()


def test_the_residual_of_a_wide_image_is_stretched(editors, expected):
    found = conditions(editors[True], 3, expected)
    assert farthest(found.residual[0], nhwc(expected["mllm"]["v_prime_wide"][3])) < 4e-5
    assert farthest(found.context[0], expected["mllm"]["context"][3]) < 5e-5


@pytest.mark.parametrize(
    ("name", "wide", "reward", "residual"),
    [
        ("expected", False, None, True),
        ("expected_without_v", False, None, False),
        ("wide_expected", True, None, True),
        ("reward_expected", False, "scores", True),
        ("reward_wide_expected", True, "scores", True),
        ("reward_expected_zero_scores", False, "zero", True),
    ],
)
def test_the_noise_predictor(editors, expected, name, wide, reward, residual):
    """The residual comes before the reward encoder."""
    unet, mllm = expected["unet"], expected["mllm"]
    editor = editors[reward is not None]
    sample = nhwc(unet["wide_sample" if wide else "sample"])
    v = nhwc(mllm["v_prime_wide" if wide else "v_prime"])[:2]
    scores = None
    if reward:
        values = unet["scores"] if reward == "scores" else np.zeros_like(unet["scores"])
        scores = RewardStates(jnp.asarray(values), jnp.asarray(expected["text"]["reward_pooled"]), jnp.ones(2))
    given = Conditions(sample[..., 4:], mllm["context"][:2], scores, v if residual else np.zeros_like(v))
    got = jax.jit(editor.base.denoise)(editor.params, sample[..., :4], jnp.asarray(unet["timestep"]), given)
    assert farthest(got, nhwc(unet[name])) < 3e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["euler", "ddim", "wide_ddim", "reward_euler", "reward_ddim", "reward_wide_euler"])
def test_edits(editors, expected, name):
    edit, told = expected["edit"], description()["edit"]
    row, sampler, wide = told["rows"][name], name.rpartition("_")[2], "wide" in name
    prefix = "wide_" if wide else ""
    reward = Reward(*told["reward_scores"], feedback=("None",) * 3) if "reward" in name else None
    edited = editors["reward" in name].edit(
        expected["mllm"][f"source_{row}"],
        description()["instructions"][row],
        reward=reward,
        steps=told["steps"][sampler],
        text_guidance=told["guidance_scale"],
        image_guidance=told["image_guidance_scale"],
        sampler={"euler": "euler_ancestral", "ddim": "ddim"}[sampler],
        latents=nhwc(edit[f"{prefix}init_latents"]),
        noise=nhwc(edit[f"{prefix}euler_noises"]) if sampler == "euler" else None,
        resolution=None,
        output="array",
    )
    assert farthest(edited, edit[f"{name}_image"]) < 5e-5
