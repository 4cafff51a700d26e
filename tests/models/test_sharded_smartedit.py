"""SmartEdit's networks on a grid of simulated devices: losses and gradients equal those on one."""

import jax.numpy as jnp
import numpy as np
import pytest
from mesh_gradients import loss_and_norms
from tiny_models import draw, tiny_interaction, tiny_llava, tiny_qformer

from rewardedit_jax.models import interaction, llava, qformer
from rewardedit_jax.models.lora import LoRA

MODULES = {
    # Every dense layer of the decoder has a difference, so that every rule is used.
    "language_model": tiny_llava(lora=LoRA(2, 4.0, (r".*_proj",)), remat=True),
    "qformer": tiny_qformer(),
    "interaction": tiny_interaction(),
}


class Task:
    """The three networks one after the other, on what `mesh_gradients` wants of a task."""

    partition_rules = tuple(
        (f"{name}/{path}", spec)
        for name, module in (("language_model", llava), ("qformer", qformer), ("interaction", interaction))
        for path, spec in module.PARTITION_RULES
    )

    def batches(self, start):
        rng = np.random.default_rng(0)
        yield {
            "ids": rng.integers(0, 29, (8, 7)).astype(np.int32),
            "features": rng.standard_normal((8, 9, 16)).astype(np.float32),
            "image_at": np.arange(8, dtype=np.int32) % 7,
            "mask": np.arange(7) < rng.integers(4, 8, (8, 1)),
        }

    def loss(self, params, batch, rng):
        def run(name, *inputs, **given):
            return MODULES[name].apply({"params": params[name]}, *inputs, **given)

        hidden = run("language_model", batch["ids"], batch["features"], batch["image_at"], batch["mask"])
        queries = run("qformer", hidden[:, :4])
        outputs = (
            *run("interaction", queries, batch["features"]),
            run("language_model", hidden[:, :4], method="logits"),
        )
        return sum((jnp.sin(x) ** 2).reshape(8, -1).mean(axis=1) for x in outputs), {}


def make_task():
    return Task(), {name: draw(module) for name, module in MODULES.items()}


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes():
    meshes = {"alone": (1, 1, 1), "fsdp": (1, 8, 1), "grid": (2, 2, 2)}
    found = loss_and_norms(make_task, [], meshes, devices=8)
    # Without gradient: the constant of the interaction module, and the biases of keys, which cancel in the softmax.
    assert np.count_nonzero(np.array(found["alone"]) < 1e-6) == 1 + 7 + 5
    for name in ("fsdp", "grid"):
        np.testing.assert_allclose(
            found[name], found["alone"], rtol=1e-4, atol=1e-5 * max(found["alone"]), err_msg=name
        )
