"""A disk that gets full while a run trains: a small file system of its own, in memory."""

import json
import subprocess

import pytest
from toy_task import ToyTask, toy_config

from rewardedit_jax.training.checkpoints import UnsavedState
from rewardedit_jax.training.loop import train


@pytest.fixture
def disk(tmp_path):
    """A folder with room for a few checkpoints of the toy task."""
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def toy_train(disk, changes=(), **settings):
    """Trains nine steps with a checkpoint after each third; `changes` are {step: what happens after it}."""
    changes = dict(changes)

    def evaluator(params, step):
        changes.get(step, lambda disk: None)(disk)
        return {}

    config = toy_config(steps=9, checkpoint_every=3, evaluate_every=3, keep_checkpoints=2)
    return train(ToyTask(config, evaluator=evaluator), config, disk / "run", **settings)


def checkpoints(disk, unfinished=True):
    names = (entry.name for entry in (disk / "run" / "checkpoints").iterdir())
    return sorted(name for name in names if unfinished or name.isdigit())


def test_a_full_disk_is_a_warning_and_the_next_checkpoint_another_try(disk, logged):
    toy_train(disk, {3: fill, 6: lambda disk: (disk / "filler").unlink()})
    assert checkpoints(disk) == ["3", "9"]
    (line,) = (line for line in logged if "checkpoint 6 could not be written" in line)
    assert str(disk / "run") in line
    records = (disk / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == list(range(1, 10))


def test_at_the_end_a_full_disk_is_an_error(disk, logged):
    with pytest.raises(UnsavedState, match=r"state of step 9 could not .*checkpoints.*continue from step 6 with --res"):
        toy_train(disk, {6: fill})
    # Threads of tensorstore may still be writing when the run ends; the next one removes what they leave.
    assert checkpoints(disk, unfinished=False) == ["3", "6"]
    (disk / "filler").unlink()
    assert int(toy_train(disk, resume=True).step) == 9
    assert checkpoints(disk) == ["6", "9"]
    assert (disk / "run" / "model" / "params.npz").exists()
