"""The scoring benchmark: its variants agree, at toy size."""

import runpy

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import ROOT

from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig


@pytest.mark.slow
@pytest.mark.parametrize("candidates", [1, 2])
def test_the_variants_agree(candidates):
    script = runpy.run_path(str(ROOT / "benchmarks" / "scoring.py"))
    text = {"vocab_size": 1000, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "mrope_section": (2, 1, 1)}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32}
    script["SIZES"]["toy"] = DecoderConfig(**text, **heads), QwenVisionConfig(**vision, fullatt_block_indexes=(0,))
    module, params = script["random_scorer"]("toy", jnp.float32)
    inputs = script["make_inputs"](2, candidates)
    assert len(np.unique(inputs.pictures)) == (4 if candidates == 1 else 3)
    variants = {name: script[name](module, params, inputs) for name in ("packed_pass", "two_passes")}
    seconds, difference = script["measure"](variants, 1)
    assert difference < 1e-5
    assert all(len(taken) == 1 and taken[0] > 0 for taken in seconds.values())
