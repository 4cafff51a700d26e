"""Trainings that are killed, or cut and continued on other devices, end as one that never stopped."""

import json
import os
import random
import signal
import time

import numpy as np
import pytest
from forked_training import finish, start
from kills import KILLS
from toy_task import records


def newest(workdir):
    """The step of the newest checkpoint; 0 if there is none."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def digests(workdir):
    """Of every array of the newest state."""
    return json.loads((workdir / "checkpoints" / str(newest(workdir)) / "inventory" / "metadata").read_text())


def writes(workdir):
    """Whether a checkpoint is being written."""
    return any("orbax-checkpoint-tmp" in name for name in os.listdir(workdir / "checkpoints"))


def kill(process, workdir, moments):
    """Kills a training, mostly while it writes a checkpoint. Returns whether it did."""
    wanted = newest(workdir) + moments.randint(1, 2)
    starting = time.monotonic() + moments.uniform(0, 3) if moments.random() < 0.2 else float("inf")
    while process.is_alive() and newest(workdir) < wanted and time.monotonic() < starting:
        time.sleep(0.001)
    if newest(workdir) >= wanted and moments.random() < 0.8:
        while process.is_alive() and not writes(workdir):
            pass
    time.sleep(moments.choice([0, 0.003, 0.01, 0.05]))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return newest(workdir) > 0 and writes(workdir)


@pytest.mark.slow
def test_random_kills_leave_the_same_state(tmp_path):
    changes = {"steps": 5 * KILLS, "checkpoint_every": 1, "keep_checkpoints": 2, "evaluate_every": 2}
    finish(start(tmp_path / "whole", changes))
    killed, moments = tmp_path / "killed", random.Random(0)
    writing = [kill(*start(killed, changes), killed, moments) for _ in range(KILLS)]
    assert newest(killed) < changes["steps"]
    assert sum(writing) > KILLS // 4
    finish(start(killed, changes))
    assert digests(killed) == digests(tmp_path / "whole")
    assert records(killed) == records(tmp_path / "whole")
    assert not list((killed / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
def test_all_processes_agree_whether_an_evaluation_is_missing(tmp_path):
    finish(start(tmp_path / "run", {"steps": 6}))
    # The records are on the first process alone. Parameters are divided, so that both take part in every evaluation.
    for steps in (8, 9):
        changes = {"steps": steps, "evaluate_every": 2, "mesh.data": 1, "mesh.fsdp": 2}
        finish(start(tmp_path / "run", changes, processes=2))
    assert [line["step"] for line in records(tmp_path / "run") if "val/largest" in line] == [6, 8, 9]


LAYOUTS = [  # (processes, devices of each, mesh)
    (1, 8, {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}),
    (2, 1, {"mesh.data": 2}),
    (1, 1, {}),
    (2, 2, {"mesh.data": 2, "mesh.fsdp": 2}),
    (1, 4, {"mesh.data": 1, "mesh.fsdp": 4}),
    (1, 2, {"mesh.data": 1, "mesh.tensor": 2}),
]


@pytest.mark.slow
def test_a_run_that_is_cut_and_goes_on_elsewhere_ends_the_same(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start(whole, {"steps": 40}))
    cuts = sorted(random.Random(1).sample(range(1, 40), len(LAYOUTS) - 1))
    for steps, (processes, devices, mesh) in zip([*cuts, 40], LAYOUTS, strict=True):
        finish(start(cut, {"steps": steps} | mesh, devices=devices, processes=processes))
    ours, theirs = ([record["loss"] for record in records(workdir)] for workdir in (cut, whole))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    with np.load(cut / "model" / "params.npz") as ours, np.load(whole / "model" / "params.npz") as theirs:
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-6)
