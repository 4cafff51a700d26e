"""The benchmark of SmartEdit's training step runs, with a tiny U-Net."""

import runpy

import pytest
from tiny_models import ROOT


@pytest.mark.slow
def test_it_runs():
    script = runpy.run_path(str(ROOT / "benchmarks" / "smartedit_step.py"))
    seconds = script["measure"](script["small_unet"]((32, 32)), batch=1, side=8, rounds=2)
    assert {name: len(found) for name, found in seconds.items()} == {"Reward-InsPix2Pix": 2, "Reward-SmartEdit": 2}
    assert min(min(found) for found in seconds.values()) > 0
