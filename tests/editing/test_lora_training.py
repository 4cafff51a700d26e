"""Training with low-rank differences: what the recipes train, what a run changes, and what is written and read."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_models import get_config, tiny_editor

from rewardedit_jax import Editor
from rewardedit_jax.params import split_params
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.training.loop import train


def recipe(init, root):
    """The recipe `lora` of stage 2 with the data and the size of its debug variant."""
    config, published = get_config("reward_ip2p", "debug"), get_config("reward_ip2p", "lora")
    config.lora, config.trainable, config.init = published.lora, published.trainable, str(init)
    config.lora.rank = 2
    config.steps, config.data.threads = 2, 0  # in the first, A has no gradient, as B is zero
    config.data.root = str(root)
    config.checkpoint_every = 2
    return config


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "start"
    tiny_editor().save(folder)
    return folder


@pytest.mark.slow
def test_a_run_changes_the_differences_and_the_reward_modules(start, tmp_path):
    config = recipe(start, tmp_path / "data")
    task = ShapesEditingTask(config)
    before = task.init(jax.random.key(config.seed))
    trained, frozen = (set(flatten_dict(tree, sep="/")) for tree in split_params(before, task.trainable))
    attention = {path.rpartition("/")[0] for path in trained if "lora_" in path}
    assert {path.split("/")[-1] for path in attention} == {"to_q", "to_k", "to_v", "to_out"}
    assert len(attention) == 8 * 4  # one transformer in the down and the middle block, two in the up block
    assert {path.split("/")[1].split("_")[0] for path in trained if "lora_" not in path} == {"reward"}
    assert not any("reward_" in path or "lora_" in path for path in frozen)

    train(task, config, tmp_path / "run")
    editor = Editor.load(tmp_path / "run")
    after = flatten_dict(jax.device_get(editor.params), sep="/")
    changed = {p for p, x in flatten_dict(jax.device_get(before), sep="/").items() if not np.array_equal(x, after[p])}
    assert changed <= trained
    assert {path for path in trained if "lora_" in path} <= changed
    assert (editor.base.unet.lora.rank, editor.base.unet.lora.alpha) == (2, 16)
    assert editor.has_reward


def test_a_frozen_input_that_does_not_read_the_source_is_refused(tmp_path):
    tiny_editor(in_channels=4).save(tmp_path / "start")
    with pytest.raises(ValueError, match=r"does not read the source yet: expected unet/conv_in to train"):
        ShapesEditingTask(recipe(tmp_path / "start", tmp_path / "data"))


def test_differences_of_a_start_model_are_not_replaced(start, tmp_path):
    config = recipe(start, tmp_path / "data")
    task = ShapesEditingTask(config)
    task.export(jax.device_get(task.init(jax.random.key(0))), tmp_path / "model")
    config.init = str(tmp_path / "model")
    with pytest.raises(ValueError, match="the unet that training starts from has LoRA"):
        ShapesEditingTask(config)
    config.lora = None
    assert ShapesEditingTask(config).base.unet.lora.rank == 2  # they train further
