"""The decoder: what its config refuses, and that no token sees a later one (its numbers: the tests with an oracle)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.models.decoder import Decoder, DecoderConfig, causal_mask, check_tensor_axis

QWEN_7B = {
    "model_type": "qwen2_5_vl",
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "use_sliding_window": False,
    "sliding_window": 32_768,
    "hidden_act": "silu",
}
TINY = DecoderConfig(
    vocab_size=20,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    mrope_section=None,
)


def test_the_defaults_are_qwens_7b():
    assert DecoderConfig.from_hf(QWEN_7B) == DecoderConfig()


def test_llama_has_no_biases_and_no_axes():
    config = DecoderConfig.from_hf({**QWEN_7B, "model_type": "llama", "rope_scaling": None, "attention_bias": False})
    assert (config.qkv_bias, config.mrope_section) == (False, None)
    assert DecoderConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(("model_type", "heads"), [("qwen2_5_vl", 4), ("llama", 28), ("llava", 28)])
def test_a_first_llama_has_as_many_key_heads_as_heads(model_type, heads):
    """Its config.json does not name their number."""
    config = {k: v for k, v in QWEN_7B.items() if k not in ("num_key_value_heads", "rope_scaling")}
    assert DecoderConfig.from_hf({**config, "model_type": model_type}).num_key_value_heads == heads


@pytest.mark.parametrize(("model_type", "theta"), [("qwen2_5_vl", 1e6), ("llama", 1e4)])
def test_without_a_base_of_its_rotations_a_model_has_that_of_its_kind(model_type, theta):
    """As in transformers."""
    config = {k: v for k, v in QWEN_7B.items() if k != "rope_theta"} | {"model_type": model_type}
    assert DecoderConfig.from_hf(config).rope_theta == theta
    assert DecoderConfig.from_hf({**config, "rope_theta": None}).rope_theta == theta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu': expected 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type='yarn'"),
        ({"head_dim": 64}, "head_dim=64"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias=True"),
        ({"num_key_value_heads": 3}, "num_attention_heads=28.*num_key_value_heads=3"),
        ({"hidden_size": 3600, "rope_scaling": None}, "hidden_size=3600"),
        ({"rope_scaling": {"mrope_section": [16, 24, 20]}}, "mrope_section=.*: expected sum 64"),
    ],
)
def test_another_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig.from_hf({**QWEN_7B, **change})


def test_a_tensor_axis_divides_the_key_heads():
    for size in (1, 2, 4):
        check_tensor_axis(DecoderConfig(), size)
    with pytest.raises(ValueError, match=r"tensor=8 .*num_key_value_heads=4"):
        check_tensor_axis(DecoderConfig(), 8)


def test_no_token_sees_a_later_one():
    module = Decoder(TINY)
    positions, mask = jnp.arange(6)[None], causal_mask(jnp.zeros((1, 6), jnp.int32))
    params = module.init(jax.random.key(0), jnp.zeros((1, 6, 16)), positions, mask)
    x = jax.random.normal(jax.random.key(1), (1, 6, 16))
    before, after = (module.apply(params, y, positions, mask) for y in (x, x.at[:, 4].add(1.0)))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (jnp.abs(before[:, 4:] - after[:, 4:]).max(axis=-1) > 1e-3).all()
