"""Losses and gradients of a reward-conditioned editor on meshes of eight simulated devices equal those on one."""

import numpy as np
import pytest
from mesh_gradients import loss_and_norms
from tiny_models import draw_all, get_config

from rewardedit_jax.shapes.tasks import ShapesEditingTask

# data × fsdp × tensor. Data is never alone: it divides nothing but the batch.
MESHES = {"fsdp": (1, 8, 1), "mixed": (2, 2, 2)}
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
    task = ShapesEditingTask(config)
    return task, draw_all(task.base)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "meshes"), CASES, ids=[layout for layout, _ in CASES])
def test_eight_devices_compute_what_one_computes(tmp_path, layout, meshes):
    sizes = {"alone": (1, 1, 1), **{mesh: MESHES[mesh] for mesh in meshes}}
    found = loss_and_norms(make_task, [str(tmp_path), layout], sizes, devices=8)
    expected = found.pop("alone")
    assert np.count_nonzero(expected) > 0.75 * len(expected)  # the decoder of the autoencoder has no gradient
    for mesh, numbers in found.items():  # measured: 5e-7 of the largest norm
        np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-5 * max(expected), err_msg=mesh)
