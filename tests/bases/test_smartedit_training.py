"""Training SmartEdit: from a cache without its language model, and jointly with it."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from smartedit_dirs import description, needs_smartedit, write_pipeline
from tiny_models import get_config

from rewardedit_jax import Editor
from rewardedit_jax.editing.cache_writer import write_cache
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.training.loop import train

pytestmark = [needs_smartedit, pytest.mark.slow]
STEPS = 2  # in the first, A of LoRA has no gradient, as B is zero


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the tiny editor, and a list of judged edits of 16 × 16 pixels."""
    folder, rng, lines = tmp_path_factory.mktemp("training"), np.random.default_rng(0), []
    write_pipeline(folder / "start")
    for i in range(12):
        names = {"input": f"{i}_input.png", "output": f"{i}_output.png"}
        for name in names.values():
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / name)
        reward = {"scores": rng.uniform(0, 5, 3).tolist(), "feedback": [f"fault {i}", "None", "grain"]}
        lines.append(json.dumps({**names, "instruction": f"turn lamp {i} red", **reward}))
    (folder / "list.jsonl").write_text("\n".join(lines))
    return folder


def recipe(place, name, **data):
    config = get_config(name)
    config.init, config.steps, config.batch_size, config.accumulate = str(place / "start"), STEPS, 4, 1
    config.data.update(name="triplets", root=str(place / "list.jsonl"), resolution=16, threads=0, **data)
    config.compute.update(dtype="float32", remat="none")
    config.mesh = {"data": 1, "fsdp": 1, "tensor": 1}
    config.log_every, config.checkpoint_every = 1, STEPS
    return config


def test_a_cache_takes_the_place_of_the_language_model(place, tmp_path):
    config = recipe(place, "reward_smartedit")
    online = EditingTask(config)
    params = online.init(jax.random.key(config.seed))
    assert write_cache(online, tmp_path / "cache", "float32") == []
    cached = EditingTask(recipe(place, "reward_smartedit", cache=str(tmp_path / "cache")))
    assert set(cached.abstract_params()) == {"unet"}  # nothing else is read, or kept in memory
    found = []
    for task, tree in ((online, params), (cached, {"unet": params["unet"]})):
        batch = next(task.batches(0))
        found.append(jax.jit(lambda p, b, task=task: task.loss(p, b, jax.random.key(0))[0])(tree, batch))
    np.testing.assert_allclose(*found, rtol=1e-5)
    # What the cache has taken the place of is written all the same.
    cached.export({"unet": params["unet"]}, tmp_path / "model")
    expected = flatten_dict(params, sep="/")
    for path, leaf in flatten_dict(Editor.load(tmp_path / "model").params, sep="/").items():
        np.testing.assert_array_equal(leaf, expected[path])


def test_joint_training_changes_what_the_recipe_says(place, tmp_path):
    config = recipe(place, "smartedit")
    config.lora.rank = 2
    task = EditingTask(config)
    before = flatten_dict(jax.device_get(task.init(jax.random.key(config.seed))), sep="/")
    train(task, config, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        assert record["loss"] == pytest.approx(record["edit"] + record["reply"], rel=1e-5)
    editor = Editor.load(tmp_path / "run")
    after = flatten_dict(jax.device_get(editor.params), sep="/")
    changed = {path for path, leaf in before.items() if not np.array_equal(leaf, after[path])}
    lora = {path for path in before if path.endswith(("lora_a", "lora_b"))}
    assert len(lora) == 2 * 2 * description()["json_files"]["vicuna/config.json"]["num_hidden_layers"]
    assert {path.split("/")[0] for path in changed} == {"unet", "qformer", "interaction", "language_model"}
    assert "interaction/positional_encoding_gaussian_matrix" not in changed
    words = {"language_model/decoder/embed_tokens/embedding", "language_model/lm_head/kernel"}
    assert {path for path in changed if path.startswith("language_model")} == lora | words
    known = description()["sizes"]["llm_vocab_before"]
    for path in words:
        rows = [x[path] if path.endswith("embedding") else x[path].T for x in (before, after)]
        np.testing.assert_array_equal(rows[0][:known], rows[1][:known])
        assert not np.array_equal(rows[0][known:], rows[1][known:])
    assert editor.base.language_model.lora.rank == 2
    picture = np.zeros((16, 16, 3), np.uint8)
    assert editor.edit(picture, "turn lamp 1 red", steps=1, resolution=None).size == (16, 16)


def test_wrong_settings(place):
    config = recipe(place, "smartedit")
    for target, fault in (
        ("unet/nothing", "unet/nothing.*dense layer"),
        ("speech/.*", "begins with unet"),
    ):
        config.lora.targets = (target,)
        with pytest.raises(ValueError, match=fault):
            EditingTask(config)
    config = recipe(place, "smartedit", cache="somewhere")
    with pytest.raises(ValueError, match=r"reply_weight=1\.0: expected 0 with data\.cache"):
        EditingTask(config)
    config = recipe(place, "reward_ip2p")
    with config.unlocked():
        config.reply_weight = 1.0
    with pytest.raises(ValueError, match="no language model"):
        EditingTask(config)
