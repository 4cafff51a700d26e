"""SmartEdit's weight tables: names of the published checkpoints, sizes, and directories that are read and written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from published_smartedit import PUBLISHED, RANK, ROWS, embeddings_file, interaction_file, language_model_file
from smartedit_dirs import LORA, language_model, needs_smartedit, tensors, write_pipeline

from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.interaction import Interaction, InteractionConfig
from rewardedit_jax.models.llava import Llava, LlavaConfig
from rewardedit_jax.models.lora import LoRA
from rewardedit_jax.models.qformer import QFormer, QFormerConfig
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import WeightMismatch, export_tensors, import_tensors
from rewardedit_jax.weights.pretrained import load_pretrained, save_pretrained
from rewardedit_jax.weights.smartedit import interaction_table, llava_table, qformer_table
from rewardedit_jax.weights.stable_diffusion import unet_table


def config_json(name):
    """The settings of LLaVA 1.1's config.json that are read here, with SmartEdit's vocabulary."""
    layers, width, mlp = PUBLISHED[name]
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_attention_heads": width // 128,
        "num_hidden_layers": layers,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "vocab_size": ROWS,
        "mm_hidden_size": 1024,
        "mm_vision_select_layer": -2,
    }


def llava(name):
    lora = LoRA(rank=RANK, alpha=16.0, dropout=0.05, targets=(r".*/self_attn/[qv]_proj",))
    return Llava(LlavaConfig.from_hf(config_json(name)), lora=lora)


def check(shapes, table, module):
    """Every name has a rule or is ignored, every parameter a tensor, and shapes agree; nothing is allocated."""
    abstract = flatten_dict(abstract_params(module), sep="/")
    import_tensors(shapes, table, abstract_params(module), wanted=lambda path: False)  # raises for names
    for name, shape in shapes.items():
        taken = [(rule, path) for rule in table.rules if (path := rule.to_path(name)) is not None]
        for rule, path in taken:
            seen = rule.transform.to_jax(np.broadcast_to(np.float32(0), shape))
            assert seen.shape == abstract[path].shape, name


@pytest.mark.parametrize(("name", "count"), [("7B", 450), ("13B", 562)])
def test_names_of_the_published_language_model(name, count):
    published, beside = language_model_file(PUBLISHED[name]), embeddings_file(PUBLISHED[name])
    assert len(published) == count
    parts = {key: shape for key, shape in beside.items() if key.startswith(("mm_projector", "lm_head"))}
    module = llava(name)
    check({**published, **parts}, llava_table(module.config), module)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_the_published_qformer(name):
    published, module = (
        embeddings_file(PUBLISHED[name]),
        QFormer(QFormerConfig(encoder_hidden_size=PUBLISHED[name].width)),
    )
    assert len(published) == 133
    own = {key: shape for key, shape in published.items() if key.startswith("sd_")}
    check(own, qformer_table(module.config), module)


def test_names_of_the_published_interaction_module():
    published, module = interaction_file(), Interaction(InteractionConfig())
    assert len(published) == 89
    check(published, interaction_table(module.config), module)


def test_the_published_unet_has_the_names_of_stable_diffusion():
    """Its file has the prefix "unet.", which the conversion removes."""
    module = UNet(UNetConfig(in_channels=8))
    params = flatten_dict(abstract_params(module), sep="/")
    names = [name for path in params for rule in unet_table(module.config).rules if (name := rule.to_torch(path))]
    assert len(names) == len(set(names)) == len(params) == 686


def numbers(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "body", "head", "projector", "lora", "qformer"),
    [
        ("7B", 6_611_681_280, 131_215_360, 4_198_400, 4_194_304, 65_015_040),
        ("13B", 12_858_757_120, 164_019_200, 5_248_000, 6_553_600, 69_733_632),
    ],
)
def test_numbers_of_parameters(name, body, head, projector, lora, qformer):
    params = abstract_params(llava(name))
    assert {part: numbers(tree) for part, tree in params.items()} == {
        "decoder": body,
        "lm_head": head,
        "mm_projector": projector,
    }
    flat = flatten_dict(params, sep="/")
    assert sum(x.size for path, x in flat.items() if "/lora_" in path) == lora
    # LLaMA itself, of 32000 rows and without output layer.
    assert body - lora - 35 * PUBLISHED[name].width == {"7B": 6_607_343_616, "13B": 12_852_024_320}[name]
    assert numbers(abstract_params(QFormer(QFormerConfig(encoder_hidden_size=PUBLISHED[name].width)))) == qformer
    assert numbers(abstract_params(Interaction(InteractionConfig()))) == 29_211_200 + 2 * 512  # with the constant


def test_a_config_json_of_the_first_llama_has_one_key_head_per_head():
    """It does not name their number; Qwen's default of 4 would be read from files of LLaVA 1.1."""
    assert llava("7B").config.text == DecoderConfig(
        vocab_size=ROWS,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        rope_theta=10_000.0,
        qkv_bias=False,
        mrope_section=None,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_projector_type": "mlp2x_gelu"}, r"mm_projector_type='mlp2x_gelu'.*LLaVA 1\.5"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature='cls_patch'"),
        ({"mm_hidden_size": None}, "mm_hidden_size"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
    ],
)
def test_another_llava_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LlavaConfig.from_hf({**config_json("7B"), **change})


@pytest.mark.parametrize(
    "config", [llava("13B").config, QFormerConfig(num_queries=5), InteractionConfig(hidden_size=64)]
)
def test_a_config_is_read_as_it_was_written(config):
    assert type(config).from_hf(config.to_hf()) == config


@needs_smartedit
@pytest.mark.parametrize("lora", ["merged", "kept"])
def test_a_directory_is_written_as_it_was_read(lora, tmp_path):
    source = write_pipeline(tmp_path / "source", lora=lora)
    for name in ("vision_encoder", "language_model", "qformer", "interaction"):
        module, params = load_pretrained(source / name)
        save_pretrained(module, params, tmp_path / "again" / name)
        again, reread = load_pretrained(tmp_path / "again" / name)
        assert again == module
        jax.tree.map(np.testing.assert_array_equal, reread, params)
    module, params = load_pretrained(source / "language_model")
    assert module.lora == (None if lora == "merged" else LoRA.from_hf(LORA))
    written = export_tensors(params, llava_table(module.config))
    assert written.keys() == language_model(lora).keys()
    for name, tensor in language_model(lora).items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)


@needs_smartedit
def test_published_names_are_read_too(tmp_path):
    """Of SmartEdit's own file, whose frequencies are ignored, and of projector and output layer beside the Q-Former."""
    directory = write_pipeline(tmp_path, lora="kept") / "language_model"
    module, params = load_pretrained(directory)
    beside = {name: x for name, x in tensors("embeddings_qformer").items() if not name.startswith("sd_")}
    found = import_tensors({**tensors("llm"), **beside}, llava_table(module.config), abstract_params(module))
    known = jnp.arange(module.config.text.vocab_size) < 640  # rows that are LLaVA's
    flat, expected = flatten_dict(found, sep="/"), flatten_dict(params, sep="/")
    assert flat.keys() == expected.keys()
    for path, value in flat.items():
        if path in ("decoder/embed_tokens/embedding", "lm_head/kernel"):
            axis = 0 if "embed" in path else 1
            rows = [np.compress(~known, x, axis=axis) for x in (value, expected[path])]
            np.testing.assert_array_equal(*rows)
        else:
            np.testing.assert_array_equal(value, expected[path], err_msg=path)


@needs_smartedit
def test_lora_that_config_json_does_not_mention_is_a_fault(tmp_path):
    directory = write_pipeline(tmp_path, lora="kept") / "language_model"
    merged = write_pipeline(tmp_path / "merged") / "language_model" / "config.json"
    (directory / "config.json").write_text(merged.read_text())
    with pytest.raises(WeightMismatch, match="lora_a"):
        load_pretrained(directory)
