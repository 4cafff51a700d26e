"""Training in the shapes world from a cache, with the editor that ships: the losses, also of a resumed run."""

import json

import pytest
from tiny_models import get_config

from rewardedit_jax.editing.cache_writer import write_cache
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.training.loop import train


def recipe(root, steps=6, cache=""):
    config = get_config("reward_ip2p", "debug")
    config.steps, config.checkpoint_every, config.reward.dropout = steps, 100, 0.1
    # Constant: with a cosine, a run that is made longer is not the longer run.
    config.optimizer.update(schedule="constant", learning_rate=1e-4)
    config.data.update(root=str(root / "data"), flip=True, cache=str(cache))
    return config


def losses(config, workdir, **how):
    train(ShapesEditingTask(config), config, workdir, **how)
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes_cache")


@pytest.fixture(scope="module")
def online(root):
    return losses(recipe(root), root / "online")


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-3)])
def test_losses_are_those_without_a_cache(root, online, dtype, tolerance):
    write_cache(ShapesEditingTask(recipe(root)), root / dtype, dtype)
    run = root / f"run-{dtype}"
    losses(recipe(root, 3, root / dtype), run)
    found = losses(recipe(root, 6, root / dtype), run, resume=True)
    assert found == pytest.approx(online, rel=tolerance)
