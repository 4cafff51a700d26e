"""The whole editor against the published PyTorch code: tests/references/README.md has the tolerances."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rewardedit_jax import Editor, Reward, load_pretrained
from rewardedit_jax.bases.instruct_pix2pix import Conditions, RewardStates
from rewardedit_jax.data.clip_tokenizer import encode_texts, load_clip_tokenizer
from rewardedit_jax.editing.objective import denoising_loss
from rewardedit_jax.training.optimizer import make_optimizer
from rewardedit_jax.weights.engine import export_tensors
from rewardedit_jax.weights.stable_diffusion import unet_table


@pytest.fixture(scope="module")
def expected(editor_a_fixture):
    """The json and the arrays by file name."""
    arrays = {name: np.load(editor_a_fixture / f"{name}.npz") for name in ("text", "vae", "edit", "train")}
    return {"json": json.loads((editor_a_fixture / "editor_a.json").read_text("utf-8")), **arrays}


@pytest.fixture(scope="module")
def editor(editor_a_dir):
    return Editor.load(editor_a_dir)


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def farthest(got, wanted):
    return np.abs(np.asarray(got) - wanted).max()


def test_token_ids(editor_a_dir, expected):
    tokenizer, texts = load_clip_tokenizer(editor_a_dir / "tokenizer"), expected["json"]
    for strings, ids in (("strings", "token_ids"), ("reward_texts", "reward_token_ids")):
        np.testing.assert_array_equal(encode_texts(tokenizer, texts[strings]).ids, expected["text"][ids])
    extra = encode_texts(tokenizer, texts["extra_strings"])
    np.testing.assert_array_equal(extra.ids, expected["text"]["extra_token_ids"])
    assert extra.cut.any()


def test_text_encoder(editor_a_dir, expected):
    module, params = load_pretrained(editor_a_dir / "text_encoder")
    text = expected["text"]
    ids = jnp.concatenate([text["token_ids"], text["reward_token_ids"]])
    states = jax.jit(module.apply)({"params": params}, ids)
    assert farthest(states.last_hidden[:3], text["last_hidden"]) < 3e-5
    assert farthest(states.pooled[:3], text["pooled"]) < 3e-5
    assert farthest(states.pooled[3:], text["reward_pooled"]) < 3e-5


def test_vae(editor_a_dir, expected):
    module, params = load_pretrained(editor_a_dir / "vae")
    vae = expected["vae"]
    posterior = module.apply({"params": params}, jnp.asarray(nhwc(vae["images"])), method="encode")
    assert farthest(posterior.mean, nhwc(vae["mean"])) < 2e-5
    assert farthest(posterior.log_var, nhwc(vae["logvar"])) < 2e-5
    decoded = module.apply({"params": params}, jnp.asarray(nhwc(vae["latents"])), method="decode")
    assert farthest(decoded, nhwc(vae["decoded"])) < 3e-5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sampler"), [("ddim", "ddim"), ("dpm", "dpmpp_2m"), ("euler", "euler_ancestral")])
def test_edits(editor, expected, name, sampler):
    edit, settings = expected["edit"], expected["json"]["edit"]
    edited = editor.edit(
        edit["image"],
        settings["instruction"],
        reward=Reward(*edit["scores"]),
        steps=settings["steps"][name],
        text_guidance=settings["guidance_scale"],
        image_guidance=settings["image_guidance_scale"],
        sampler=sampler,
        latents=nhwc(edit["init_latents"]),
        noise=nhwc(edit["euler_noises"]) if name == "euler" else None,
        resolution=None,
        output="array",
    )
    assert edited.dtype == np.float32
    assert farthest(edited, edit[f"{name}_image"]) < 1e-4


@pytest.fixture(scope="module")
def two_steps(editor, expected):
    """(loss, gradients, parameters) of two optimizer steps, under the torch names of the U-Net."""
    told = expected["json"]["train"]
    optimizer, table = make_optimizer(optimizer_config(told), steps=2), unet_table(editor.base.unet.config)

    @jax.jit
    def step(unet, state, frozen, example):
        def loss(unet):
            return denoising_loss(editor.base, {**frozen, "unet": unet}, *example).mean()

        value, grads = jax.value_and_grad(loss)(unet)
        updates, state = optimizer.update(grads, state, unet)
        return value, grads, optax.apply_updates(unet, updates), state

    unet, frozen = editor.params["unet"], {name: editor.params[name] for name in ("vae", "text_encoder")}
    state, results = optimizer.init(unet), []
    for i in (1, 2):
        value, grads, unet, state = step(unet, state, frozen, training_example(expected, i))
        results.append((float(value), export_tensors(grads, table), export_tensors(unet, table)))
    return results


def optimizer_config(told):
    b1, b2 = told["betas"]
    return ConfigDict(
        {
            "learning_rate": told["lr"],
            "schedule": "constant",
            "warmup_steps": 0,
            "b1": b1,
            "b2": b2,
            "eps": told["eps"],
            "weight_decay": told["weight_decay"],
            "clip_norm": told["max_grad_norm"],
            "mu_dtype": None,
        },
        type_safe=False,
    )


def training_example(expected, step):
    """The arguments of `denoising_loss` after the schedule."""
    train, text = expected["train"], expected["text"]
    clean, condition, noise = (nhwc(train[f"{name}{step}"]) for name in ("z", "image_cond", "noise"))
    pooled = text["reward_pooled"][train[f"pooled_rows{step}"]]
    reward = RewardStates(jnp.asarray(train[f"scores{step}"]), jnp.asarray(pooled), jnp.ones(2))
    context = jnp.asarray(text["last_hidden"][train[f"context_rows{step}"]])
    timesteps = jnp.asarray(train[f"timesteps{step}"], jnp.int32)
    return jnp.asarray(clean), Conditions(jnp.asarray(condition), context, reward), timesteps, jnp.asarray(noise)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_loss(two_steps, expected, step):
    loss, _, _ = two_steps[step - 1]
    assert abs(loss - expected["train"][f"loss{step}"]) < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_gradients(two_steps, expected, step):
    train, told, (_, grads, _) = expected["train"], expected["json"]["train"], two_steps[step - 1]
    norms = [np.linalg.norm(grads[name].astype(np.float64)) for name in told["names"]]
    np.testing.assert_allclose(norms, train[f"grad_norms{step}"], rtol=1e-5)
    total = np.sqrt(sum(np.square(grad, dtype=np.float64).sum() for grad in grads.values()))
    np.testing.assert_allclose(total, train[f"global_norm{step}"], rtol=1e-4)
    for j, name in enumerate(told["full"]):
        wanted = train[f"grad{step}_{j}"]
        assert np.linalg.norm(grads[name] - wanted) < 2e-5 * np.linalg.norm(wanted), name


@pytest.mark.slow
def test_parameters_after_each_step(two_steps, expected):
    train = expected["train"]
    bounds = ((2e-8, 4e-7, 3e-8), (4e-8, 6e-7, 6e-8))
    for j, name in enumerate(expected["json"]["train"]["full"]):
        # Elsewhere rounding decides the step, which AdamW makes as long as any other.
        told = np.minimum(np.abs(train[f"grad1_{j}"]), np.abs(train[f"grad2_{j}"])) >= 1e-5
        for i, (_, _, params) in enumerate(two_steps, 1):
            off = np.abs(params[name] - train[f"param{i}_{j}"])
            assert off[told].max() < bounds[i - 1][j], (name, i)
            assert off.max() < i * 1e-4
            # What it is compared with has moved by far more.
            assert np.abs(train[f"param{i}_{j}"] - train[f"param0_{j}"]).max() > 100 * bounds[i - 1][j]
