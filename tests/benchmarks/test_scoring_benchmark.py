"""The scoring benchmark: its variants agree, at toy size."""

import runpy

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("candidates", [1, 2])
def test_the_variants_agree(candidates):
    script = runpy.run_path(str(ROOT / "benchmarks" / "scoring.py"))
    module, params = script["random_scorer"]("tiny", jnp.float32)
    inputs = script["make_inputs"](2, candidates)
    assert len(np.unique(inputs.pictures)) == (4 if candidates == 1 else 3)
    variants = {name: script[name](module, params, inputs) for name in ("packed_pass", "array_pass", "two_passes")}
    seconds, difference = script["measure"](variants, 1)
    assert difference < 1e-5
    assert all(len(taken) == 1 and taken[0] > 0 for taken in seconds.values())
