"""The editor that a run starts from: what is read, what is drawn, what is widened or added."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import assert_same, draw, get_config, tiny_editor, tiny_text_encoder, tiny_unet, tiny_vae

from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.data.clip_tokenizer import load_clip_tokenizer
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.params import random_params
from rewardedit_jax.shapes.tokenizers import shapes_tokenizer
from rewardedit_jax.weights.hub import SHIPPED, ModelNotFound
from rewardedit_jax.weights.stable_diffusion import widen_conv_in


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory) -> Path:
    """A pipeline with a U-Net that reads noisy latents only."""
    directory = tmp_path_factory.mktemp("sd")
    tiny_editor(in_channels=4).save(directory)
    return directory


@pytest.fixture(scope="module")
def plain_editor(tmp_path_factory) -> Path:
    """An InstructPix2Pix pipeline without reward modules."""
    directory = tmp_path_factory.mktemp("ip2p")
    tiny_editor().save(directory)
    return directory


def starting_editor(config):
    """The editor that training starts from."""
    start = InstructPix2Pix.start(config)
    return Editor(start.base, start.init(jax.random.key(config.seed)))


def recipe(init, layout="", seed=0, **network):
    config = get_config("reward_ip2p", "debug")
    config.init, config.seed, config.reward.layout = str(init), seed, layout
    config.network.update(network)
    return config


def small(**config):
    """A network's part of a recipe, without the fields that only name its kind."""
    return {name: value for name, value in config.items() if not name.startswith(("_", "architectures", "model_type"))}


@cache
def compiled(module):
    # Little of the compiler's effort: what is computed does not depend on it.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(lambda p, *inputs: module.apply({"params": p}, *inputs), compiler_options=options)


def call(module, params, sample):
    context = jnp.asarray(np.random.default_rng(3).standard_normal((2, 5, 12), np.float32))
    return np.asarray(compiled(module)(params, sample, jnp.asarray([7, 700]), context))


def latents(channels, seed):
    return np.random.default_rng(seed).standard_normal((2, 8, 8, channels), np.float32)


@pytest.mark.slow
def test_stable_diffusion_becomes_an_editor_that_ignores_the_condition_at_first(stable_diffusion):
    editor = starting_editor(recipe(stable_diffusion))
    before, params = tiny_unet(in_channels=4), draw(tiny_unet(in_channels=4), seed=0)
    assert editor.base.unet.config.in_channels == 8
    kernel = editor.params["unet"]["conv_in"]["kernel"]
    assert kernel.shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(kernel[:, :, :4], params["conv_in"]["kernel"])
    assert not np.any(kernel[:, :, 4:])
    noisy = latents(4, seed=1)
    expected = call(before, params, noisy)
    for condition in (np.zeros_like(noisy), latents(4, seed=2), 100 * latents(4, seed=3)):
        got = call(editor.base.unet, editor.params["unet"], np.concatenate([noisy, condition], axis=-1))
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.slow
def test_but_the_condition_is_learnt_from():
    """The new weights are zero, their gradients are not."""
    module = tiny_unet()
    params = widen_conv_in(draw(tiny_unet(in_channels=4)), 8)
    sample = jnp.asarray(latents(8, seed=1))

    def loss(p):
        return jnp.mean(module.apply({"params": p}, sample, jnp.asarray([7, 700]), jnp.ones((2, 5, 12))) ** 2)

    gradient = jax.jit(jax.grad(loss))(params)["conv_in"]["kernel"]
    assert np.abs(gradient[:, :, 4:]).max() > 1e-3 * np.abs(gradient).max()


def test_a_unet_that_reads_too_much_is_refused():
    with pytest.raises(ValueError, match=r"conv_in reads 8 channels.* 4"):
        widen_conv_in(draw(tiny_unet()), 4)


@pytest.mark.parametrize("layout", ["released", "paper"])
def test_reward_modules_are_added_to_a_plain_editor_whose_weights_stay(plain_editor, layout):
    editor = starting_editor(recipe(plain_editor, layout))
    base = draw(tiny_unet(), seed=0)
    params = editor.params["unet"]
    assert editor.base.unet.config.reward.layout == layout
    assert_same({name: params[name] for name in base}, base)
    assert all(isinstance(leaf, np.ndarray) for name in base for leaf in jax.tree.leaves(params[name]))
    added = params.keys() - base.keys()
    assert added
    assert all(name.startswith("reward_") for name in added)
    assert all(np.isfinite(leaf).all() for name in added for leaf in jax.tree.leaves(params[name]))
    assert_same(editor.params["vae"], draw(tiny_vae(), seed=1))
    assert_same(editor.params["text_encoder"], draw(tiny_text_encoder(), seed=2))


def test_an_editor_with_reward_modules_keeps_them(tmp_path):
    start = tiny_editor(layout="released")
    start.save(tmp_path)
    editor = starting_editor(recipe(tmp_path, "paper"))  # what is there goes before what the recipe would add
    assert editor.base.unet.config == start.base.unet.config
    assert_same(editor.params, start.params)


def test_the_seed_decides_what_is_drawn(plain_editor):
    first, again, other = (starting_editor(recipe(plain_editor, "released", seed=s)) for s in (0, 0, 1))
    assert_same(first.params["unet"], again.params["unet"])
    kernels = [editor.params["unet"]["reward_addition"]["text_linear2"]["kernel"] for editor in (first, other)]
    assert not np.array_equal(*kernels)


def test_only_what_is_missing_is_drawn():
    module, known = tiny_text_encoder(), draw(tiny_text_encoder(), seed=5)
    complete = random_params(module, jax.random.key(0), known)
    assert_same(complete, known)
    del known["encoder"]["layers_1"]["mlp"]["fc1"]["bias"]
    drawn = random_params(module, jax.random.key(0), known)
    assert_same(drawn["encoder"]["layers_0"], known["encoder"]["layers_0"])
    bias = drawn["encoder"]["layers_1"]["mlp"]["fc1"]["bias"]
    assert isinstance(bias, jax.Array)
    assert not bias.any()  # as the layer starts


def test_components_that_the_recipe_describes_start_from_scratch(plain_editor):
    text = small(**tiny_text_encoder().config.to_hf())
    for name in ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"):
        del text[name]  # the tokenizer says these
    config = recipe(plain_editor, text_encoder=text, tokenizer="shapes")
    editor = starting_editor(config)
    assert editor.base.text_encoder.config == tiny_text_encoder().config
    shipped = load_clip_tokenizer(SHIPPED / "shapes" / "tokenizer")
    assert editor.base.tokenizer.get_vocab() == shipped.get_vocab()
    assert_same(editor.params["unet"], draw(tiny_unet(), seed=0))
    table = editor.params["text_encoder"]["embeddings"]["token_embedding"]["embedding"]
    assert table.shape == (len(shapes_tokenizer()), 12)
    assert not np.array_equal(table, draw(tiny_text_encoder(), 2)["embeddings"]["token_embedding"]["embedding"])


def test_settings_of_the_recipe_reach_the_networks(plain_editor):
    config = recipe(plain_editor)
    config.compute.dtype, config.compute.remat = "bfloat16", "all_but_products"
    networks = starting_editor(config).base
    assert (networks.unet.dtype, networks.unet.remat) == ("bfloat16", "all_but_products")
    assert networks.text_encoder.dtype == "bfloat16"
    assert jnp.dtype(networks.vae.dtype) == jnp.float32


def test_the_schedule_is_the_start_models_but_for_what_the_recipe_says(plain_editor):
    config = recipe(plain_editor)
    assert starting_editor(config).base.process == tiny_editor().base.process
    config.schedule = {"prediction_type": "v_prediction"}
    schedule = starting_editor(config).base.process
    assert schedule.prediction_type == "v_prediction"
    assert schedule.to_config()["beta_end"] == 0.012


def test_nothing_to_start_from(tmp_path):
    with pytest.raises(ModelNotFound, match="no model_index"):
        starting_editor(recipe(tmp_path))


@pytest.mark.slow
def test_a_world_from_scratch_needs_no_start_model():
    config = get_config("ip2p", "debug")
    config.init = ""
    config.network.unet = {**tiny_unet().config.to_hf(), "in_channels": 8}
    config.network.vae = small(**tiny_vae().config.to_hf())
    config.network.text_encoder.update(hidden_size=12, intermediate_size=16)
    editor = starting_editor(config)
    assert editor.base.process.prediction_type == "v_prediction"
    assert editor.base.vae.config == tiny_vae().config
