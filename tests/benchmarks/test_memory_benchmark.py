"""The benchmark of memory measures a step, in this process."""

import memory
import pytest


@pytest.mark.slow
def test_a_step_needs_memory():
    assert 0 <= memory.measure("rewardedit_jax", "tiny") < 10
    assert 0 < memory._floor("tiny") < 0.1


def test_the_floor_is_five_numbers_per_parameter():
    assert memory._floor("full") * 2**30 == pytest.approx(5 * 4 * 864.6e6, rel=1e-3)
