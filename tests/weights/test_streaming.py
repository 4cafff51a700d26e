"""Loading a sharded checkpoint takes little more memory than its weights."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.params import abstract_params
from rewardedit_jax.weights.engine import export_tensors
from rewardedit_jax.weights.qwen2_5_vl import edit_reward_table

SHARDS = 4
# In a process of its own, as memory once taken stays in the peak; jax is at work before the first look.
MEASURE = """
import json, re, sys
import jax, jax.numpy as jnp
from rewardedit_jax.weights.pretrained import load_pretrained

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

jnp.zeros(3).block_until_ready()
before = peak()
_, params = load_pretrained(sys.argv[1], jnp.bfloat16, jnp.bfloat16)
print(json.dumps([peak() - before, sum(x.nbytes for x in jax.tree.leaves(params))]))
"""


def write_checkpoint(directory, dtype):
    """A scorer with the proportions of 7B, 211 million numbers, in shards."""
    text = {"vocab_size": 30_000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 10}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "mrope_section": (8, 12, 12)}
    vision = {"depth": 4, "hidden_size": 640, "intermediate_size": 1024, "num_heads": 8, "out_hidden_size": 1024}
    config = EditRewardConfig(
        text=DecoderConfig(**text, **heads), vision=QwenVisionConfig(**vision, fullatt_block_indexes=(1,))
    )
    params = jax.tree.map(lambda x: np.full(x.shape, 0.01, dtype), abstract_params(EditReward(config)))
    tensors, files = export_tensors(params, edit_reward_table(config)), {}
    for i in range(SHARDS):
        shard = f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = dict(list(tensors.items())[i::SHARDS])
        save_file(part, directory / shard)
        files |= dict.fromkeys(part, shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (directory / "config.json").write_text(json.dumps(config.to_hf()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which Linux has")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float32])
def test_peak_memory_is_little_above_the_weights(tmp_path, dtype):
    """At most 1.25 times the weights in bfloat16, whatever the files hold; measured 1.04, and 1.07 from float32.

    Beside what is loaded there is one tensor at a time, as the file has it. Of 7B (8.29e9 numbers, 16.6 GB) the largest
    is the embedding matrix: 1.1 GB, or 2.2 GB in float32, which makes 1.13 times the weights.
    """
    write_checkpoint(tmp_path, dtype)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    growth, weights = json.loads(told.stdout)
    assert weights > 4e8
    # Weights also fill memory that imports took and gave back: 0.994 was seen.
    assert 0.95 * weights < growth < 1.25 * weights
