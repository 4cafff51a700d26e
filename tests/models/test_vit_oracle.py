"""DINO's and DINOv2's networks against transformers' PyTorch classes, on random weights, in both directions."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch_oracles import WEIGHTS, assert_same_tensors, call, load, make_oracle, nchw, normal, save

from rewardedit_jax.models.vit import Dinov2Config, Dinov2Model, ViTConfig, ViTModel
from rewardedit_jax.weights.engine import export_tensors
from rewardedit_jax.weights.vit import dinov2_table, vit_table

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
VIT = ViTConfig(**SMALL, intermediate_size=40, image_size=20, patch_size=4)
DINOV2 = Dinov2Config(**SMALL, image_size=35, patch_size=5, mlp_ratio=3)
CONFIGS = {
    "vit": VIT,
    "vit without qkv bias": ViTConfig(**SMALL, intermediate_size=40, image_size=20, patch_size=4, qkv_bias=False),
    "dinov2": DINOV2,
    # 48 of 72, which is a multiple of 8; and 40 for 37 of 56.
    "gated": Dinov2Config(**SMALL, image_size=35, patch_size=5, mlp_ratio=3, use_swiglu_ffn=True),
    "gated, rounded up": Dinov2Config(
        hidden_size=14, num_hidden_layers=1, num_attention_heads=2, image_size=20, patch_size=5, use_swiglu_ffn=True
    ),
}
# Height and width: the size that positions are learned for (of two networks), and wider and taller ones, whose sides
# patches do not always fill.
SIZES = ((35, 35), (20, 20), (15, 60), (74, 44))


def kinds(config):
    """transformers' classes, and our module and weight table."""
    if isinstance(config, ViTConfig):
        return transformers.ViTModel, transformers.ViTConfig, ViTModel, vit_table
    return transformers.Dinov2Model, transformers.Dinov2Config, Dinov2Model, dinov2_table


def tiny_oracle(config):
    network, network_config, _, _ = kinds(config)
    options = {"add_pooling_layer": False} if isinstance(config, ViTConfig) else {}
    return make_oracle(lambda c: network(c, **options), network_config(**config.to_hf()))


def load_ours(directory, config):
    _, _, module, table = kinds(config)
    return load(directory, module, type(config), table)


@pytest.mark.parametrize("name", CONFIGS)
def test_states_at_every_size(name, tmp_path):
    config = CONFIGS[name]
    oracle = tiny_oracle(config)
    oracle.save_pretrained(tmp_path)
    module, params = load_ours(tmp_path, config)
    assert module.config == config
    options = {"interpolate_pos_encoding": True} if isinstance(config, ViTConfig) else {}
    for height, width in SIZES:
        x = normal(2, height, width, 3, seed=height)
        expected = oracle(nchw(x), **options).last_hidden_state.detach()
        assert expected.std() > 0.3
        np.testing.assert_allclose(
            call(module, params, x), expected, atol=1e-5 * expected.abs().max(), err_msg=f"{height}×{width}"
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_files_are_written_as_they_were_read(name, tmp_path):
    config = CONFIGS[name]
    tiny_oracle(config).save_pretrained(tmp_path)
    module, params = load_ours(tmp_path, config)
    theirs = load_file(tmp_path / WEIGHTS)
    theirs.pop("embeddings.mask_token", None)
    assert_same_tensors(export_tensors(params, kinds(config)[3](module.config)), theirs)


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_reads_what_we_write(name, tmp_path):
    config = CONFIGS[name]
    network, _, _, table = kinds(config)
    oracle = tiny_oracle(config)
    oracle.save_pretrained(tmp_path / "theirs")
    save(*load_ours(tmp_path / "theirs", config), table, tmp_path / "ours")
    options = {"add_pooling_layer": False} if isinstance(config, ViTConfig) else {}
    again, report = network.from_pretrained(tmp_path / "ours", output_loading_info=True, **options)
    assert report.pop("missing_keys") <= {"embeddings.mask_token"}
    assert not any(report.values()), report
    x = nchw(normal(1, config.image_size, config.image_size, 3))
    torch.testing.assert_close(again(x).last_hidden_state, oracle(x).last_hidden_state, rtol=0, atol=0)


def test_a_pooler_is_not_read(tmp_path):
    oracle = make_oracle(transformers.ViTModel, transformers.ViTConfig(**VIT.to_hf()))
    oracle.save_pretrained(tmp_path)
    assert "pooler.dense.weight" in load_file(tmp_path / WEIGHTS)
    module, params = load_ours(tmp_path, VIT)
    x = normal(1, 20, 20, 3)
    expected = oracle(nchw(x)).last_hidden_state.detach()
    np.testing.assert_allclose(call(module, params, x), expected, atol=1e-5 * expected.abs().max())


def test_defaults_are_those_of_transformers():
    for ours, theirs in ((ViTConfig(), transformers.ViTConfig()), (Dinov2Config(), transformers.Dinov2Config())):
        assert type(ours).from_hf(json.loads(theirs.to_json_string(use_diff=False))) == ours
