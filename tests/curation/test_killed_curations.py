"""launch/curate.py killed at random moments ends with the bytes of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from kills import KILLS
from paths import ROOT

from rewardedit_jax.shapes.examples import prepare_shapes


def start(data, out):
    words = ["--data", data, "--scorer", "shapes_scorer", "--rule", "lcb", "--keep", "0.4", "--quota", "edit_type"]
    command = [sys.executable, ROOT / "launch" / "curate.py", *words, "--out", out]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ)


def finish(process):
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error.decode()


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def written(folder):
    """Bytes in the folder. Files may be renamed meanwhile."""
    size = 0
    for file in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


@pytest.mark.slow
def test_random_kills_leave_the_same_bytes(tmp_path):
    data = prepare_shapes(tmp_path, train=600, test=1)
    finish(start(data, tmp_path / "whole"))
    total, killed = written(tmp_path / "whole"), tmp_path / "killed"
    rng, states = random.Random(0), set()
    # Random amounts of work, not times: most of the time of a run is its start.
    for share in sorted(rng.uniform(0, 0.98) for _ in range(KILLS)):
        process = start(data, killed)
        while written(killed) < share * total and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        states.add(frozenset((name, len(found)) for name, found in contents(killed).items()))
    finish(start(data, killed))
    # On a loaded machine several kills meet the same state.
    assert len(states) > KILLS // 4
    assert contents(killed) == contents(tmp_path / "whole")
