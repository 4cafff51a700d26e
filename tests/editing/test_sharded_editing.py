"""Ten steps of a reward-conditioned editor on meshes of eight simulated devices equal those on one."""

import numpy as np
import pytest
from mesh_steps import assert_same_steps, run_on_meshes
from tiny_models import draw_all, get_config

from rewardedit_jax.shapes.tasks import ShapesEditingTask

# data × fsdp × tensor.
MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}
# The layouts share all but the reward modules, whose rules the mixed mesh applies on every axis.
CASES = (("released", tuple(MESHES)), ("paper", ("mixed",)))
# Every axis that a partition rule divides is a multiple of 8, except the vocabulary of 796 words.
NETWORK = {
    "unet": {
        "in_channels": 8,
        "out_channels": 4,
        "sample_size": 16,
        "block_out_channels": (16,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
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


def make_task(folder, layout):
    """A reward-conditioned editor from scratch, and drawn parameters."""
    config = get_config("reward_ip2p", "debug")
    config.init, config.network, config.schedule = "", NETWORK, get_config("ip2p", "debug").schedule
    config.reward.layout, config.batch_size = layout, 8
    config.data.update(root=f"{folder}/shapes-data", train=16, test=8)
    config.optimizer.update(learning_rate=1e-4, warmup_steps=0)
    task = ShapesEditingTask(config)
    return task, config, draw_all(task.base)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "meshes"), CASES, ids=[layout for layout, _ in CASES])
def test_eight_devices_compute_what_one_computes(tmp_path, layout, meshes):
    sizes = {"alone": (1, 1, 1), **{mesh: MESHES[mesh] for mesh in meshes}}
    found = run_on_meshes(make_task, [str(tmp_path), layout], sizes, devices=8)
    expected = found.pop("alone")
    assert np.count_nonzero(expected["gradients"]) > 0.75 * len(expected["gradients"])  # not of the VAE's decoder
    for mesh, numbers in found.items():
        assert_same_steps(numbers, expected, mesh)
