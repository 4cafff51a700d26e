"""SmartEdit's joint objective and its gradients on meshes of eight simulated devices equal those on one."""

import jax.numpy as jnp
import numpy as np
import pytest
from mesh_steps import assert_same_steps, run_on_meshes
from tiny_models import draw_all, get_config

from rewardedit_jax.editing.objective import precompute
from rewardedit_jax.shapes.tasks import ShapesEditingTask

# Every axis that a partition rule divides is a multiple of 8, except vocabularies.
NETWORK = {
    "vision_encoder": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 8, "patch_size": 8},
    "language_model": {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 8,
        "mm_hidden_size": 16,
        "num_hidden_layers": 2,
    },
    "qformer": {
        "hidden_size": 96,
        "intermediate_size": 32,
        "num_attention_heads": 8,
        "encoder_hidden_size": 32,
        "cross_attention_frequency": 2,
        "num_hidden_layers": 2,
        "num_queries": 32,
    },
    "interaction": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 8,
        "attention_downsample_rate": 1,
        "context_size": 96,
    },
}


class Readers:
    """What a training of SmartEdit minimises, with numbers of its U-Net's inputs in place of the U-Net's error.

    The U-Net takes these inputs as that of InstructPix2Pix does, which `editing/test_sharded_editing.py` tests.
    """

    def __init__(self, config):
        self.task = ShapesEditingTask(config)
        self.partition_rules = self.task.partition_rules

    def batches(self, start):
        return self.task.batches(start)

    def loss(self, params, batch, rng):
        found = precompute(self.task.base, params, batch, rng)
        inputs = (jnp.sin(x) ** 2 for x in (found.source.context, found.source.residual))
        return found.reply_loss + sum(x.reshape(len(x), -1).mean(axis=1) for x in inputs), {}


def make_task(folder):
    """The debug recipe with low-rank differences of every dense layer of the decoder, so that every rule is used."""
    config = get_config("smartedit", "debug")
    for name, sizes in NETWORK.items():
        config.network[name].update(sizes)
    config.lora = get_config("smartedit").lora
    config.lora.update(rank=2, targets=(r"language_model/decoder/.*_proj",))
    config.compute.remat, config.batch_size = "all", 8
    config.data.update(root=f"{folder}/data", train=16, test=8, threads=0)
    task = Readers(config)
    params = draw_all(task.task.base)
    return task, config, {name: params[name] for name in task.task.base.precomputing}


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes(tmp_path):
    meshes = {"alone": (1, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}
    # One step: with drawn weights this objective is so steep that rounding grows tenfold in each. Gradients differ by
    # 4e-4 of their norm at most.
    found = run_on_meshes(make_task, [str(tmp_path)], meshes, devices=8, steps=1)
    expected = found.pop("alone")
    norms = np.array(expected["gradients"])
    assert np.count_nonzero(norms > 1e-6 * norms.max()) > 100  # VAE and text encoder have no gradient
    for mesh, numbers in found.items():
        assert_same_steps(numbers, expected, mesh, rtol=2e-3)
