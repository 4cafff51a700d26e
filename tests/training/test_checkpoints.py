"""Tests `training/checkpoints.py`: the working directory, the recorded configuration, and states that come back."""

import json
from functools import partial

import jax
import numpy as np
import optax
import pytest
from toy_task import ToyTask, toy_config

from rewardedit_jax.sharding import infer_shardings, make_mesh
from rewardedit_jax.training.checkpoints import Checkpoints, with_shardings
from rewardedit_jax.training.workdir import open_workdir, record_config
from rewardedit_jax.training.step import create_state


def a_state(optimizer=None, ema=True, **changes):
    params = ToyTask(toy_config()).init(jax.random.key(0)) | changes
    return create_state(params, optimizer or optax.adamw(1.0), ema)


def described(state):
    mesh = make_mesh(**toy_config().mesh)
    abstract = jax.eval_shape(lambda: state)
    return with_shardings(abstract, infer_shardings(abstract, ToyTask.partition_rules, mesh))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A working directory with checkpoints of steps 1, 2 and 3, of which two were kept."""
    workdir = tmp_path_factory.mktemp("saved")
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(a_state().replace(step=np.int32(step)))
    return workdir


def test_newest_state_comes_back_with_its_types(saved):
    with Checkpoints(saved, keep=2) as checkpoints:
        assert checkpoints.latest() == 3
        state = checkpoints.restore(described(a_state()))
    expected = a_state().replace(step=np.int32(3))
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_only_the_newest_are_kept(saved):
    assert sorted(p.name for p in (saved / "checkpoints").iterdir() if p.name.isdigit()) == ["2", "3"]


def test_state_of_another_shape_is_refused(saved):
    wider = {"features": {"kernel": np.zeros((4, 32)), "bias": np.zeros(16)}}
    with (
        Checkpoints(saved, keep=2) as checkpoints,
        pytest.raises(ValueError, match=r"checkpoint 3 .*\(config\.json\)") as error,
    ):
        checkpoints.restore(described(a_state(**wider)))
    assert "params/features/kernel: saved (4, 16), wanted (4, 32)" in str(error.value)
    assert "ema/features/kernel" in str(error.value)
    assert "bias" not in str(error.value)


def test_state_of_another_optimizer_is_refused(saved):
    with Checkpoints(saved, keep=2) as checkpoints, pytest.raises(ValueError, match="wanted nothing") as error:
        checkpoints.restore(described(a_state(optax.sgd(1.0), ema=False)))
    assert "ema/features/kernel: saved (4, 16), wanted nothing" in str(error.value)


def test_a_directory_with_content_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match=r"not empty.*--resume.*another directory"):
        open_workdir(tmp_path, resume=False)
    assert open_workdir(tmp_path / "new" / "run", resume=False).is_dir()
    assert open_workdir(tmp_path / "new" / "run", resume=False).is_dir()  # empty is as good as new


def test_resuming_needs_a_checkpoint(tmp_path, saved):
    assert open_workdir(saved, resume=True) == saved
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="start without --resume"):
            open_workdir(directory, resume=True)
    assert not (tmp_path / "missing").exists()


def test_changed_fields_are_told_when_resuming(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: told.append(text % values))
    record = partial(record_config, tmp_path)
    record(toy_config())
    record(toy_config(steps=100))
    assert told == []
    record(toy_config(steps=200, seed=9, **{"optimizer.learning_rate": 0.5}))
    assert told == ["config.optimizer.learning_rate was 0.01, is now 0.5", "config.seed was 3, is now 9"]
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 200
