"""Reward-conditioned training steps on meshes of eight simulated devices equal those on one device."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT

# data × fsdp × tensor.
MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (2, 1, 4), "mixed": (2, 2, 2)}
# The layouts share all but the reward modules, whose rules the mixed mesh applies on every axis.
CASES = (("released", tuple(MESHES)), ("paper", ("mixed",)))
NUMBERS = ("loss", "grad_norm")
# Every axis that a partition rule divides is a multiple of 8, except the vocabulary of 796 words: tensor is at most 4.
NETWORK = {
    "unet": {
        "in_channels": 8,
        "out_channels": 4,
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    },
    "vae": {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 32,
    },
    "text_encoder": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_act": "quick_gelu",
    },
    "tokenizer": "shapes",
}
# One process for all meshes of one number of devices. Two steps, as zero-initialised projections hide what lies
# behind them from the first gradient.
WORKER = """
import json, sys
from pathlib import Path
from tiny_models import get_config
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.training.loop import train

place, network, layout, meshes = json.loads(sys.argv[1])
for name, sizes in meshes.items():
    config = get_config("reward_ip2p", "debug")
    config.init, config.network, config.schedule = "", network, get_config("ip2p", "debug").schedule
    config.reward.layout = layout
    config.trainable = ((r"(unet|text_encoder)/.*", True), (r"vae/.*", False))
    config.steps, config.batch_size, config.checkpoint_every, config.optimizer.warmup_steps = 2, 8, 0, 0
    config.data.update(root=f"{place}/shapes-data", train=16, test=8)
    config.mesh = dict(zip(("data", "fsdp", "tensor"), sizes))
    train(ShapesEditingTask(config), config, Path(place) / name)
"""


def train(place, layout, devices, meshes):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # the steps take milliseconds and would compile for minutes
    }
    command = [sys.executable, "-c", WORKER, json.dumps([str(place), NETWORK, layout, meshes])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr


def numbers(workdir):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [[record[name] for name in NUMBERS] for record in records]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "meshes"), CASES, ids=[layout for layout, _ in CASES])
def test_eight_devices_train_as_one(tmp_path, layout, meshes):
    train(tmp_path, layout, 1, {"alone": (1, 1, 1)})
    train(tmp_path, layout, 8, {mesh: MESHES[mesh] for mesh in meshes})
    expected = numbers(tmp_path / "alone")
    assert np.shape(expected) == (2, len(NUMBERS))
    for mesh in meshes:  # measured: 6e-7
        np.testing.assert_allclose(numbers(tmp_path / mesh), expected, rtol=1e-5, err_msg=mesh)
