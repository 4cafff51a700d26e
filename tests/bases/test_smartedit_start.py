"""SmartEdit at its published sizes, of which nothing is allocated, and the types of what trains and what does not."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, AxisType
from published_smartedit import PUBLISHED, RANK, ROWS
from safetensors.numpy import load_file, save_file
from smartedit_dirs import needs_smartedit, write_pipeline
from tiny_models import assert_same, get_config

from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.bases.smartedit import SmartEdit
from rewardedit_jax.params import abstract_params
from rewardedit_jax.sharding import AXES, infer_shardings, partition_rule
from rewardedit_jax.weights.pretrained import write_network


def modules(name):
    """The seven networks of SmartEdit-7B or -13B, with LoRA apart."""
    layers, width, mlp = PUBLISHED[name]
    llama = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 128}
    llama |= {"intermediate_size": mlp, "vocab_size": ROWS, "mm_hidden_size": 1024, "model_type": "llava"}
    llama["lora"] = {"rank": RANK, "alpha": 16.0, "dropout": 0.05, "targets": [r".*/self_attn/[qv]_proj"]}
    clip = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    configs = {
        "unet": {"in_channels": 8, "cross_attention_dim": 768},
        "vae": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, **blocks},
        "text_encoder": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_encoder": {**clip, "patch_size": 14},
        "language_model": llama,
        "qformer": {"encoder_hidden_size": width},
    }
    return {part: kind.make(configs.get(part, {})) for part, kind in SmartEdit.kinds.items()}


@pytest.fixture(scope="module", params=PUBLISHED)
def abstract(request):
    return {part: abstract_params(module) for part, module in modules(request.param).items()}


def test_partition_rules_cover_and_divide_every_parameter(abstract):
    mesh = AbstractMesh((1, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    infer_shardings(abstract, SmartEdit.partition_rules, mesh)  # raises for what has no rule or cannot be divided
    for path, leaf in flatten_dict(abstract, sep="/").items():
        _, spec = partition_rule(SmartEdit.partition_rules, path)
        assert leaf.size < 2**17 or any(spec), f"{path} is large and lies on every device"


def test_every_component_has_rules_of_its_own(abstract):
    assert tuple(abstract) == SmartEdit.components
    used = {partition_rule(SmartEdit.partition_rules, path)[0] for path in flatten_dict(abstract, sep="/")}
    assert {rule.split("/")[0] for rule in used} == set(SmartEdit.components)


def test_types():
    """A loaded editor has what is large in the type of computation; in training, files decide what is frozen."""
    half, full = jnp.bfloat16, jnp.float32
    for name in SmartEdit.components:
        large = name in ("vision_encoder", "language_model")
        computes = full if name in ("vae", "qformer", "interaction") else half
        assert SmartEdit.types(name, half) == {"dtype": computes, "param_dtype": half if large else full}
        assert SmartEdit.types(name, half, training=True) == {"dtype": computes, "param_dtype": full}
    for name in InstructPix2Pix.components:
        assert SmartEdit.types(name, half) == InstructPix2Pix.types(name, half)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tiny editor with a language model in bfloat16 apart from one kernel, as a sum with LoRA is kept."""
    folder = write_pipeline(tmp_path_factory.mktemp("published"))
    file = folder / "language_model" / "model.safetensors"
    narrow = {name: x if name == WIDE else x.astype(ml_dtypes.bfloat16) for name, x in load_file(file).items()}
    save_file(narrow, file)
    return folder


WIDE = "model.layers.0.self_attn.q_proj.weight"


def recipe(folder):
    """SmartEdit's joint training of the tiny editor."""
    config = get_config("smartedit")
    config.init, config.compute.dtype, config.lora.rank = str(folder), "bfloat16", 2
    return config


@needs_smartedit
def test_what_is_frozen_keeps_the_type_of_its_file(published):
    start = SmartEdit.start(recipe(published))
    types = {path: leaf.dtype.name for path, leaf in flatten_dict(start.abstract_params(), sep="/").items()}
    read = start.init(jax.random.key(0), lambda path: path.startswith("language_model/"))
    assert {path: leaf.dtype.name for path, leaf in flatten_dict(read, sep="/").items()}.items() <= types.items()
    for path, dtype in types.items():
        trains = path.endswith(("lora_a", "lora_b", "embed_tokens/embedding", "lm_head/kernel"))
        wide = trains or not path.startswith("language_model/") or path.endswith("layers_0/self_attn/q_proj/kernel")
        assert dtype == ("float32" if wide else "bfloat16"), path
    for name, part in start.parts.items():
        expected = SmartEdit.types(name, "bfloat16", training=True)
        if name in ("unet", "language_model"):
            expected["remat"] = "all"
        assert {field: getattr(part.module, field) for field in expected} == expected
        assert getattr(start.base, name) == part.module


@pytest.mark.slow
@needs_smartedit
def test_the_type_of_what_is_frozen_changes_no_bit_of_the_objective(published):
    start = SmartEdit.start(recipe(published))
    params, rng = start.init(jax.random.key(0)), np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    inputs = start.base.read(list(images), ["a red lamp", "no lamp"], [None, None], lambda text, count: None)

    pixels = jnp.asarray(images, jnp.float32) / 255

    @jax.jit
    def run(params, inputs):
        found = start.base.precompute(params, pixels, pixels, inputs)
        return found.reply_loss, found.source

    assert start.base.learns_replies
    assert_same(run(params, inputs), run(jax.tree.map(lambda x: np.asarray(x, np.float32), params), inputs))


@needs_smartedit
def test_an_export_has_the_bits_of_what_was_frozen(published, tmp_path):
    start = SmartEdit.start(recipe(published))
    params = start.init(jax.random.key(0), lambda path: path.startswith("language_model/"))
    write_network(start.base.language_model, params["language_model"], tmp_path)
    read, written = (
        load_file(published / "language_model" / "model.safetensors"),
        load_file(tmp_path / "model.safetensors"),
    )
    trained = ("model.embed_tokens.weight", "lm_head.weight")
    assert {name: x.dtype for name, x in written.items() if name in trained} == dict.fromkeys(trained, np.float32)
    assert_same(
        {name: written[name] for name in read if name not in trained},
        {n: x for n, x in read.items() if n not in trained},
    )
