"""The reward condition: configuration, ablation switches, `keep`, start values, in both layouts."""

import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from tiny_unets import (
    ONE_LEVEL,
    SD1,
    SD2,
    abstract,
    call,
    inputs,
    normal,
    random_params,
    reward_inputs,
    with_reward,
    without_reward,
)

from rewardedit_jax.models.layers import sinusoid
from rewardedit_jax.models.reward_condition import (
    LAYOUTS,
    PATHS,
    PERSPECTIVES,
    SOURCES,
    RewardConditionConfig,
    encode_reward,
    infer_reward_condition,
)
from rewardedit_jax.models.reward_paper import ConditionModule
from rewardedit_jax.models.reward_released import BertCrossAttention
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.weights.engine import export_tensors
from rewardedit_jax.weights.stable_diffusion import unet_table

SUBSETS = {names: [s for k in (1, 2, 3) for s in itertools.combinations(names, k)] for names in (SOURCES, PATHS)}
ABLATIONS = list(itertools.product(LAYOUTS, SUBSETS[SOURCES], SUBSETS[PATHS]))
# Parameters below these patterns exist exactly where (source, path) do; "" stands for either.
MODULES = {
    "released": {
        "reward_addition/add_embedding/.*": ("scores", "addition"),
        "reward_addition/text_linear2/.*": ("text", "addition"),
        "reward_attention/add_embedding2/.*": ("scores", "attention"),
        "reward_attention/text_linear/.*": ("text", "attention"),
        "reward_attention/(ca|proj_deal_norm|proj_deal_proj_in|proj_deal_proj_out)/.*": ("", "attention"),
    },
    "paper": {
        "reward_condition/(score_embedding/.*|score_type)": ("scores", ""),
        "reward_condition/text_type": ("text", ""),
        "reward_attention/.*": ("", "attention"),
        "reward_addition_(down_[01]|mid|up_[01])/linear2/.*": ("", "addition"),
    },
}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("layout", "published"),
        ("sources", ()),
        ("sources", ("scores", "images")),
        ("paths", ("addition", "attention")),
        ("perspectives", ("quality", "quality")),
        ("perspectives", ("quality", "following")),
    ],
)
def test_configuration_refuses(setting, value):
    with pytest.raises(ValueError, match=setting):
        RewardConditionConfig(**{setting: value})


def test_scores_are_encoded_raw_side_by_side_in_order():
    scores = jnp.asarray([[5.0, 2.5, 0.0]])
    reward = encode_reward(RewardConditionConfig(sources=("scores",)), scores, None, None)
    assert reward.scores.shape == (1, 3 * 256)
    i = np.arange(128)
    angle = 2.5 * np.exp(-np.log(10_000) * i / 128)
    np.testing.assert_allclose(reward.scores[0, 256:512], np.concatenate([np.cos(angle), np.sin(angle)]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [("quality",), ("following", "quality"), PERSPECTIVES])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_perspectives_choose_the_columns_of_the_scores(layout, chosen):
    config = with_reward(layout=layout, perspectives=chosen)
    first = {"released": "reward_addition/add_embedding", "paper": "reward_condition/score_embedding"}[layout]
    assert flatten_dict(abstract(config), sep="/")[f"{first}/linear_1/kernel"].shape[0] == 16 * len(chosen)
    params, given = random_params(config), reward_inputs(config)
    out = call(config, params, *inputs(config), **given)
    for column, perspective in enumerate(PERSPECTIVES):
        scores = given["reward_scores"].at[:, column].add(1.0)
        change = jnp.abs(call(config, params, *inputs(config), **{**given, "reward_scores": scores}) - out).max()
        assert (change > 1e-4) == (perspective in chosen), perspective


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "sources", "paths"), ABLATIONS)
def test_an_ablation_has_only_its_modules_and_uses_each_source(layout, sources, paths):
    config = with_reward(layout=layout, sources=sources, paths=paths)
    found = {path for path in flatten_dict(abstract(config), sep="/") if path.startswith("reward_")}
    for pattern, needs in MODULES[layout].items():
        hits = {path for path in found if re.fullmatch(pattern, path)}
        assert bool(hits) == all(need in (*sources, *paths, "") for need in needs), pattern
        found -= hits
    assert not found

    params, given = random_params(config), reward_inputs(config)
    out = call(config, params, *inputs(config), **given)
    assert out.shape == (3, 8, 4, 4)
    assert jnp.isfinite(out).all()
    for name, value in given.items():
        other = call(config, params, *inputs(config), **{**given, name: value[::-1] + 0.5})
        assert jnp.abs(other - out).max() > 1e-4, name


@pytest.mark.parametrize("paths", [("attention",), ("addition",), PATHS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_keep_zero_is_the_base_unet_exactly(layout, paths):
    config = with_reward(layout=layout, paths=paths)
    params, args, given = random_params(config), inputs(config), reward_inputs(config)
    base = call(SD1, without_reward(params), *args)
    full = call(config, params, *args, **given)
    assert jnp.abs(full - base).max() > 1e-3
    mask = jnp.asarray([0.0, 1.0, 0.0])
    half = call(config, params, *args, **given, reward_keep=mask)
    np.testing.assert_array_equal(half[::2], base[::2])
    np.testing.assert_array_equal(half[1], full[1])
    np.testing.assert_array_equal(call(config, params, *args, **given, reward_keep=mask > 0), half)
    np.testing.assert_array_equal(call(config, params, *args), base)


def test_the_paper_layout_starts_from_the_base_unet():
    config = with_reward(layout="paper")
    module = UNet(config)

    @jax.jit
    def start_values():
        params = module.init(jax.random.key(0), *module.example_inputs())["params"]
        return {name: tree for name, tree in params.items() if name.startswith("reward_")}

    start = flatten_dict(start_values(), sep="/")
    drawn = flatten_dict(random_params(config), sep="/")
    zero = {path for path, x in start.items() if path.endswith("kernel") and not x.any()}
    ends = r"reward_attention/(to_out|fc2)/kernel|reward_addition_(down_[01]|mid|up_[01])/linear2/kernel"
    assert len(zero) == 7
    assert all(re.fullmatch(ends, path) for path in zero)
    params = unflatten_dict({**drawn, **start}, sep="/")
    args = inputs(config)
    with_it = call(config, params, *args, **reward_inputs(config))
    np.testing.assert_array_equal(with_it, call(SD1, without_reward(params), *args))


def test_the_papers_addition_follows_every_block():
    found = {name for name in abstract(with_reward(SD2, layout="paper")) if name.startswith("reward_addition_")}
    blocks = ("down_0", "down_1", "down_2", "mid", "up_0", "up_1", "up_2")
    assert found == {f"reward_addition_{block}" for block in blocks}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_reach_every_reward_parameter(layout):
    config = with_reward(ONE_LEVEL, layout=layout)
    module, params, args, given = UNet(config), random_params(config), inputs(config), reward_inputs(config)

    def loss(params, mask):
        return jnp.square(module.apply({"params": params}, *args, **given, reward_keep=mask)).mean()

    gradient = jax.jit(jax.grad(loss))
    flat = flatten_dict(gradient(params, jnp.ones(3)), sep="/")
    # A shift of all keys does not move a softmax.
    silent = {path for path, g in flat.items() if path.startswith("reward_") and jnp.abs(g).max() < 1e-7}
    assert all(re.search(r"(to_k|attention_self_key)/bias", path) for path in silent)
    flat = flatten_dict(gradient(params, jnp.zeros(3)), sep="/")
    assert not any(g.any() for path, g in flat.items() if path.startswith("reward_"))


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (SD1, {"reward_scores": jnp.zeros((3, 3))}),
        (SD1, {"reward_keep": jnp.zeros(3)}),
        (with_reward(), {"reward_scores": jnp.zeros((3, 3))}),
        (with_reward(sources=("scores",)), {"reward_text": jnp.zeros((3, 12))}),
        (with_reward(), {"reward_scores": jnp.zeros((3, 3)), "reward_text": jnp.zeros((3, 7, 12))}),
        (
            with_reward(layout="paper"),
            {"reward_scores": jnp.zeros((3, 3)), "reward_text": jnp.zeros((3, 12))},
        ),
    ],
    ids=["no modules", "mask alone", "no text", "text only", "tokens for pooled", "pooled for tokens"],
)
def test_what_a_unet_does_not_read_is_an_error(config, given):
    with pytest.raises(ValueError, match=r"this U-Net|without reward modules"):
        jax.eval_shape(UNet(config).apply, {"params": abstract(config)}, *inputs(config), **given)


def test_the_papers_condition_by_the_equations():
    text, scores = normal(2, 7, 12), jnp.asarray([[5.0, 2.0, 1.0], [0.0, 3.0, 4.0]])
    module = ConditionModule(12)
    config = RewardConditionConfig(layout="paper", score_channels=16)
    reward = encode_reward(config, scores, text, None)
    params = module.init(jax.random.key(0), reward)["params"]
    condition = module.apply({"params": params}, reward)
    tokens, pooled = condition.tokens, condition.pooled

    mlp, silu = params["score_embedding"], jax.nn.silu
    encoded = jnp.concatenate([sinusoid(scores[:, i], 16) for i in range(3)], axis=-1)
    hidden = silu(encoded @ mlp["linear_1"]["kernel"] + mlp["linear_1"]["bias"])
    score = hidden @ mlp["linear_2"]["kernel"] + mlp["linear_2"]["bias"] + params["score_type"]
    np.testing.assert_allclose(tokens[:, :7], text + params["text_type"], atol=1e-6)
    # One score token for each text token: half of the weight in a mean.
    np.testing.assert_allclose(tokens[:, 7:], jnp.repeat(score[:, None], 7, axis=1), atol=1e-5)
    np.testing.assert_allclose(pooled, ((text + params["text_type"]).mean(axis=1) + score) / 2, atol=1e-5)


def test_the_released_attention_normalises_small_states_fully():
    """BERT's epsilon of 1e-12: with all products zero, what is left is a layer norm of a layer norm."""
    module = BertCrossAttention(2, 0.0)
    x, tokens = 1e-4 * normal(1, 6, 8), normal(1, 2, 8, seed=2)
    params = module.init(jax.random.key(0), x, tokens, True)
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * (path[-1].key == "scale"), params)
    np.testing.assert_allclose(module.apply(params, x, tokens, True).std(axis=-1), 1.0, atol=1e-3)


def test_dropout_needs_and_follows_its_rng():
    config = with_reward(dropout=0.5)
    module, params, args, given = UNet(config), random_params(config), inputs(config), reward_inputs(config)

    def train(seed, given):
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply({"params": params}, *args, **given, deterministic=False, rngs=rngs)

    one, still = train(0, given), module.apply({"params": params}, *args, **given)
    np.testing.assert_array_equal(one, train(0, given))
    assert jnp.abs(one - train(1, given)).max() > 1e-3
    assert jnp.abs(one - still).max() > 1e-3
    # The editor itself has no dropout.
    np.testing.assert_allclose(train(0, {}), module.apply({"params": params}, *args), atol=1e-5)


def test_without_dropout_training_is_evaluation():
    """The written-out attention of training and the kernel of evaluation are the same function."""
    module = BertCrossAttention(2, 0.0)
    x, tokens = normal(2, 9, 8), normal(2, 2, 8, seed=2)
    params = module.init(jax.random.key(0), x, tokens, True)
    rngs = {"dropout": jax.random.key(1)}
    expected = module.apply(params, x, tokens, True)
    np.testing.assert_allclose(module.apply(params, x, tokens, False, rngs=rngs), expected, atol=1e-6)


def test_dropout_hits_the_probabilities_and_both_outputs():
    module = BertCrossAttention(2, 0.5)
    x, tokens = normal(1, 6, 8), normal(1, 2, 8, seed=2)
    params = module.init(jax.random.key(0), x, tokens, True)
    dropped = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            dropped.append(args[0].shape)
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        module.apply(params, x, tokens, False, rngs={"dropout": jax.random.key(1)})
    assert dropped == [(1, 2, 6, 2), (1, 6, 8), (1, 6, 8)]


@pytest.mark.parametrize(("layout", "sources", "paths"), ABLATIONS)
def test_names_tell_the_configuration(layout, sources, paths):
    """A published reward U-Net's config.json is that of a plain one."""
    config = with_reward(layout=layout, sources=sources, paths=paths, heads=8, score_channels=256)
    shapes = {name: x.shape for name, x in export_tensors(random_params(config), unet_table(config)).items()}
    plain = {name: value for name, value in config.to_hf().items() if name != "reward_condition"}
    assert UNetConfig.from_hf(plain, shapes) == config
    assert UNetConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_do_not_tell_which_perspectives(layout):
    config = with_reward(layout=layout, perspectives=("quality",), score_channels=256)
    shapes = {name: x.shape for name, x in export_tensors(random_params(config), unet_table(config)).items()}
    with pytest.raises(ValueError, match="perspectives"):
        infer_reward_condition(shapes)
    assert UNetConfig.from_hf(config.to_hf(), shapes) == config
