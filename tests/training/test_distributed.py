"""Tests the trainer on eight devices, and on two processes: other layouts of the same arithmetic."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from paths import ROOT
from toy_task import ToyTask, toy_config

from rewardedit_jax.training.loop import train

CONFIG = {"checkpoint_every": 3, "accumulate": 2}

# One process; trains what its arguments say, and writes the shape of one device's part of a parameter.
WORKER = """
import json, sys
from pathlib import Path
import jax
from toy_task import ToyTask, toy_config
from rewardedit_jax.training.loop import train

port, processes, process, runs = json.loads(sys.argv[1])
if processes > 1:
    jax.distributed.initialize(f"localhost:{port}", processes, process)
for workdir, changes, resume in runs:
    config = toy_config(**changes)
    if workdir.endswith("differ"):
        config.seed = process
        try:
            train(ToyTask(config), config, Path(workdir))
        except ValueError as error:
            print(error, file=sys.stderr)
            continue
    state = train(ToyTask(config, noise=0.1), config, Path(workdir), resume=resume)
    kernel = state.params["head"]["hidden"]["kernel"]
    shapes = [kernel.sharding.shard_shape(kernel.shape), [jax.device_count(), jax.process_count()]]
    (Path(workdir) / f"shapes_{process}.json").write_text(json.dumps(shapes))
"""


def start(runs, *, devices=1, port=0, processes=1, process=0):
    paths = [str(ROOT / "tests"), str(ROOT)]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    argument = json.dumps([port, processes, process, runs])
    return subprocess.Popen([sys.executable, "-c", WORKER, argument], env=env, stderr=subprocess.PIPE, text=True)


def start_two(runs, devices):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    return [start(runs, devices=devices, port=port, processes=2, process=i) for i in range(2)]


def finish(*workers):
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors


def assert_same_run(workdir, expected):
    """Losses, norms and exported parameters agree to float32's order of summation."""
    ours, theirs = (
        [json.loads(x) for x in (w / "metrics.jsonl").read_text().splitlines()] for w in (workdir, expected)
    )
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for name in ("loss", "grad_norm", "param_norm"):
        np.testing.assert_allclose([r[name] for r in ours], [r[name] for r in theirs], rtol=1e-5)
    with np.load(workdir / "model" / "params.npz") as ours, np.load(expected / "model" / "params.npz") as theirs:
        assert sorted(ours) == sorted(theirs)
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Working directories of six steps on one device, and of the first three of them."""
    workdir = tmp_path_factory.mktemp("alone")
    for steps in (6, 3):
        config = toy_config(**CONFIG, steps=steps)
        train(ToyTask(config, noise=0.1), config, workdir / str(steps))
    return workdir


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes(alone, tmp_path):
    mesh = {"mesh.data": 2, "mesh.fsdp": 4, "mesh.tensor": 1}
    tensor = {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 2}
    started_alone = alone / "3"  # goes on from the checkpoint of one device
    runs = [[str(tmp_path / "run"), CONFIG | mesh, False], [str(started_alone), CONFIG | tensor, True]]
    finish(start(runs, devices=8))
    assert_same_run(tmp_path / "run", alone / "6")
    assert_same_run(started_alone, alone / "6")
    # Each device holds a quarter of the rows of a kernel, or a quarter of the rows of half of the columns.
    assert json.loads((tmp_path / "run" / "shapes_0.json").read_text()) == [[4, 16], [8, 1]]
    assert json.loads((started_alone / "shapes_0.json").read_text()) == [[4, 8], [8, 1]]


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(alone, tmp_path):
    mesh = {"mesh.data": 2, "mesh.fsdp": -1}
    runs = [[str(tmp_path / "run"), CONFIG | mesh | {"steps": 3}, False], [str(tmp_path / "run"), CONFIG | mesh, True]]
    finish(*start_two(runs, devices=2))
    assert_same_run(tmp_path / "run", alone / "6")
    for i in range(2):
        assert json.loads((tmp_path / "run" / f"shapes_{i}.json").read_text()) == [[8, 16], [4, 2]]


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step_when_one_is_told_to(tmp_path):
    """SIGUSR1 reaches the other as SIGTERM would. Before, they do not start with different recipes."""
    endless = {"steps": 10**6, "log_every": 20, "mesh.data": 2}
    runs = [[str(tmp_path / name), endless, False] for name in ("differ", "run")]
    workers = start_two(runs, devices=1)
    deadline = time.monotonic() + 300
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert metrics.exists()
    workers[1].send_signal(signal.SIGUSR1)
    told = [worker.communicate(timeout=300)[1] for worker in workers]
    (step,) = (p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert all(f"stopped after step {step}, " in errors for errors in told)
    assert [worker.returncode for worker in workers] == [75, 75]
    assert all("config.seed: 0 on process 0; 1 on process 1" in errors for errors in told)
    assert not (tmp_path / "differ").exists()
