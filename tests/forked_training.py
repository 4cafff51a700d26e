"""Trainings of the toy task in processes of their own, which start quickly.

Importing JAX takes most of the time of a short training. One process imports it and is forked for every training,
before JAX starts its devices or threads.
"""

import multiprocessing
import os
import socket
from pathlib import Path

import jax
from paths import ROOT
from toy_task import ToyTask, toy_config

from rewardedit_jax.training.loop import train

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "forked_training"])


def start(workdir: Path, changes: dict, *, devices: int = 1, processes: int = 1) -> list[multiprocessing.Process]:
    """The processes of a training that starts or goes on in `workdir`, on so many devices each."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])  # of the process that is forked
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    places = [(devices, port, processes, process) for process in range(processes)]
    started = [_FORKS.Process(target=_train, args=(workdir, changes, *place), daemon=True) for place in places]
    for process in started:
        process.start()
    return started


def finish(processes: list[multiprocessing.Process]) -> None:
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0


def _largest(params: dict, step: int) -> dict[str, float]:
    return {"largest": max(float(abs(x).max()) for x in jax.tree.leaves(params))}


def _train(workdir: Path, changes: dict, devices: int, port: int, processes: int, process: int) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, process)
    config = toy_config(**changes)
    train(ToyTask(config, noise=0.1, evaluator=_largest), config, workdir, resume=workdir.exists())
    if processes > 1:
        # JAX does this at the exit of a program, which a fork does not have: the last process would miss the first one.
        jax.distributed.shutdown()
