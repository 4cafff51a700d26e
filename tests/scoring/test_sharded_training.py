"""Losses and gradients of a scorer on a grid of simulated devices equal those on one."""

import jax
import numpy as np
import pytest
from mesh_gradients import loss_and_norms
from tiny_models import get_config

from rewardedit_jax.shapes.tasks import ShapesScoringTask


def make_task(folder):
    """The debug recipe, and its start parameters with noise on all of them."""
    config = get_config("edit_reward", "debug")
    config.data.root = f"{folder}/data"
    task, rng = ShapesScoringTask(config), np.random.default_rng(0)
    params = jax.device_get(task.init(jax.random.key(0)))
    return task, jax.tree.map(lambda x: x + 0.02 * rng.standard_normal(x.shape, x.dtype), params)


@pytest.mark.slow
def test_four_devices_in_a_grid_compute_what_one_computes(tmp_path):
    found = loss_and_norms(make_task, [str(tmp_path)], {"alone": (1, 1, 1), "grid": (1, 2, 2)}, devices=4)
    assert np.count_nonzero(found["alone"]) > 0.9 * len(found["alone"])
    np.testing.assert_allclose(found["grid"], found["alone"], rtol=1e-4, atol=1e-5 * max(found["alone"]))
