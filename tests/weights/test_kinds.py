"""config.json of a component: a value of a wrong type or range is an error of one sentence with file and field."""

import json
import shutil

import pytest
from flax.traverse_util import flatten_dict
from tiny_models import (
    draw,
    tiny_clip,
    tiny_dino,
    tiny_dinov2,
    tiny_editor,
    tiny_interaction,
    tiny_llava,
    tiny_qformer,
    tiny_text_encoder,
    tiny_unet,
    tiny_vae,
    tiny_vision,
)
from tiny_scorers import tiny_scorer

from rewardedit_jax import Editor
from rewardedit_jax.models import clip, clip_vision, edit_reward, interaction, llava, qformer, unet, vae, vit
from rewardedit_jax.models.lora import LoRA
from rewardedit_jax.models.unet import UNetConfig
from rewardedit_jax.params import abstract_params
from rewardedit_jax.sharding import partition_rule
from rewardedit_jax.weights.files import WeightFileError
from rewardedit_jax.weights.kinds import KINDS, read_config
from rewardedit_jax.weights.pretrained import open_pretrained, save_pretrained

MODULES = {
    "unet": tiny_unet(layout="paper"),
    "vae": tiny_vae(),
    "text": tiny_text_encoder(),
    "vision": tiny_vision(),
    "clip": tiny_clip(),
    "dino": tiny_dino(),
    "dinov2": tiny_dinov2(),
    "scorer": tiny_scorer()[0],
    "llava": tiny_llava(lora=LoRA(rank=2, alpha=4.0, targets=(r".*/[qv]_proj",))),
    "qformer": tiny_qformer(),
    "interaction": tiny_interaction(),
}
PARTITION_RULES = {
    "unet": unet.PARTITION_RULES,
    "vae": vae.PARTITION_RULES,
    "text": clip.TEXT_PARTITION_RULES,
    "vision": clip_vision.PARTITION_RULES,
    "clip": clip.PARTITION_RULES,
    "dino": vit.PARTITION_RULES,
    "dinov2": vit.PARTITION_RULES,
    "scorer": edit_reward.PARTITION_RULES,
    "llava": llava.PARTITION_RULES,
    "qformer": qformer.PARTITION_RULES,
    "interaction": interaction.PARTITION_RULES,
}
UNET_LISTS = {
    "sample_size": [16, 16],
    "layers_per_block": [1, 1],
    "cross_attention_dim": [12, 12],
    "norm_num_groups": [4, 4],
    "attention_head_dim": [2, 2],
    "transformer_layers_per_block": [1, 1],
    "only_cross_attention": [False, False],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    for name, module in MODULES.items():
        save_pretrained(module, draw(module), directory / name)
    return directory


@pytest.fixture
def changed(saved, tmp_path):
    """The directory of a network with other settings in config.json, or with another text there."""

    def change(name, settings=None, text=None):
        shutil.copytree(saved / name, tmp_path / name)
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}) if text is None else text)
        return tmp_path / name

    return change


def test_what_is_saved_is_read(saved):
    for name, module in MODULES.items():
        assert open_pretrained(saved / name).module == module


@pytest.mark.parametrize("name", MODULES)
def test_every_dense_layer_can_have_a_low_rank_difference(name):
    """It has a name in files, and partition rules, in every network."""
    module = MODULES[name].clone(lora=LoRA(rank=2, alpha=4.0, targets=(r".*",)))
    table = next(kind for kind in KINDS.values() if isinstance(module, kind.module)).table(module.config)
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract_params(module), sep="/").items()}
    layers = {path.removesuffix("/lora_a") for path in shapes if path.endswith("/lora_a")}
    assert layers
    for layer in layers - {"visual/patch_embed/proj"}:  # in torch a convolution of three axes
        (weight,) = table.torch_names(f"{layer}/kernel")
        expected = {f"{weight.removesuffix('weight')}lora_{x}.default.weight" for x in "AB"}
        assert table.torch_names(f"{layer}/lora_a") | table.torch_names(f"{layer}/lora_b") == expected
    rules = PARTITION_RULES[name]
    for path, shape in shapes.items():
        assert len(partition_rule(rules, path)[1]) <= len(shape), path


@pytest.mark.parametrize(
    ("network", "field", "value"),
    [
        ("unet", "in_channels", "sixteen"),
        ("unet", "in_channels", 0),
        ("unet", "in_channels", True),
        ("unet", "out_channels", -4),
        ("unet", "out_channels", 4.5),
        ("unet", "block_out_channels", None),
        ("unet", "block_out_channels", []),
        ("unet", "block_out_channels", 8),
        ("unet", "block_out_channels", [8, "16"]),
        ("unet", "layers_per_block", [1, 2]),
        ("unet", "layers_per_block", []),
        ("unet", "transformer_layers_per_block", [1, 2]),
        ("unet", "attention_head_dim", None),  # in diffusers too
        ("unet", "attention_head_dim", [2, 0]),
        ("unet", "norm_num_groups", None),  # in diffusers: no norm before the last convolution
        ("unet", "down_block_types", "DownBlock2D"),
        ("unet", "norm_eps", "1e-5"),
        ("unet", "norm_eps", float("nan")),
        ("unet", "norm_eps", float("inf")),
        ("unet", "freq_shift", -1),
        ("unet", "use_linear_projection", "no"),
        ("unet", "reward_condition", []),
        ("unet", "reward_condition", {"layout": 5}),
        ("unet", "reward_condition", {"heads": 0}),
        ("unet", "reward_condition", {"depth": 3}),
        ("unet", "_class_name", []),
        ("vae", "latent_channels", "4"),
        ("vae", "block_out_channels", None),
        ("vae", "down_block_types", 2),
        ("vae", "sample_size", [32, 64]),
        ("vae", "scaling_factor", 0),
        ("vae", "shift_factor", "none"),
        ("text", "hidden_size", [12]),
        ("text", "num_hidden_layers", -2),
        ("text", "vocab_size", "many"),
        ("text", "eos_token_id", -1),
        ("text", "architectures", "CLIPTextModel"),
        ("text", "text_config", []),
        ("text", "text_config", {"hidden_size": "12"}),
        ("vision", "patch_size", [8, 8]),
        ("clip", "vision_config", {"image_size": "16"}),
        ("clip", "projection_dim", 0),
        ("dino", "image_size", [32, 32]),
        ("dinov2", "mlp_ratio", 0),
        ("dinov2", "layerscale_value", "small"),
        ("scorer", "text_config", "small"),
        ("scorer", "text_config", {"rope_scaling": {"mrope_section": [2, 2]}}),
        ("scorer", "vision_config", {"depth": "2"}),
        ("scorer", "image_token_id", -1),
        ("scorer", "reward_model", {"area": "784"}),
        ("scorer", "rope_scaling", [1]),
        ("llava", "mm_hidden_size", "16"),
        ("llava", "mm_vision_select_layer", "last"),
        ("llava", "hidden_size", 0),
        ("llava", "lora", 2),
        ("llava", "lora", {"rank": 2}),
        ("llava", "lora", {"rank": 0, "alpha": 4.0, "targets": ["q_proj"]}),
        ("llava", "lora", {"rank": 2, "alpha": 4.0, "targets": []}),
        ("qformer", "hidden_dropout_prob", -0.1),
        ("qformer", "cross_attention_frequency", 0),
        ("qformer", "hidden_act", "relu"),
        ("interaction", "context_factor", "half"),
        ("interaction", "num_attention_heads", 0),
    ],
)
def test_a_wrong_value_is_named(changed, network, field, value):
    directory = changed(network, {field: value})
    with pytest.raises(WeightFileError) as error:
        open_pretrained(directory)
    message = str(error.value)
    assert message.startswith(f"{directory / 'config.json'}: ")
    assert next(iter(value)) if isinstance(value, dict) else field in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "[]", "5", "null", '"text"', "{", "<!DOCTYPE html><html>"])
def test_a_file_that_is_no_object_is_named(changed, text):
    with pytest.raises(WeightFileError, match=r"config\.json"):
        open_pretrained(changed("vae", text=text))


def test_lists_of_equal_values_are_the_value(changed):
    unet = open_pretrained(changed("unet", UNET_LISTS)).module.config
    assert unet.layers_per_block == 1
    assert (unet.heads(0), unet.heads(1)) == (2, 2)
    assert open_pretrained(changed("vae", {"sample_size": [32, 32]})).module == MODULES["vae"]


@pytest.mark.parametrize("name", sorted(UNET_LISTS.keys() - {"attention_head_dim"}))
def test_lists_of_different_values_are_not(name):
    one = UNET_LISTS[name][0]
    with pytest.raises(ValueError, match=rf"{name}=\[{one}, "):
        UNetConfig.from_hf({name: [one, 1 - one]})


def test_null_is_the_default_where_libraries_write_it(changed):
    nulls = {"sample_size": None, "num_attention_heads": None}
    assert open_pretrained(changed("unet", nulls)).module.config.sample_size is None
    nulls = dict.fromkeys(["model_type", "bos_token_id", "projection_dim", "text_config"])
    assert open_pretrained(changed("text", nulls)).module.config.bos_token_id == 49406
    assert open_pretrained(changed("scorer", dict.fromkeys(["model_type", "reward_model"]))).module.config.heads


def test_sizes_that_do_not_fit_each_other_are_of_the_file(changed):
    with pytest.raises(WeightFileError, match=r"config\.json: .*3"):
        open_pretrained(changed("vae", {"norm_num_groups": 3})).read()


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
def test_quantised_weights_are_refused(changed, method):
    with pytest.raises(WeightFileError, match=rf"config\.json.*{method}.*not supported"):
        read_config(changed("text", {"quantization_config": {"quant_method": method, "bits": 4}}))


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_a_damaged_index_of_a_pipeline_is_named(tmp_path, text):
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(WeightFileError, match=r"model_index\.json"):
        Editor.load(tmp_path)


def test_a_component_that_is_not_used_may_be_missing_or_damaged(tmp_path):
    tiny_editor().save(tmp_path)
    file = tmp_path / "model_index.json"
    unused = {name: ["library", "Class"] for name in ("safety_checker", "feature_extractor", "image_encoder", "other")}
    file.write_text(json.dumps(json.loads(file.read_text()) | unused))
    for name in ("safety_checker", "image_encoder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{")
    assert Editor.load(tmp_path).params.keys() == {"unet", "vae", "text_encoder"}
