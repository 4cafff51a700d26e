"""Training on several devices gives the same scorer as on one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_models import ROOT

from rewardedit_jax import Scorer

NUMBERS = ("loss", "grad_norm", "update_norm", "param_norm")


def train(workdir, devices, *arguments):
    """The debug recipe, at full rate from the first step, so that every later loss depends on the steps before it."""
    command = [
        sys.executable,
        str(ROOT / "launch" / "train.py"),
        "--config",
        f"{ROOT / 'configs/edit_reward.py'}:debug",
    ]
    settings = [f"--config.data.root={workdir.parent / 'data'}", "--config.optimizer.warmup_steps=0", *arguments]
    subprocess.run(
        [*command, f"--workdir={workdir}", *settings],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
        capture_output=True,
        check=True,
        timeout=600,
    )
    return workdir


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8))


@pytest.mark.slow
def test_four_devices_in_a_grid_train_what_one_trains(tmp_path):
    alone = train(tmp_path / "alone", 1)
    mesh = {"data": 1, "fsdp": 2, "tensor": 2}
    spread = train(tmp_path / "spread", 4, *(f"--config.mesh.{axis}={size}" for axis, size in mesh.items()))
    expected, found = (
        [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        for workdir in (alone, spread)
    )
    assert [record["step"] for record in found] == [1, 2, 3, 4]
    for name in NUMBERS:  # measured: 1.2e-7
        np.testing.assert_allclose([r[name] for r in found], [r[name] for r in expected], rtol=1e-5, err_msg=name)
    scores = [Scorer.load(workdir).score(picture(0), picture(1), "make it snow").raw for workdir in (alone, spread)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4, atol=1e-6)  # measured: 1e-8 of 0.03
