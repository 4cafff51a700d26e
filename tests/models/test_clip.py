"""CLIP's towers without PyTorch: masks, the end of a text, configurations, partition rules, reference outputs."""

import importlib.util
import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from paths import REFERENCES

from rewardedit_jax.models.clip import (
    PARTITION_RULES,
    TEXT_PARTITION_RULES,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    end_of_text,
)
from rewardedit_jax.models.clip_vision import PARTITION_RULES as VISION_PARTITION_RULES
from rewardedit_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.models.encoder import quick_gelu
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.clip import clip_table, text_table, vision_table
from rewardedit_jax.weights.engine import WeightMismatch, export_tensors, import_tensors

FIXTURE = REFERENCES / "editor_a"
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = CLIPTextConfig(**SMALL, vocab_size=20, max_position_embeddings=9, eos_token_id=19, projection_dim=6)
VISION = CLIPVisionConfig(**SMALL, image_size=12, patch_size=4, projection_dim=6)
SD15_TEXT = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
VIT_L = CLIPVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    patch_size=14,
    projection_dim=768,
)
CLIP = CLIPConfig(text=TEXT, vision=VISION)
TOWERS = {
    "text": (CLIPTextModel, TEXT, text_table, TEXT_PARTITION_RULES),
    "vision": (CLIPVisionModel, VISION, vision_table, VISION_PARTITION_RULES),
}
NETWORKS = {**TOWERS, "whole": (CLIPModel, CLIP, clip_table, PARTITION_RULES)}


def random_params(module, seed=0):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        x = rng.standard_normal(leaf.shape, np.float32)
        if path.endswith(("scale", "bias")):
            return 0.1 * x + path.endswith("scale")
        return x if path.endswith("embedding") else x / np.sqrt(np.prod(leaf.shape[:-1]))

    flat = flatten_dict(abstract_params(module), sep="/")
    return unflatten_dict({path: draw(path, leaf).astype(leaf.dtype) for path, leaf in flat.items()}, sep="/")


def call(module, params, *inputs, method=None):
    return jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs, method=method))(params, *inputs)


def token_ids(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 18, shape), jnp.int32)


def images(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_no_token_sees_a_later_one():
    module = CLIPTextModel(TEXT)
    params, ids = random_params(module), token_ids(1, 9)
    before = call(module, params, ids).last_hidden
    after = call(module, params, ids.at[0, 5].set(19)).last_hidden
    changed = np.abs(before - after).max(axis=-1)[0]
    np.testing.assert_array_less(changed[:5], 1e-6)
    assert (changed[5:] > 1e-3).all()


def test_padding_is_not_masked():
    module = CLIPTextModel(TEXT)
    params, ids = random_params(module), token_ids(1, 9).at[0, 4:].set(19)
    before = call(module, params, ids).last_hidden
    after = call(module, params, ids.at[0, 6].set(TEXT.pad_token_id)).last_hidden
    assert np.abs(before - after).max(axis=-1)[0, 8] > 1e-3


def test_a_shorter_text_is_the_start_of_a_longer_one():
    module = CLIPTextModel(TEXT)
    params, ids = random_params(module), token_ids(2, 9).at[:, 3].set(19)
    short, long = (call(module, params, ids[:, :n]) for n in (5, 9))
    np.testing.assert_allclose(short.last_hidden, long.last_hidden[:, :5], atol=1e-6)
    np.testing.assert_allclose(short.pooled, long.pooled, atol=1e-6)


def test_a_text_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match=r"10 tokens.*max_position_embeddings=9"):
        jax.eval_shape(CLIPTextModel(TEXT).apply, {"params": abstract_params(CLIPTextModel(TEXT))}, token_ids(1, 10))


@pytest.mark.parametrize(
    ("ids", "eos", "position"),
    [
        ([18, 3, 19, 1, 1], 19, 2),
        ([18, 3, 19, 19, 19], 19, 2),  # padded with the end token
        ([18, 3, 5, 19, 25], 19, 3),  # an added token is larger than the end token
        ([19, 3, 5, 6, 7], 19, 0),
        ([18, 3, 5, 6, 7], 19, 0),  # has no end token
        ([18, 3, 19, 1, 1], 2, 2),  # older configs: the largest id
        ([18, 3, 19, 19, 19], 2, 2),
        ([2, 3, 5, 19, 2], 2, 3),
    ],
)
def test_where_a_text_ends(ids, eos, position):
    assert end_of_text(jnp.array([ids]), eos).tolist() == [position]


def test_pooled_is_the_state_at_the_end_of_each_text():
    module = CLIPTextModel(TEXT)
    ids = token_ids(3, 9).at[jnp.arange(3), jnp.array([2, 8, 0])].set(19)
    states = call(module, random_params(module), ids)
    np.testing.assert_array_equal(states.pooled, np.asarray(states.last_hidden)[[0, 1, 2], [2, 8, 0]])


def test_unknown_token_ids_do_not_pass_unseen():
    module = CLIPTextModel(TEXT)
    assert jnp.isnan(call(module, random_params(module), jnp.array([[3, 20, 19]])).pooled).all()


def test_patches_differ_by_their_positions_only():
    module = CLIPVisionModel(VISION)
    params, x = random_params(module), images(1, 12, 12, 3)
    swapped = x.at[:, :4, :4].set(x[:, 8:, 4:8]).at[:, 8:, 4:8].set(x[:, :4, :4])
    assert np.abs(call(module, params, x).embedding - call(module, params, swapped).embedding).max() > 1e-3
    positions = params["embeddings"]["position_embedding"]
    positions["embedding"] = np.zeros_like(positions["embedding"])
    first, second = call(module, params, x), call(module, params, swapped)
    np.testing.assert_allclose(first.embedding, second.embedding, atol=1e-5)
    np.testing.assert_allclose(first.last_hidden[:, 1], second.last_hidden[:, 1 + 3 * 2 + 1], atol=1e-5)


def test_embedding_is_the_projection_of_pooled():
    module = CLIPVisionModel(VISION)
    params = random_params(module)
    states = call(module, params, images(2, 12, 12, 3))
    assert states.last_hidden.shape == (2, 1 + 9, 16)
    expected = states.pooled @ params["visual_projection"]["kernel"]
    np.testing.assert_allclose(states.embedding, expected, atol=1e-5)


def test_states_of_every_layer_are_there():
    module = CLIPVisionModel(VISION)
    params, x = random_params(module), images(2, 12, 12, 3)
    states = call(module, params, x)
    assert [state.shape for state in states.hidden] == [(2, 1 + 9, 16)] * 3
    np.testing.assert_array_equal(states.last_hidden, states.hidden[-1])
    # The output of a layer is that of a tower which ends there.
    shorter = CLIPVisionModel(replace(VISION, num_hidden_layers=1))
    params["encoder"].pop("layers_1")
    np.testing.assert_allclose(call(shorter, params, x).last_hidden, states.hidden[-2], atol=1e-5)


def test_layers_that_are_not_asked_for_are_not_computed():
    def flops(layers, kept):
        module = CLIPVisionModel(replace(VISION, num_hidden_layers=layers))
        read = jax.jit(lambda params, x: module.apply({"params": params}, x).hidden[kept])
        return read.lower(abstract_params(module), images(1, 12, 12, 3)).compile().cost_analysis()["flops"]

    assert flops(4, -3) == flops(2, -1) < 0.6 * flops(4, -1)


def test_a_tower_without_projection():
    bare = replace(VISION, projection_dim=None)
    assert bare.to_hf()["architectures"] == ["CLIPVisionModel"]
    module, params = CLIPVisionModel(bare), random_params(CLIPVisionModel(VISION))
    tensors = export_tensors(params, vision_table(VISION))  # of a file with projection
    del params["visual_projection"]
    read = import_tensors(tensors, vision_table(bare), abstract_params(module))
    jax.tree.map(np.testing.assert_array_equal, read, params)
    assert call(module, params, images(1, 12, 12, 3)).embedding is None


def test_whole_clip_is_its_towers_and_their_projections():
    module = CLIPModel(CLIP)
    params, x, ids = random_params(module), images(2, 12, 12, 3), token_ids(2, 9).at[:, 5].set(19)
    image, text = call(module, params, x, ids)
    np.testing.assert_allclose(image, call(CLIPVisionModel(VISION), params["vision"], x).embedding, atol=1e-5)
    pooled = call(CLIPTextModel(TEXT), params["text"], ids).pooled
    np.testing.assert_allclose(text, pooled @ params["text_projection"]["kernel"], atol=1e-5)
    np.testing.assert_allclose(call(module, params, ids, method=CLIPModel.embed_texts), text, atol=1e-5)


def test_a_config_of_one_tower_is_no_whole_clip():
    with pytest.raises(ValueError, match="text_config and vision_config missing"):
        CLIPConfig.from_hf(TEXT.to_hf())


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(12, 16\).*image_size=\(12, 12\)"):
        jax.eval_shape(CLIPVisionModel(VISION).init, jax.random.key(0), images(1, 12, 16, 3))


def test_quick_gelu_is_its_formula():
    x = np.linspace(-4, 4, 9)
    np.testing.assert_allclose(quick_gelu(jnp.float32(x)), x / (1 + np.exp(-1.702 * x)), atol=1e-6)


def test_activation_is_the_configs():
    ids, pooled = token_ids(1, 9), {}
    for act in ("quick_gelu", "gelu"):
        module = CLIPTextModel(replace(TEXT, hidden_act=act))
        pooled[act] = call(module, random_params(module), ids).pooled
    assert 1e-4 < np.abs(pooled["gelu"] - pooled["quick_gelu"]).max() < 0.1


@pytest.mark.parametrize("tower", TOWERS)
def test_half_precision_keeps_close_and_parameters_keep_their_type(tower):
    make, config, _, _ = TOWERS[tower]
    x = token_ids(2, 9) if tower == "text" else images(2, 12, 12, 3)
    single, half = make(config), make(config, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract_params(half))} == {jnp.dtype("float32")}
    params = random_params(single)
    expected, states = call(single, params, x), call(half, params, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(states.pooled.astype(jnp.float32), expected.pooled, atol=0.1)
    stored = abstract_params(make(config, param_dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (CLIPTextModel(SD15_TEXT), 123_060_480),
        (CLIPVisionModel(VIT_L), 303_966_208),
        # The hub counts one more, the temperature of the contrastive loss.
        (CLIPModel(CLIPConfig(text=CLIPTextConfig(), vision=CLIPVisionConfig())), 151_277_312),
        (CLIPModel(CLIPConfig(text=SD15_TEXT, vision=replace(VIT_L, image_size=336))), 427_944_192),
    ],
)
def test_published_sizes(module, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_params(module))) == count


@pytest.mark.parametrize("network", NETWORKS)
def test_partition_rules_cover_every_parameter(network):
    make, config, _, rules = NETWORKS[network]
    used = set()
    for path, leaf in flatten_dict(abstract_params(make(config)), sep="/").items():
        (regex, spec), *_ = [rule for rule in rules if re.fullmatch(rule[0], path)]
        used.add(regex)
        assert len(spec) <= leaf.ndim, path
        assert leaf.ndim > 1 or not any(spec), path
        assert leaf.ndim == 1 or any(spec), path
    assert used == {regex for regex, _ in rules}


def test_attention_and_mlp_are_split_by_columns_then_rows():
    def spec(path):
        return tuple(next(spec for regex, spec in TEXT_PARTITION_RULES if re.fullmatch(regex, path)))

    layer = "encoder/layers_11"
    for path in ("self_attn/q_proj", "self_attn/k_proj", "self_attn/v_proj", "mlp/fc1"):
        assert spec(f"{layer}/{path}/kernel") == ("fsdp", "tensor")
    for path in ("self_attn/out_proj", "mlp/fc2"):
        assert spec(f"{layer}/{path}/kernel") == ("tensor", "fsdp")


@pytest.mark.parametrize("config", [TEXT, SD15_TEXT, VISION, VIT_L, replace(VISION, projection_dim=None), CLIP])
def test_configs_survive_the_round_trip(config):
    written = config.to_hf()
    assert type(config).from_hf(json.loads(json.dumps(written))) == config


def test_config_names_what_it_describes():
    assert TEXT.to_hf().items() >= {"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]}.items()
    assert VISION.to_hf()["architectures"] == ["CLIPVisionModelWithProjection"]


def test_a_full_clip_config_holds_both_towers():
    full = {
        "model_type": "clip",
        "projection_dim": 6,
        "text_config": {**TEXT.to_hf(), "projection_dim": 512},  # older files leave the default here
        "vision_config": {**VISION.to_hf(), "projection_dim": 512},
    }
    assert CLIPTextConfig.from_hf(full) == TEXT
    assert CLIPVisionConfig.from_hf(full) == VISION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"model_type": "bert"}, "model_type='bert': expected 'clip_text_model'"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ({"eos_token_id": [2, 3]}, r"eos_token_id=\[2, 3\]"),
        ({"num_attention_heads": 3}, "hidden_size=16.*num_attention_heads=3"),
    ],
)
def test_an_unsupported_text_setting_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        CLIPTextConfig.from_hf(TEXT.to_hf() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_channels": 4}, "num_channels=4"),
        ({"image_size": [224, 336]}, r"image_size=\[224, 336\]"),
        ({"model_type": "clip_text_model"}, "expected 'clip_vision_model'"),
    ],
)
def test_an_unsupported_vision_setting_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        CLIPVisionConfig.from_hf(VISION.to_hf() | change)


@pytest.mark.parametrize("network", NETWORKS)
def test_import_undoes_export(network):
    make, config, table, _ = NETWORKS[network]
    params = random_params(make(config))
    tensors = export_tensors(params, table(config))
    jax.tree.map(
        np.testing.assert_array_equal, import_tensors(tensors, table(config), abstract_params(make(config))), params
    )


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("prefix", [True, False])
def test_older_and_newer_names_are_read(prefix, tower):
    make, config, table, _ = TOWERS[tower]
    params = random_params(make(config))
    tensors = export_tensors(params, table(config)) | {f"{tower}_model.embeddings.position_ids": np.arange(9)}
    if not prefix:
        tensors = {name.removeprefix(f"{tower}_model."): tensor for name, tensor in tensors.items()}
    jax.tree.map(
        np.testing.assert_array_equal, import_tensors(tensors, table(config), abstract_params(make(config))), params
    )


def test_a_file_of_the_other_tower_is_told_from_the_right_one():
    tensors = export_tensors(random_params(CLIPVisionModel(VISION)), vision_table(VISION))
    with pytest.raises(WeightMismatch, match="parameter final_layer_norm/scale: no tensor fills it"):
        import_tensors(tensors, text_table(TEXT), abstract_params(CLIPTextModel(TEXT)))


@pytest.fixture(scope="module")
def reference():
    """The fixture's text encoder: its configuration, its tensors under transformers 4.43's names, expected values."""
    spec = importlib.util.spec_from_file_location("make_editor_dir", FIXTURE / "make_editor_dir.py")
    make_editor_dir = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_editor_dir)
    network = json.loads((FIXTURE / "editor_a.json").read_text())["networks"]["text_encoder"]
    return network["config"], make_editor_dir.network_tensors(network), np.load(FIXTURE / "text.npz")


def test_reference_states(reference):
    config, tensors, expected = reference
    config = CLIPTextConfig.from_hf(config)
    module = CLIPTextModel(config)
    params = import_tensors(tensors, text_table(config), abstract_params(module))
    states = call(module, params, jnp.asarray(expected["token_ids"]))
    np.testing.assert_allclose(states.last_hidden, expected["last_hidden"], atol=3e-5)
    np.testing.assert_allclose(states.pooled, expected["pooled"], atol=3e-5)
    reward = call(module, params, jnp.asarray(expected["reward_token_ids"]))
    np.testing.assert_allclose(reward.pooled, expected["reward_pooled"], atol=3e-5)


def test_written_names_are_those_of_transformers_4(reference):
    config, tensors, _ = reference
    config = CLIPTextConfig.from_hf(config)
    params = import_tensors(tensors, text_table(config), abstract_params(CLIPTextModel(config)))
    written = export_tensors(params, text_table(config))
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
