"""Losses and gradients of a reward-conditioned editor on meshes of eight simulated devices equal those on one."""

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
# Every axis that a partition rule divides is a multiple of 8, except the vocabulary of 796 words: tensor is at most 4.
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
# One process for all meshes of a layout. The loss and its gradient alone: `training/test_distributed.py` tests the
# state, the optimizer and checkpoints on meshes, which all tasks share. Drawn parameters, as layers that start at zero
# hide the gradients of those before them.
WORKER = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
from tiny_models import draw_all, get_config
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.sharding import infer_shardings, place
from rewardedit_jax.training.loop import global_batch

folder, network, layout, meshes = json.loads(sys.argv[1])
config = get_config("reward_ip2p", "debug")
config.init, config.network, config.schedule = "", network, get_config("ip2p", "debug").schedule
config.reward.layout, config.batch_size = layout, 8
config.data.update(root=f"{folder}/shapes-data", train=16, test=8)
task = ShapesEditingTask(config)
params, batch, rng = draw_all(task.base), next(task.batches(0)), jax.random.key(0)
step = jax.jit(jax.value_and_grad(lambda params, batch: task.loss(params, batch, rng)[0].mean()))
found = {}
for name, sizes in meshes.items():
    count = sizes[0] * sizes[1] * sizes[2]
    mesh = Mesh(np.array(jax.devices()[:count]).reshape(sizes), ("data", "fsdp", "tensor"))
    placed = place(params, infer_shardings(params, task.partition_rules, mesh))
    with jax.set_mesh(mesh):
        loss, gradient = step(placed, global_batch(batch, mesh=mesh))
    norms = jax.tree.map(lambda x: np.linalg.norm(x), jax.device_get(gradient))
    found[name] = [float(loss), *map(float, jax.tree.leaves(norms))]
print(json.dumps(found))
"""


def loss_and_norms(folder, layout, meshes):
    """Mesh → the loss, and the norm of the gradient of each parameter."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", WORKER, json.dumps([str(folder), NETWORK, layout, meshes])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "meshes"), CASES, ids=[layout for layout, _ in CASES])
def test_eight_devices_compute_what_one_computes(tmp_path, layout, meshes):
    found = loss_and_norms(tmp_path, layout, {"alone": (1, 1, 1), **{mesh: MESHES[mesh] for mesh in meshes}})
    expected = found.pop("alone")
    assert np.count_nonzero(expected) > 0.75 * len(expected)  # the decoder of the autoencoder has no gradient
    for mesh, numbers in found.items():  # measured: 5e-7 of the largest norm
        np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-5 * max(expected), err_msg=mesh)
