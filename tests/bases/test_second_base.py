"""A second base editor trains, edits, saves and loads through the unchanged `Editor`, task and trainer."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_models import assert_same, get_config
from toy_base import PROCESS, ToyBase

from rewardedit_jax import Editor, Reward, bases
from rewardedit_jax.bases.base import Base
from rewardedit_jax.editing.cache_writer import write_cache
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.training.loop import train

INSTRUCTION = "make it red"


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    monkeypatch.setattr(bases, "BASES", [*bases.BASES, ToyBase])


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    """A list file of pictures that are to become red, with their rewards."""
    folder, rng, lines = tmp_path_factory.mktemp("triplets"), np.random.default_rng(0), []
    for i in range(16):
        source = np.full((32, 32, 3), rng.integers(0, 256, 3), np.uint8)
        edited = np.broadcast_to(np.uint8([250, 10, 10]), source.shape)
        for name, picture in (("source", source), ("edited", edited)):
            Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"{i}_{name}.png")
        names = {"input": f"{i}_source.png", "output": f"{i}_edited.png", "instruction": INSTRUCTION}
        lines.append(json.dumps({**names, "scores": [5, 5, 5], "feedback": ["None"] * 3}))
    (folder / "list.jsonl").write_text("\n".join(lines))
    return folder / "list.jsonl"


def recipe(triplets, steps=150):
    config = get_config("reward_ip2p", "debug")
    config.base_editor, config.network, config.task = "toy", {"width": 32}, "editing"
    config.steps, config.batch_size, config.trainable = steps, 16, ((r".*", True),)
    config.log_every, config.checkpoint_every, config.optimizer.ema_decay = 10, steps, None
    # Constant: with a cosine, a run that is made longer is not the longer run.
    config.optimizer.update(learning_rate=1e-2, schedule="constant", warmup_steps=0)
    config.data.update(name="triplets", root=str(triplets), threads=0)
    return config


def test_it_is_a_base(triplets):
    assert isinstance(EditingTask(recipe(triplets)).base, Base)


@pytest.mark.slow
def test_it_trains_edits_saves_and_loads(triplets, tmp_path):
    config = recipe(triplets)
    train(EditingTask(config), config, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]

    editor = Editor.load(tmp_path / "run", dtype="float32")
    assert isinstance(editor.base, ToyBase)
    grey = np.full((40, 32, 3), 128, np.uint8)
    asked = {"reward": Reward(5, 5, 5), "steps": 20, "text_guidance": 1.0, "resolution": None, "output": "array"}
    edited = editor.edit(grey, INSTRUCTION, **asked)
    assert edited.shape == (1, 40, 32, 3)
    red, green, blue = edited.mean((0, 1, 2))
    assert red > max(green, blue) + 0.2

    editor.save(tmp_path / "copy")
    again = Editor.load(tmp_path / "copy", dtype="float32")
    assert again.base == editor.base
    assert_same(jax.device_get(again.params), jax.device_get(editor.params))
    np.testing.assert_array_equal(again.edit(grey, INSTRUCTION, **asked), edited)


def test_a_stopped_run_resumes(triplets, tmp_path):
    whole, parts = recipe(triplets, steps=6), recipe(triplets, steps=3)
    state = train(EditingTask(whole), whole, tmp_path / "whole")
    train(EditingTask(parts), parts, tmp_path / "parts")
    resumed = train(EditingTask(whole), whole, tmp_path / "parts", resume=True)
    assert_same(jax.device_get(resumed.params), jax.device_get(state.params))


def test_it_trains_from_a_cache(triplets, tmp_path):
    online, cached = recipe(triplets, steps=3), recipe(triplets, steps=3)
    cached.data.cache = str(tmp_path / "cache")
    assert write_cache(EditingTask(online), tmp_path / "cache", "float32") == []
    losses = []
    for name, config in (("online", online), ("cached", cached)):
        config.log_every = 1
        train(EditingTask(config), config, tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    # Two programs: the compiler may fuse, and round, differently.
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_its_noise_process_is_saved(triplets, tmp_path):
    base = EditingTask(recipe(triplets)).base
    base.save(EditingTask(recipe(triplets)).init(jax.random.key(0)), tmp_path)
    assert ToyBase.open(tmp_path, "float32").base.process.to_config().items() >= PROCESS.items()


def test_samplers_of_other_processes_are_refused(triplets):
    task = EditingTask(recipe(triplets))
    editor = task.with_params(task.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="ddim"):
        editor.edit(np.zeros((32, 32, 3), np.uint8), INSTRUCTION, sampler="ddim")
