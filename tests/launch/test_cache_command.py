"""launch/cache.py as a user runs it: what it leaves after kills and on a full disk."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kills import KILLS
from tiny_models import ROOT, tiny_editor

from rewardedit_jax.shapes.examples import prepare_shapes, to_png

RECIPE = ROOT / "configs" / "reward_ip2p.py"
EDITS = 64  # of the :debug recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a start editor of random weights, and the data of the recipe."""
    folder = tmp_path_factory.mktemp("cache_command")
    tiny_editor(layout="released").save(folder / "start")
    prepare_shapes(folder / "runs" / "debug-data", EDITS, 16)
    return folder


def start(place, out, *arguments, limit=None):
    """The command, begun. `limit`: the largest file that it may write, KiB."""
    # By a shell: Python would fork this process, which JAX warns of.
    limited = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash"] if limit else []
    command = [sys.executable, str(ROOT / "launch" / "cache.py"), f"--config={RECIPE}:debug", f"--out={out}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [*limited, *command, "--config.init=start", *arguments], cwd=place, env=environment, **pipes
    )


def run(*arguments, **settings):
    """(exit status, stdout, stderr)"""
    process = start(*arguments, **settings)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_a_full_disk_loses_nothing(place):
    assert run(place, "whole")[0] == 0
    size = max(file.stat().st_size for file in (place / "whole").iterdir())
    status, _, err = run(place, "full", limit=size // 2048)
    assert status == 1
    assert "File too large" in err
    assert "Traceback" not in err
    assert not list((place / "full").glob("*.report-*"))
    status, _, err = run(place, "full", "--dtype=float32")
    assert status == 1
    assert "begun with other settings (dtype: 'bfloat16' there, 'float32' now)" in err
    assert run(place, "full")[0] == 0
    assert content(place / "full") == content(place / "whole")


@pytest.mark.slow
def test_bad_records_fail_the_command_unless_they_are_skipped(place):
    lines = []
    for i in range(6):
        (place / f"{i}.png").write_bytes(b"" if i == 2 else picture_file(i))
        reward = '"scores": [1, 2, 3], "feedback": ["a", "b", "c"]'
        lines.append(f'{{"input": "{i}.png", "output": "{i}.png", "instruction": "turn it red", {reward}}}')
    (place / "list.jsonl").write_text("\n".join(lines))
    data = ("--config.data.name=triplets", "--config.data.root=list.jsonl")
    status, _, err = run(place, "bad", *data)
    assert status == 1
    assert "1 of 6 records have no example in the cache" in err
    assert "2.png" in err
    assert run(place, "bad", *data, "--config.data.skip_bad=True")[0] == 0
    assert run(place, "bad", *data, "--shard=3/2")[0] == 1


def picture_file(seed: int) -> bytes:
    return to_png(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.mark.slow
def test_random_kills_leave_the_same_bytes(place):
    """Of three shards, each of which takes seconds. A run that ends before it is killed is given work again."""
    many = ("--config.data.root=many", "--config.data.train=2500", "--config.batch_size=20")
    assert run(place, "calm", *many)[0] == 0
    draw, kills, folder = random.Random(0), 0, place / "killed"
    while kills < KILLS:
        process = start(place, "killed", *many)
        time.sleep(draw.uniform(1, 12))
        if process.poll() is None:
            process.kill()
            kills += 1
        elif folder.is_dir():
            for report in draw.sample(sorted(folder.glob("*.report-*")), 2):
                report.unlink()
        process.communicate()
    assert run(place, "killed", *many)[0] == 0
    assert content(folder) == content(place / "calm")
