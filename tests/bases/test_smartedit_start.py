"""SmartEdit at its published sizes, of which nothing is allocated, and the types of what trains."""

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, AxisType
from published_smartedit import PUBLISHED, RANK, ROWS
from smartedit_dirs import needs_smartedit, write_pipeline
from tiny_models import get_config

from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.bases.smartedit import SmartEdit
from rewardedit_jax.bases.stable_diffusion import _trains
from rewardedit_jax.params import abstract_params, find_rule
from rewardedit_jax.sharding import AXES, infer_shardings


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
        _, spec = find_rule(SmartEdit.partition_rules, path)
        assert leaf.size < 2**17 or any(spec), f"{path} is large and lies on every device"


def test_every_component_has_rules_of_its_own(abstract):
    assert tuple(abstract) == SmartEdit.components
    used = {find_rule(SmartEdit.partition_rules, path)[0] for path in flatten_dict(abstract, sep="/")}
    assert {rule.split("/")[0] for rule in used} == set(SmartEdit.components)


LORA = r"language_model/(.*/lora_[ab]|lm_head/kernel)"


@pytest.mark.parametrize(
    ("trainable", "trains"),
    [
        (((r"unet/.*", True), (r".*", False)), {"unet"}),
        (((r".*", True),), set(SmartEdit.components)),
        (((LORA, True), (r".*", False)), {"language_model"}),
        # The first rule decides, and what it says of one component is not of others.
        (((r"(language_model|vae)/.*", False), (r"(unet|language_model)/.*", True), (r".*", False)), {"unet"}),
        (((r"language_model/.*", False), (r"[^/]*model/.*|qformer/.*", True), (r".*", False)), {"qformer"}),
        (((r"[^/]*_model/.*", True), (r"(?!language_model/).*", False)), {"language_model"}),
        (((r"(?!language_model/).*", True), (r".*", False)), set(SmartEdit.components) - {"language_model"}),
        (((r".*/bias", True), (r".*", False)), set(SmartEdit.components)),
        (((r"unet/.*", True),), {"unet"}),  # what no rule covers is refused elsewhere
    ],
)
def test_a_component_trains_if_a_rule_trains_one_of_its_parameters(trainable, trains):
    assert {part for part, module in modules("7B").items() if _trains(part, module, trainable)} == trains


def test_types():
    """Only what is large and frozen is kept in the type of computation."""
    half, full = jnp.bfloat16, jnp.float32
    for name in SmartEdit.components:
        large = name in ("vision_encoder", "language_model")
        computes = full if name in ("vae", "qformer", "interaction") else half
        assert SmartEdit.types(name, half) == {"dtype": computes, "param_dtype": half if large else full}
        assert SmartEdit.types(name, half, trains=True) == {"dtype": computes, "param_dtype": full}
    for name in InstructPix2Pix.components:
        assert SmartEdit.types(name, half) == InstructPix2Pix.types(name, half)


@needs_smartedit
@pytest.mark.parametrize(("trains", "stored"), [(False, jnp.bfloat16), (True, jnp.float32)])
def test_a_recipe_reads_what_trains_in_float32(tmp_path, trains, stored):
    config = get_config("reward_ip2p", "debug")
    config.init, config.compute.dtype = str(write_pipeline(tmp_path)), "bfloat16"
    config.network = {name: {} for name in SmartEdit.components} | {"tokenizer": "", "language_tokenizer": ""}
    config.trainable = ((r"unet/.*", True), (r"language_model/.*/v_proj/kernel", trains), (r".*", False))
    start = SmartEdit.start(config)
    read = start.init(jax.random.key(0), lambda path: path.startswith("language_model/"))
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {jnp.dtype(stored)}
    for name, part in start.parts.items():
        expected = SmartEdit.types(name, "bfloat16", trains=trains and name == "language_model")
        assert {field: getattr(part.module, field) for field in expected} == expected
        assert getattr(start.base, name) == part.module
