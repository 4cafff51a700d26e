"""The full-size step: its networks have the published sizes, and it runs (with tiny ones)."""

import math
import runpy
from dataclasses import replace

import jax
import pytest
from tiny_models import ROOT, tiny_editor

from rewardedit_jax.params import abstract_params


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "benchmarks" / "full_size_step.py"))


def test_full_size(script):
    base = script["full_size_base"](script["full_size_config"]())
    sizes = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(getattr(base, name))))
        for name in base.components
    }
    assert round(sizes["unet"] / 1e6, 1) == 864.6
    assert round(sizes["vae"] / 1e6, 2) == 83.65
    assert round(sizes["text_encoder"] / 1e6, 2) == 123.06
    assert base.unet.remat == "all"


@pytest.mark.slow
def test_it_runs(script, capsys):
    config = script["full_size_config"]()
    config.data.resolution = 32
    base = tiny_editor(layout="released").base
    got = script["measure"](replace(base, unet=base.unet.clone(remat="all")), config)
    assert got.trained > 0
    assert math.isfinite(got.loss)
    assert 0 < got.seconds < got.first_seconds
    assert 0.1 < got.peak_gib < 10
    assert "second step" in capsys.readouterr().out
