"""SmartEdit and Reward-SmartEdit as whole editors, against the published code's numbers on a tiny configuration."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from smartedit_dirs import FIXTURE, description, needs_smartedit, write_pipeline

from rewardedit_jax import Editor, Reward
from rewardedit_jax.bases.base import Base
from rewardedit_jax.bases.instruct_pix2pix import Conditions, RewardStates
from rewardedit_jax.bases.smartedit import Inputs, SmartEdit
from rewardedit_jax.data.clip_tokenizer import warn_cut
from rewardedit_jax.data.images import to_unit
from rewardedit_jax.editing.objective import denoising_loss
from rewardedit_jax.weights.engine import export_tensors
from rewardedit_jax.weights.smartedit import interaction_table, llava_table, qformer_table
from rewardedit_jax.weights.stable_diffusion import unet_table

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


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """SmartEdit with the low-rank matrices of its language model apart, as the published training has it."""
    editor = Editor.load(write_pipeline(tmp_path_factory.mktemp("joint"), lora="kept"))
    return replace(editor, base=replace(editor.base, learns_replies=True))


def training_inputs(base, expected):
    """The inputs of the reference's batch, whose conversations have two templates and one emptied instruction."""
    train, side = expected["train"], base.vision_encoder.config.image_size
    ids, images = train["input_ids"], sorted(train["input_ids"].max() - np.arange(4))
    at = np.nonzero(np.isin(ids, images))[1].reshape(len(ids), 5)
    sources = [Image.fromarray(train[f"source_{i}"]).resize((side, side), Image.Resampling.BICUBIC) for i in range(4)]
    inputs = Inputs(
        pixels=np.stack([np.asarray(source) for source in sources]),
        ids=ids.astype(np.int32),
        image_at=at[:, 0].astype(np.int32),
        reply_from=at[:, 1].astype(np.int32),  # which training does not read
        reply_at=at[:, 1:].astype(np.int32),
        targets=train["targets"].astype(np.int32),
        is_edit=train["is_editing"].astype(bool),
        null_ids=np.repeat(expected["text"]["null_ids"].astype(np.int32), 4, axis=0),
    )
    return jax.tree.map(jnp.asarray, inputs)


@pytest.fixture(scope="module")
def joint_step(joint, expected):
    """(losses, gradients by component) of the joint objective."""
    train, base = expected["train"], joint.base
    inputs = training_inputs(base, expected)
    source, edited = (jnp.asarray(nhwc(train[name])) for name in ("original", "edited"))
    noise, p = jnp.asarray(nhwc(train["noise"])), train["p"]
    keep = {"instruction": jnp.asarray(p >= 0.1), "image": jnp.asarray((p < 0.05) | (p >= 0.15))}
    frozen = {name: joint.params[name] for name in ("vae", "text_encoder", "vision_encoder")}
    trained = {name: tree for name, tree in joint.params.items() if name not in frozen}

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(trained, posterior_noise):
        def loss(trained):
            params = {**frozen, **trained}
            examples = base.precompute(params, source, edited, inputs)
            moments = examples.edited
            clean = base.vae.config.scale_latents(moments.mean + moments.std * posterior_noise)
            conditions = base.condition(params, examples, keep)
            times = jnp.asarray(train["timesteps"])
            error = denoising_loss(base, params, clean, conditions, times, noise) * examples.is_edit
            return error.mean() + examples.reply_loss.mean(), (error.mean(), examples.reply_loss.mean(), conditions)

        return jax.value_and_grad(loss, has_aux=True)(trained)

    return step(trained, jnp.asarray(nhwc(train["posterior_noise"])))


def test_joint_losses(joint_step, expected):
    (loss, (error, reply, conditions)), _ = joint_step
    for found, name in ((loss, "loss"), (error, "sd_loss"), (reply, "lm_loss")):
        assert abs(float(found) - float(expected["train"][name])) < 5e-6 * max(1, float(expected["train"][name]))
    kept = expected["train"]["p"] >= 0.1
    assert farthest(conditions.context[kept], expected["train"]["context"][kept]) < 5e-5
    assert farthest(conditions.residual, nhwc(expected["train"]["v_prime"])) < 5e-5


def test_joint_gradients(joint, joint_step, expected):
    """By the groups of the reference. Of words, the added rows alone have gradients."""
    _, grads = joint_step
    named = {}
    for name, table in (("unet", unet_table), ("language_model", llava_table), ("qformer", qformer_table),
                        ("interaction", interaction_table)):  # fmt: skip
        named |= export_tensors(grads[name], table(getattr(joint.base, name).config))
    known = description()["sizes"]["llm_vocab_before"]
    groups = {
        "sd_query_tokens": ["sd_query_tokens"],
        "lora_A": [name for name in named if "lora_A" in name],
        "lora_B": [name for name in named if "lora_B" in name],
        "sd_qformer": [name for name in named if name.startswith("sd_qformer")],
        "embed_tokens_new_rows": ["model.embed_tokens.weight"],
        "lm_head_new_rows": ["lm_head.weight"],
    }
    norms = dict(zip(description()["train"]["grad_groups"], expected["train"]["grad_norms"], strict=True))
    for part in ("modulate_head", "modulate_transformer", "dimension_reduction_head_zeroconv",
                 "dimension_reduction_head_qformer_out"):  # fmt: skip
        groups[part] = [name for name in named if name.startswith(part)]
    groups["unet"] = list(export_tensors(grads["unet"], unet_table(joint.base.unet.config)))
    for group, names in groups.items():
        norm = np.sqrt(sum(np.square(named[name], dtype=np.float64).sum() for name in names))
        assert abs(norm / norms[group] - 1) < 5e-5, group
    assert not named["model.embed_tokens.weight"][:known].any()
    for rows, name in (("embed", "model.embed_tokens.weight"), ("lm_head", "lm_head.weight")):
        wanted = expected["train"][f"grad_{rows}_new_rows"]
        assert farthest(named[name][known:], wanted) < 2e-4 * np.abs(wanted).max()
    for i, name in enumerate(description()["train"]["grad_full"]):
        wanted = expected["train"][f"grad_{i}"]
        assert farthest(named[name.replace("model.base_model.model.", "model.")], wanted) < 2e-4 * np.abs(wanted).max()


def test_reward_loss_and_gradients(editors, expected):
    """Reward-SmartEdit on the same inputs, in which nothing but the U-Net trains."""
    train, base, params = expected["train"], editors[True].base, editors[True].params
    states = RewardStates(
        jnp.asarray(train["reward_scores"]),
        jnp.asarray(expected["text"]["reward_pooled"][np.asarray(description()["train"]["reward_text_rows"])]),
        jnp.ones(4),
    )
    unet_input = jnp.asarray(nhwc(train["unet_input"]))
    given = Conditions(unet_input[..., 4:], jnp.asarray(train["context"]), states, jnp.asarray(nhwc(train["v_prime"])))

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(unet):
        def loss(unet):
            times = jnp.asarray(train["timesteps"])
            output = base.denoise({**params, "unet": unet}, unet_input[..., :4], times, given)
            return jnp.mean((output - nhwc(train["noise"])) ** 2), output

        return jax.value_and_grad(loss, has_aux=True)(unet)

    (loss, output), grads = step(params["unet"])
    assert farthest(output, nhwc(train["reward_pred"])) < 1e-4
    assert abs(float(loss) - float(train["reward_loss"])) < 5e-6
    named = export_tensors(grads, unet_table(base.unet.config))
    norms = [np.linalg.norm(named[name].ravel()) for name in description()["train"]["reward_grad_names"]]
    np.testing.assert_allclose(norms, train["reward_grad_norms"], rtol=5e-5)
    whole = np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in named.values()))
    assert abs(whole / float(train["reward_global_norm"]) - 1) < 5e-5
