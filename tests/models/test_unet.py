"""The U-Net without PyTorch: configuration, sizes, partition rules, reference outputs and gradients."""

import importlib.util
import json
import re
import zlib
from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jaxtyping import TypeCheckError
from paths import REFERENCES
from tiny_unets import (
    ONE_LEVEL,
    SD1,
    SD2,
    abstract,
    call,
    count,
    inputs,
    normal,
    random_params,
    reward_inputs,
    with_reward,
)

from rewardedit_jax.models.remat import Remat
from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.unet import PARTITION_RULES, UNet, UNetConfig
from rewardedit_jax.weights.engine import WeightMismatch, export_tensors, import_tensors
from rewardedit_jax.weights.stable_diffusion import unet_table, widen_conv_in

SD15 = UNetConfig(in_channels=8, cross_attention_dim=768, sample_size=64)
REWARDS = {
    "base": None,
    "released": RewardConditionConfig(),
    "paper": RewardConditionConfig(layout="paper"),
}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (replace(SD15, in_channels=4), 859_520_964),
        (SD15, 859_532_484),
        (replace(SD15, reward=REWARDS["released"]), 859_532_484 + 5_026_880),
    ],
    ids=["Stable Diffusion 1.5", "InstructPix2Pix", "with released reward"],
)
def test_published_parameter_counts(config, parameters):
    assert count(abstract(config)) == parameters


def first_rule(path):
    """The number of the rule that places a parameter."""
    hits = [i for i, (pattern, _) in enumerate(PARTITION_RULES) if re.fullmatch(pattern, path)]
    assert hits, f"no rule covers {path}"
    return hits[0]


@pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS.keys())
def test_partition_rules_cover_and_divide_sd15(reward):
    """On meshes of up to eight devices along each axis."""
    for path, leaf in flatten_dict(abstract(replace(SD15, reward=reward)), sep="/").items():
        spec = PARTITION_RULES[first_rule(path)][1]
        assert len(spec) <= leaf.ndim, path
        for axis, size in zip(spec, leaf.shape, strict=False):
            assert axis is None or size % 8 == 0, (path, spec, leaf.shape)
        assert leaf.size < 2**17 or any(spec), f"{path} is large and lies on every device"


def test_no_partition_rule_is_dead():
    config = replace(SD15, reward=REWARDS["released"])
    assert {first_rule(path) for path in flatten_dict(abstract(config), sep="/")} == set(range(len(PARTITION_RULES)))


def test_attention_and_feed_forward_split_columns_then_rows():
    def spec(path):
        return tuple(PARTITION_RULES[first_rule(path)][1])

    block = "down_blocks_0/attentions_0/transformer_blocks_0"
    assert {spec(f"{block}/attn2/{to}/kernel") for to in ("to_q", "to_k", "to_v")} == {("fsdp", "tensor")}
    assert spec(f"{block}/ff/net_0/proj/kernel") == ("fsdp", "tensor")
    assert spec(f"{block}/attn1/to_out/kernel") == spec(f"{block}/ff/net_2/kernel") == ("tensor", "fsdp")
    assert spec("up_blocks_1/resnets_2/conv1/kernel") == (None, None, None, "fsdp")


def test_configuration_of_published_files():
    sd21 = {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "upcast_attention": True,
        "block_out_channels": [320, 640, 1280, 1280],
        "num_class_embeds": None,
        "dual_cross_attention": False,
        "sample_size": 96,
    }
    config = UNetConfig.from_hf(sd21)
    assert [config.heads(level) for level in range(4)] == [5, 10, 20, 20]
    assert (config.cross_attention_dim, config.use_linear_projection, config.reward) == (1024, True, None)
    # 865.9 million, as Stable Diffusion 2.1 has.
    assert count(abstract(config)) == 865_910_724


def test_num_attention_heads_takes_precedence_and_is_written_as_diffusers_reads_it():
    config = UNetConfig(attention_head_dim=8, num_attention_heads=(1, 2, 4, 4))
    assert config.heads(2) == 4
    assert config.to_hf()["attention_head_dim"] == (1, 2, 4, 4)
    assert config.to_hf()["num_attention_heads"] is None


@pytest.mark.parametrize("config", [SD1, SD2, with_reward(), with_reward(SD2, layout="paper", sources=("text",))])
def test_configuration_survives_json(config):
    written = json.loads(json.dumps(config.to_hf()))
    assert ("reward_condition" in written) == (config.reward is not None)
    assert UNetConfig.from_hf(written) == config


def test_every_unsupported_setting_is_named_at_once():
    settings = {
        "class_embed_type": "timestep",
        "dual_cross_attention": True,
        "layers_per_block": [1, 2],
        "transformer_layers_per_block": [1, 10],
        "act_fn": "silu",
    }
    with pytest.raises(ValueError, match="support") as error:
        UNetConfig.from_hf(settings)
    assert all(name in str(error.value) for name in settings if name != "act_fn")
    assert "act_fn" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"down_block_types": ["AttnDownBlock2D"] * 4},
        {"up_block_types": ["UpBlock2D"] * 3},
        {"attention_head_dim": [8, 8]},
        {"attention_head_dim": 7},
        {"sample_size": [32, 64]},
    ],
)
def test_sizes_that_do_not_fit_are_an_error(settings):
    with pytest.raises(ValueError, match=r"block_types|attention_head_dim|attention heads|sample_size"):
        UNetConfig.from_hf(settings)


def test_timesteps_are_one_for_all_or_one_each_and_fractions_count():
    params = random_params(SD1)
    sample, timestep, context = inputs(SD1)
    out = call(SD1, params, sample, timestep, context)
    for i, t in enumerate(timestep):
        one = call(SD1, params, sample, t, context)
        np.testing.assert_allclose(one[i], out[i], atol=1e-5)
    whole = call(SD1, params, sample, jnp.full(3, 476), context)
    assert timestep[1] == 476.75
    assert jnp.abs(whole[1] - out[1]).max() > 1e-4
    np.testing.assert_array_equal(whole, call(SD1, params, sample, jnp.int32(476), context))


@pytest.mark.parametrize("config", [SD1, with_reward(), with_reward(layout="paper")], ids=["none", "released", "paper"])
def test_a_residual_is_added_once_before_the_reward_encoder(config):
    """It acts like a bias of `conv_in`, whose output nothing but the reward encoder and the blocks read."""
    params, args = random_params(config), inputs(config)
    given = {} if config.reward is None else reward_inputs(config)
    out = call(config, params, *args, **given)
    zero = jnp.zeros((*args[0].shape[:3], 8))
    np.testing.assert_array_equal(call(config, params, *args, **given, residual=zero), out)
    shift = normal(8, seed=4)
    conv_in = {**params["conv_in"], "bias": params["conv_in"]["bias"] + shift}
    expected = call(config, {**params, "conv_in": conv_in}, *args, **given)
    assert jnp.abs(expected - out).max() > 1e-3
    np.testing.assert_allclose(call(config, params, *args, **given, residual=zero + shift), expected, atol=1e-5)


def test_a_residual_of_another_shape_is_an_error():
    """In the tests, jaxtyping finds it before the network does."""
    sample, *args = inputs(SD1)
    with pytest.raises((ValueError, TypeCheckError), match="residual"):
        call(SD1, random_params(SD1), sample, *args, residual=jnp.zeros((1, *sample.shape[1:3], 8)))


@pytest.mark.parametrize(("h", "w"), [(5, 4), (4, 6), (2, 8)])
def test_sides_that_the_levels_cannot_halve_are_an_error(h, w):
    with pytest.raises(ValueError, match="divisible by 4"):
        call(SD2, random_params(SD2), *inputs(SD2, h, w))


@pytest.mark.parametrize("reward", [None, "released", "paper"])
def test_half_precision_follows_full(reward):
    config = ONE_LEVEL if reward is None else with_reward(ONE_LEVEL, layout=reward)
    params, args = random_params(config), inputs(config)
    given = {} if reward is None else reward_inputs(config)
    expected = call(config, params, *args, **given)
    half = UNet(config, dtype=jnp.bfloat16).apply({"params": params}, *args, **given)
    assert half.dtype == expected.dtype == jnp.float32
    error = np.asarray(half - expected)
    assert 0 < error.std() < 0.03 * expected.std()


def test_parameters_may_be_stored_in_half_precision():
    leaves = jax.tree.leaves(abstract(with_reward(layout="paper"), param_dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_remat_changes_memory_only():
    config = with_reward(ONE_LEVEL)
    params, args, given = random_params(config), inputs(config), reward_inputs(config)
    assert jax.tree.structure(abstract(config, remat="all")) == jax.tree.structure(params)

    def loss(params, remat):
        return jnp.square(UNet(config, remat=remat).apply({"params": params}, *args, **given)).mean()

    def recomputed(remat):
        equations = jax.make_jaxpr(lambda params: loss(params, remat))(params).eqns
        return sum("remat" in equation.primitive.name for equation in equations)

    # Residual blocks: one down, two in the middle, two up; transformers: one, one and two.
    assert [recomputed(remat) for remat in get_args(Remat)] == [0, 9, 9]
    plain, *others = (jax.jit(jax.grad(loss), static_argnums=1)(params, remat) for remat in get_args(Remat))
    for again in others:
        for expected, leaf in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(leaf, expected, atol=1e-5 * float(jnp.abs(expected).max()) + 1e-7)


@pytest.mark.parametrize(
    "config", [SD1, SD2, with_reward(), with_reward(SD2, layout="paper")], ids=["SD1", "SD2", "released", "paper"]
)
def test_export_is_the_inverse_of_import(config):
    params, table = random_params(config), unet_table(config)
    tensors = export_tensors(params, table)
    back = import_tensors(tensors, table, abstract(config))
    jax.tree.map(np.testing.assert_array_equal, back, params)
    dense = config.use_linear_projection
    assert tensors["mid_block.attentions.0.proj_in.weight"].ndim == (2 if dense else 4)


def test_a_missing_and_a_foreign_tensor_are_both_named():
    tensors = export_tensors(random_params(SD1), unet_table(SD1))
    tensors["class_embedding.weight"] = tensors.pop("mid_block.resnets.1.conv2.weight")
    with pytest.raises(WeightMismatch, match=r"class_embedding(.|\n)*mid_block/resnets_1/conv2/kernel"):
        import_tensors(tensors, unet_table(SD1), abstract(SD1))


def test_widened_input_ignores_the_condition_until_trained():
    narrow = replace(SD1, in_channels=4)
    params = random_params(narrow)
    wide = widen_conv_in(params, 8)
    assert jax.tree.map(jnp.shape, wide) == jax.tree.map(lambda leaf: leaf.shape, abstract(SD1))
    sample, timestep, context = inputs(SD1)
    expected = call(narrow, params, sample[..., :4], timestep, context)
    np.testing.assert_allclose(call(SD1, wide, sample, timestep, context), expected, atol=1e-5)
    with pytest.raises(ValueError, match="conv_in reads 8 channels"):
        widen_conv_in(wide, 4)


# The published PyTorch code on weights drawn by name.


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def imported(config, tensors):
    """(configuration, parameters) of a published reward U-Net, whose config.json is silent about the reward."""
    config = UNetConfig.from_hf(config, {name: x.shape for name, x in tensors.items()})
    assert config.reward == RewardConditionConfig()
    return config, import_tensors(tensors, unet_table(config), abstract(config))


@pytest.fixture(scope="module")
def released_unet():
    fixture = json.loads((REFERENCES / "released_unet_a.json").read_text())

    def draw(name, shape):
        rng = np.random.default_rng([fixture["seed"], zlib.crc32(name.encode())])
        x = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("bias"):
            return 0.05 * x
        return (1 + 0.1 * x if len(shape) == 1 else x / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    tensors = {name: draw(name, shape) for name, shape in fixture["state_dict"].items()}
    return (*imported(fixture["config"], tensors), np.load(REFERENCES / "released_unet_a.npz"))


@pytest.mark.parametrize("expected", ["expected", "expected_zero_scores"])
def test_published_reward_unet(released_unet, expected):
    config, params, fixture = released_unet
    scores = jnp.asarray(fixture["reward_scores"]) * (expected == "expected")
    out = jax.jit(UNet(config).apply)(
        {"params": params},
        nhwc(fixture["sample"]),
        jnp.asarray(fixture["timestep"]),
        jnp.asarray(fixture["context"]),
        reward_scores=scores,
        reward_text=jnp.asarray(fixture["negative_embeds"]),
    )
    np.testing.assert_allclose(out, nhwc(fixture[expected]), atol=3e-5)


@pytest.fixture(scope="module")
def editor_unet():
    folder = REFERENCES / "editor_a"
    spec = importlib.util.spec_from_file_location("make_editor_dir", folder / "make_editor_dir.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    fixture = json.loads((folder / "editor_a.json").read_text())
    network = fixture["networks"]["unet"]
    config, params = imported(network["config"], maker.network_tensors(network))
    arrays = {name: np.load(folder / f"{name}.npz") for name in ("text", "unet", "train")}
    return config, params, fixture["train"], arrays


def test_reference_editor_with_fractional_timesteps(editor_unet):
    config, params, _, arrays = editor_unet
    text, fixture = arrays["text"], arrays["unet"]
    out = jax.jit(UNet(config).apply)(
        {"params": params},
        nhwc(fixture["sample"]),
        jnp.asarray(fixture["timestep"]),
        jnp.asarray(text["last_hidden"][fixture["context_rows"]]),
        reward_scores=jnp.asarray(fixture["scores"]),
        reward_text=jnp.asarray(text["pooled"][fixture["pooled_rows"]]),
    )
    np.testing.assert_allclose(out, nhwc(fixture["expected"]), atol=3e-5)


@pytest.mark.slow
def test_reference_editor_loss_and_gradients(editor_unet):
    config, params, recipe, arrays = editor_unet
    text, step = arrays["text"], {name[:-1]: x for name, x in arrays["train"].items() if name.endswith("1")}
    step |= {f"grad_{j}": arrays["train"][f"grad1_{j}"] for j in range(3)}
    latents = jnp.concatenate([nhwc(step["noisy"]), nhwc(step["image_cond"])], axis=-1)

    @jax.jit
    def gradients(params):
        def loss(params):
            pred = UNet(config).apply(
                {"params": params},
                latents,
                jnp.asarray(step["timesteps"], jnp.int32),
                jnp.asarray(text["last_hidden"][step["context_rows"]]),
                reward_scores=jnp.asarray(step["scores"]),
                reward_text=jnp.asarray(text["reward_pooled"][step["pooled_rows"]]),
            )
            return jnp.square(pred - nhwc(step["noise"])).mean(), pred

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, pred), grads = gradients(params)
    np.testing.assert_allclose(pred, nhwc(step["pred"]), atol=3e-5)
    np.testing.assert_allclose(loss, step["loss"], atol=5e-6)
    grads = export_tensors(grads, unet_table(config))
    norms = {name: np.linalg.norm(g.astype(np.float64)) for name, g in grads.items()}
    np.testing.assert_allclose([norms[name] for name in recipe["names"]], step["grad_norms"], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(list(norms.values())), step["global_norm"], rtol=1e-4)
    for j, name in enumerate(recipe["full"]):
        expected = step[f"grad_{j}"]
        assert np.linalg.norm(grads[name] - expected) <= 2e-5 * np.linalg.norm(expected), name
