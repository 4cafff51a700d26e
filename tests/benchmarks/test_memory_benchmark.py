"""The benchmark of memory measures a step, in this process."""

import memory
import pytest


@pytest.mark.slow
def test_a_step_needs_memory():
    assert 0 <= memory.measure("rewardedit_jax", "tiny") < 10
    assert 0 < memory._floor("tiny") < 0.1
