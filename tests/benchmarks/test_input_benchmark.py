"""The benchmark of the input pipeline runs, on few pairs."""

import runpy

import pytest
from tiny_models import ROOT


@pytest.mark.slow
@pytest.mark.oracle
def test_it_runs():
    script = runpy.run_path(str(ROOT / "benchmarks" / "input.py"))
    rates = script["measure"](pairs=8, rounds=2, batches=(1, 1))
    assert {name: len(values) for name, values in rates.items()} == {"DataLoader": 2, "prepared": 2, "cache": 2}
    assert min(min(values) for values in rates.values()) > 0
