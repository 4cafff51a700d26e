"""Qwen2.5-VL-3B, 7B and MiMo-VL-7B: read from config.json, counted, divided over devices. Nothing is allocated."""

import math
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, AxisType
from tiny_models import get_config

from rewardedit_jax.models.decoder import DecoderConfig, check_tensor_axis
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig, RewardHeadsConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.params import abstract_params, find_rule, split_params
from rewardedit_jax.scoring.task import PARTITION_RULES
from rewardedit_jax.sharding import AXES, infer_shardings
from rewardedit_jax.training.optimizer import make_optimizer
from rewardedit_jax.training.step import create_state

# The settings in the hub's config.json files that are read here. Their text settings are at the top level.
VISION = {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
}
QWEN_7B = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "image_token_id": 151_655,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "sliding_window": 32_768,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "vision_config": VISION,
    "vocab_size": 152_064,
}
QWEN_3B = {
    **QWEN_7B,
    "hidden_size": 2048,
    "intermediate_size": 11_008,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vision_config": {**VISION, "out_hidden_size": 2048},
    "vocab_size": 151_936,
}
# Its own file was not seen. Its tower is Qwen2.5-VL-72B's (XiaomiMiMo/MiMo-VL, issue 19), whose MLP is 3456 wide.
MIMO_7B = {
    **QWEN_7B,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rope_theta": 640_000.0,
    "vision_config": {**VISION, "intermediate_size": 3456, "out_hidden_size": 4096},
    "vocab_size": 151_680,
}
TOLD = {"3B": QWEN_3B, "7B": QWEN_7B, "MiMo-7B": MIMO_7B}


def read(name):
    """The base model's config; the number of embedding rows is that of the tensors."""
    told = TOLD[name]
    return EditRewardConfig.from_hf(told, {"model.embed_tokens.weight": (told["vocab_size"], told["hidden_size"])})


def with_heads(name):
    return replace(read(name), heads=RewardHeadsConfig(), positions="plain")


@cache
def task_params(name):
    """Shapes of what a `ScoringTask` trains."""
    row = jax.ShapeDtypeStruct((TOLD[name]["hidden_size"],), jnp.float32)
    return {"scorer": abstract_params(EditReward(with_heads(name))), "reward_token": {"embedding": row}}


def abstract_mesh(data, fsdp, tensor):
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def numbers(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_defaults_are_qwens_7b():
    assert read("7B") == EditRewardConfig(heads=None, positions="mrope")


@pytest.mark.parametrize(
    ("name", "text", "vision"),
    [
        (
            "3B",
            {"vocab_size": 151_936, "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2},
            {"out_hidden_size": 2048},
        ),
        (
            "MiMo-7B",
            {
                "vocab_size": 151_680,
                "hidden_size": 4096,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "rope_theta": 640_000.0,
            },
            {"intermediate_size": 3456, "out_hidden_size": 4096},
        ),
    ],
)
def test_the_others_differ_from_it_as_their_files_say(name, text, vision):
    text = DecoderConfig(**text, num_hidden_layers=36, intermediate_size=11_008)
    vision = QwenVisionConfig(**vision)
    assert read(name) == EditRewardConfig(text=text, vision=vision, heads=None, positions="mrope")
    assert DecoderConfig.from_hf(TOLD[name]) == text
    assert QwenVisionConfig.from_hf(TOLD[name]["vision_config"]) == vision


@pytest.mark.parametrize("name", TOLD)
def test_what_is_written_of_a_scorer_is_read_back(name):
    config = with_heads(name)
    width = config.text.hidden_size
    layers = {0: (1024, width), 3: (16, 1024), 5: (2, 16)}
    shapes = {f"rm_heads.head_{h}.{i}.weight": shape for h in (0, 1) for i, shape in layers.items()}
    shapes["model.embed_tokens.weight"] = (config.text.vocab_size, width)
    assert EditRewardConfig.from_hf(config.to_hf(), shapes) == config


# Parameters: the hub counts 3,754,622,976 and 8,292,166,656, and MiMo-VL's files have 16,612,434,432 bytes in bfloat16.
# They include an output layer of the embedding's shape, except the 3B's, which is tied. Tensors: those of published
# reward checkpoints (741 and 837) without that layer and the 12 of the heads.
@pytest.mark.parametrize(
    ("name", "published", "tensors"),
    [("3B", 3_754_622_976, 824), ("7B", 8_292_166_656, 741 - 13), ("MiMo-7B", 16_612_434_432 // 2, 837 - 13)],
)
def test_a_base_model_has_as_many_parameters_as_published(name, published, tensors):
    told, params = TOLD[name], {k: tree for k, tree in task_params(name)["scorer"].items() if k != "heads"}
    output_layer = 0 if told["tie_word_embeddings"] else told["vocab_size"] * told["hidden_size"]
    assert numbers(params) + output_layer == published
    assert len(jax.tree.leaves(params)) == tensors


@pytest.mark.parametrize(("name", "each"), [("3B", 2_114_610), ("7B", 3_687_474), ("MiMo-7B", 4_211_762)])
def test_heads_have_as_many_parameters_as_published(name, each):
    """As `rm_heads` of the published class has them: 2048·1024 + 1024 + 1024·16 + 16 + 16·2 + 2 for 3B."""
    heads = task_params(name)["scorer"]["heads"]
    assert {head: numbers(tree) for head, tree in heads.items()} == {"head_0": each, "head_1": each}


@pytest.mark.parametrize("name", TOLD)
def test_every_parameter_finds_a_rule(name):
    assert all(find_rule(PARTITION_RULES, path) for path in flatten_dict(task_params(name), sep="/"))


@pytest.mark.parametrize(("name", "limit"), [("3B", 2), ("7B", 4), ("MiMo-7B", 8)])
def test_a_tensor_axis_goes_up_to_the_key_heads(name, limit):
    text, mesh = read(name).text, abstract_mesh(1, 16 // limit, limit)
    check_tensor_axis(text, limit)
    infer_shardings(task_params(name), PARTITION_RULES, mesh)  # raises if a parameter cannot be divided
    with pytest.raises(ValueError, match=f"tensor={2 * limit} .*num_key_value_heads={limit}"):
        check_tensor_axis(text, 2 * limit)


def test_eight_devices_hold_an_eighth_of_7b_each():
    """The paper's recipe: parameters and two moments in float32; the embedding matrix, which is frozen, has no moments.

    12 bytes for 7.75e9 numbers less 8 for 0.54e9: 88.7 GB, 11.2 GB on each device; gradients come on top.
    """
    config = get_config("edit_reward")
    trained, frozen = split_params(task_params("7B"), config.trainable)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = jax.eval_shape(lambda p: create_state(p, optimizer, ema=False), trained), frozen
    shardings = infer_shardings(state, PARTITION_RULES, abstract_mesh(1, 8, 1))
    leaves = list(zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True))
    whole = sum(x.dtype.itemsize * x.size for x, _ in leaves)
    everywhere = sum(x.dtype.itemsize * x.size for x, sharding in leaves if sharding.is_fully_replicated)
    one = sum(x.dtype.itemsize * math.prod(sharding.shard_shape(x.shape)) for x, sharding in leaves)
    embedding, heads, row, counters = 152_064 * 3584, 2 * 3_687_474, 3584, 3 * 4
    assert numbers(frozen) == embedding
    assert whole == 12 * (8_292_166_656 - 2 * embedding + heads + row) + 4 * embedding + counters
    assert one == (whole - everywhere) // 8 + everywhere
    assert everywhere < 0.002 * whole  # heads, norms, biases
    assert one < 11.3e9
