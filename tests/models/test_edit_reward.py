"""EditReward's model: the reference scores, and that one packed pass is two passes."""

import json
import zlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from flax.traverse_util import flatten_dict
from paths import REFERENCES
from safetensors.numpy import load_file, save_file
from tiny_scorers import tiny_config, tiny_scorer

from rewardedit_jax.models import qwen2_5_vl
from rewardedit_jax.models.edit_reward import AGGREGATIONS, PARTITION_RULES, EditReward, RewardHeadsConfig, aggregate
from rewardedit_jax.models.qwen2_5_vl import Qwen2_5VL
from rewardedit_jax.params import abstract_params, find_rule
from rewardedit_jax.weights.files import WeightFileError
from rewardedit_jax.weights.pretrained import load_pretrained, save_pretrained

PROMPTS = (("dim1", 0), ("dim2", 1))


def drawn(name, shape, seed):
    """By the rule of the fixtures' README."""
    x = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    if name.endswith("bias"):
        return 0.05 * x
    return (1 + 0.1 * x if len(shape) == 1 else x / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """(module, params, arrays) of the published class at tiny size, read from files with published names."""
    fixture = REFERENCES / "edit_reward_a"
    told, arrays = json.loads(fixture.with_suffix(".json").read_text()), np.load(fixture.with_suffix(".npz"))
    tensors = {name: drawn(name, shape, told["seed"]) for name, shape in told["state_dict"].items()}
    directory = tmp_path_factory.mktemp("edit_reward")
    (directory / "config.json").write_text(json.dumps(told["config"]))
    save_file(tensors, directory / "model.safetensors")
    return *load_pretrained(directory), arrays


@pytest.mark.parametrize(("prompt", "head"), PROMPTS)
def test_states_are_those_of_the_published_class(reference, prompt, head):
    module, params, arrays = reference
    ids, mask = arrays[f"input_ids_{prompt}"], arrays[f"attention_mask_{prompt}"]
    grids = arrays["image_grid_thw"]
    found = module.apply({"params": params}, ids, mask, arrays["pixel_values"], grids, head=head)
    np.testing.assert_allclose(found.outputs, arrays[f"expected_head_{head}"], atol=1e-5)
    np.testing.assert_allclose(found.hidden, arrays[f"expected_pooled_hidden_{prompt}"], atol=5e-5)
    np.testing.assert_allclose(found.image_features, arrays["expected_image_features"], atol=5e-5)


def _few_tokens(module):
    """A row of text, four image tokens and the reward token, with the image: a call that is right."""
    ids = np.array([[5, *[module.config.image_token_id] * 4, 6, module.config.reward_token_id]])
    return [ids, np.ones_like(ids), np.zeros((16, 1176), np.float32), np.array([[1, 4, 4]])]


def _masked(module, call):
    call[1][0, -1] = 0


def _one_image_fewer(module, call):
    call[2], call[3] = call[2][:4], np.array([[1, 2, 2]])


def _unknown_token(module, call):
    call[0][0, 0] = 601


def _negative_token(module, call):
    call[0][0, 0] = -1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_unknown_token, r"input_ids.*601: expected 0\.\.600"),
        (_negative_token, r"input_ids.*-1\..*: expected 0\.\.600"),
        (_masked, r"rows \[0\] .*reward token.*600"),
        (_one_image_fewer, "4 image tokens.*599.*expected 1"),
    ],
)
def test_wrong_inputs_are_refused(harm, message):
    module, params = tiny_scorer()
    call = _few_tokens(module)
    assert np.isfinite(module.apply({"params": params}, *call).outputs).all()
    harm(module, call)
    with pytest.raises(ValueError, match=message):
        module.apply({"params": params}, *call)


@pytest.mark.parametrize(("kind", "head"), [("separate", 2), ("separate", -1), ("single", 1)])
def test_there_are_no_other_heads(kind, head):
    module, params = tiny_scorer(tiny_config(kind))
    with pytest.raises(ValueError, match=rf"head={head}: expected 0\.\."):
        module.apply({"params": params}, *_few_tokens(module), head=head)


@pytest.mark.parametrize("how", ["mean", "min", "sum"])
def test_aggregates_are_the_published_ones(how):
    arrays = np.load(REFERENCES / "edit_reward_a.npz")
    outputs = jnp.stack([arrays["expected_head_0"], arrays["expected_head_1"]], axis=1)
    np.testing.assert_allclose(aggregate(outputs, how), arrays[f"expected_{how}"], atol=1e-6)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_a_shared_head_is_never_summed(how):
    """Published code takes the mean of its outputs there; a single prompt's outputs are what they are."""
    arrays = np.load(REFERENCES / "edit_reward_a.npz")
    outputs = jnp.stack([arrays["expected_head_0"], arrays["expected_head_1"]], axis=1)
    found = aggregate(outputs, RewardHeadsConfig("shared", aggregation=how).aggregation)
    np.testing.assert_allclose(found, arrays["expected_mean" if how == "sum" else f"expected_{how}"], atol=1e-6)
    assert RewardHeadsConfig("separate", aggregation=how).aggregation == how
    alone = aggregate(outputs[:, :1], RewardHeadsConfig("single", aggregation=how).aggregation)
    np.testing.assert_allclose(alone, outputs[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "aggregation", "warns"), [("shared", "sum", True), ("shared", "min", False), ("separate", "sum", False)]
)
def test_a_sum_of_a_shared_head_is_replaced_with_a_warning(monkeypatch, kind, aggregation, warns):
    messages = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    config = RewardHeadsConfig(kind, aggregation=aggregation)
    assert config.aggregation == ("mean" if warns else aggregation)
    assert len(messages) == warns
    assert all("'sum'" in message and "'mean'" in message for message in messages)
    replace(config, hidden_sizes=(8, 4))
    assert len(messages) == warns  # once per choice, not for every copy


def test_the_base_model_gives_the_states_of_the_reward_model():
    """`Qwen2_5VL` on the same parameters: hidden states of all tokens, without reward token and heads."""
    module, params = tiny_scorer()
    call = _few_tokens(module)
    base = Qwen2_5VL(module.config).apply({"params": without_heads(params)}, *call)
    found = module.apply({"params": params}, *call)
    assert base.hidden.shape == (1, 7, 32)
    np.testing.assert_array_equal(base.hidden[:, -1], found.hidden)
    np.testing.assert_array_equal(base.image_features, found.image_features)


@pytest.mark.parametrize("harm", [_unknown_token, _one_image_fewer])
def test_the_base_model_refuses_wrong_inputs(harm):
    module, params = tiny_scorer()
    call = _few_tokens(module)
    harm(module, call)
    with pytest.raises(ValueError, match="input_ids"):
        Qwen2_5VL(module.config).apply({"params": without_heads(params)}, *call)


def test_traced_ids_are_not_checked():
    """Under `jax.jit` their values are unknown; grids and head are still concrete."""
    module, params = tiny_scorer()
    ids, mask, pixels, grids = _few_tokens(module)
    jitted = jax.jit(lambda ids, mask: module.apply({"params": params}, ids, mask, pixels, grids).outputs)
    np.testing.assert_allclose(
        jitted(ids, mask), module.apply({"params": params}, ids, mask, pixels, grids).outputs, atol=1e-5
    )
    assert jitted(ids + 10_000, mask).shape == (1, 2)


@pytest.mark.parametrize(("network", "rules"), [(EditReward, PARTITION_RULES), (Qwen2_5VL, qwen2_5_vl.PARTITION_RULES)])
def test_partition_rules_cover_every_parameter(network, rules):
    paths = flatten_dict(abstract_params(network(tiny_config())), sep="/")
    assert all(find_rule(rules, path) for path in paths)
    assert any(path.startswith("heads/") for path in paths) == (network is EditReward)


@pytest.mark.parametrize("kind", ["separate", "shared", "single"])
def test_a_saved_scorer_is_read_back(tmp_path, kind):
    config = tiny_config(kind, "mrope", "min")
    module, params = tiny_scorer(config)
    save_pretrained(module, params, tmp_path)
    found, again = load_pretrained(tmp_path)
    assert found.config == config
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_base_model_has_no_heads_and_positions_of_its_authors(tmp_path):
    module, params = tiny_scorer()
    save_pretrained(module.clone(config=replace(module.config, heads=None)), without_heads(params), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in told.items() if k != "reward_model"}))
    found, again = load_pretrained(tmp_path)
    assert (found.config.heads, found.config.positions) == (None, "mrope")
    out = found.apply({"params": again}, *found.example_inputs())
    assert out.outputs is None
    assert out.hidden.shape == (1, 32)


def without_heads(params):
    return {name: tree for name, tree in params.items() if name != "heads"}


def test_heads_of_another_layout_are_refused(tmp_path):
    module, params = tiny_scorer()
    save_pretrained(module, params, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["rm_heads.head_0.6.weight"] = tensors.pop("rm_heads.head_0.5.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightFileError, match=r"rm_heads\.head_0\.5\.weight"):
        load_pretrained(tmp_path)
