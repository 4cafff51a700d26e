"""Ten steps of a scorer on meshes of eight simulated devices equal those on one."""

import jax
import numpy as np
import pytest
from mesh_steps import assert_same_steps, run_on_meshes
from tiny_models import get_config

from rewardedit_jax.shapes.tasks import ShapesScoringTask


def make_task(folder):
    """The debug recipe, and its start parameters with noise on all of them."""
    config = get_config("edit_reward", "debug")
    config.data.root, config.batch_size = f"{folder}/data", 8
    config.optimizer.update(learning_rate=1e-4, warmup_steps=0)
    task, rng = ShapesScoringTask(config), np.random.default_rng(0)
    params = jax.device_get(task.init(jax.random.key(0)))
    return task, config, jax.tree.map(lambda x: x + 0.02 * rng.standard_normal(x.shape, x.dtype), params)


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes(tmp_path):
    meshes = {"alone": (1, 1, 1), "data": (8, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2)}
    found = run_on_meshes(make_task, [str(tmp_path)], meshes, devices=8)
    expected = found.pop("alone")
    assert np.count_nonzero(expected["gradients"]) > 0.9 * len(expected["gradients"])
    for mesh, numbers in found.items():
        assert_same_steps(numbers, expected, mesh)
