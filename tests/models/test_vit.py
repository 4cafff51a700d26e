"""DINO's and DINOv2's networks without PyTorch: sizes, configurations, partition rules, weight tables."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, AxisType
from tiny_models import assert_same, draw

from rewardedit_jax.models.vit import PARTITION_RULES, Dinov2Config, Dinov2Model, ViTConfig, ViTModel
from rewardedit_jax.params import abstract_params
from rewardedit_jax.sharding import AXES, infer_shardings
from rewardedit_jax.weights.engine import WeightMismatch, export_tensors, import_tensors
from rewardedit_jax.weights.vit import dinov2_table, vit_table

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = {
    "vit": (ViTModel(ViTConfig(**SMALL, intermediate_size=24, image_size=12, patch_size=4)), vit_table),
    "dinov2": (Dinov2Model(Dinov2Config(**SMALL, image_size=15, patch_size=5)), dinov2_table),
    "gated": (Dinov2Model(Dinov2Config(**SMALL, image_size=15, patch_size=5, use_swiglu_ffn=True)), dinov2_table),
}
# The sizes in the config.json files of the hub.
DINO_S = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "model_type": "vit"}
DINOV2_B = {"hidden_size": 768, "num_attention_heads": 12, "image_size": 518, "model_type": "dinov2", "mlp_ratio": 4}
DINOV2_G = {
    **DINOV2_B,
    "hidden_size": 1536,
    "num_attention_heads": 24,
    "num_hidden_layers": 40,
    "use_swiglu_ffn": True,
}
PUBLISHED = {
    "facebook/dino-vits16": ViTModel(ViTConfig.from_hf(DINO_S)),
    "facebook/dinov2-base": Dinov2Model(Dinov2Config.from_hf(DINOV2_B)),
    "facebook/dinov2-giant": Dinov2Model(Dinov2Config.from_hf(DINOV2_G)),
}


# As the hub counts them, less the mask token of DINOv2, which is as wide as its states and not read.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("facebook/dino-vits16", 21_665_664),
        ("facebook/dinov2-base", 86_580_480 - 768),
        ("facebook/dinov2-giant", 1_136_480_768 - 1536),
    ],
)
def test_published_sizes(name, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_params(PUBLISHED[name]))) == count


@pytest.mark.parametrize("name", TINY)
def test_partition_rules_cover_every_parameter(name):
    for path, leaf in flatten_dict(abstract_params(TINY[name][0]), sep="/").items():
        (_, spec), *_ = [rule for rule in PARTITION_RULES if re.fullmatch(rule[0], path)]
        assert len(spec) <= leaf.ndim, path
        assert leaf.ndim == 1 or any(spec), path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_are_divided_over_devices(name):
    mesh = AbstractMesh((1, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    infer_shardings(abstract_params(PUBLISHED[name]), PARTITION_RULES, mesh)  # raises for what cannot be divided


@pytest.mark.parametrize("name", TINY)
def test_configs_survive_the_round_trip(name):
    config = TINY[name][0].config
    assert type(config).from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (ViTConfig(), {"model_type": "dinov2"}, "model_type='dinov2': expected 'vit'"),
        (Dinov2Config(), {"model_type": "dinov2_with_registers"}, "expected 'dinov2'"),
        (Dinov2Config(), {"num_channels": 1}, "num_channels=1"),
        (Dinov2Config(), {"image_size": [224, 518]}, r"image_size=\[224, 518\]"),
        (ViTConfig(), {"hidden_act": "relu"}, "hidden_act='relu'"),
        (ViTConfig(), {"num_attention_heads": 5}, "hidden_size=768.*num_attention_heads=5"),
    ],
)
def test_an_unsupported_setting_is_named(config, change, message):
    with pytest.raises(ValueError, match=message):
        type(config).from_hf(config.to_hf() | change)


@pytest.mark.parametrize("name", TINY)
def test_import_undoes_export(name):
    module, table = TINY[name]
    params = draw(module)
    tensors = export_tensors(params, table(module.config))
    assert_same(import_tensors(tensors, table(module.config), abstract_params(module)), params)


def test_the_files_of_a_gated_network_are_told_from_others():
    (gated, table), (plain, _) = TINY["gated"], TINY["dinov2"]
    tensors = export_tensors(draw(gated), table(gated.config))
    with pytest.raises(WeightMismatch, match=r"tensor encoder\.layer\.0\.mlp\.weights_in\.weight: no rule takes it"):
        import_tensors(tensors, table(plain.config), abstract_params(plain))


@pytest.mark.parametrize("name", TINY)
def test_half_precision_keeps_close(name):
    single, _ = TINY[name]
    half = type(single)(single.config, dtype=jnp.bfloat16)
    params = draw(single)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 20, 30, 3), np.float32))
    expected, states = (jax.jit(module.apply)({"params": params}, x) for module in (single, half))
    assert states.dtype == jnp.bfloat16
    np.testing.assert_allclose(states.astype(jnp.float32), expected, atol=0.15)


def test_a_branch_scaled_by_zero_is_left_out():
    module, _ = TINY["dinov2"]
    params, x = draw(module), jnp.ones((1, 15, 15, 3))
    for layer in params["encoder"].values():
        layer["layer_scale1"] = layer["layer_scale2"] = jnp.zeros(16)
    states = module.apply({"params": params}, x)
    for layer in params["encoder"].values():
        layer["mlp"] = jax.tree.map(lambda leaf: leaf + 1, layer["mlp"])
    np.testing.assert_array_equal(module.apply({"params": params}, x), states)
