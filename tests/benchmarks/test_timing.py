"""What the benchmarks of networks share: counted FLOPs, rounds, floors and peers."""

import jax
import jax.numpy as jnp
import pytest
import timing

from rewardedit_jax.models.attention import attention


def zeros(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_are_counted():
    assert timing.matmul_flops(jnp.matmul, zeros(2, 3, 5), zeros(5, 7)) == 2 * 2 * 3 * 5 * 7


def test_convolutions_are_counted():
    def convolve(x, kernel):
        numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=numbers)

    assert timing.matmul_flops(convolve, zeros(2, 8, 8, 3), zeros(3, 3, 3, 5)) == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)


def test_steps_of_a_loop_and_inner_functions_are_counted():
    step = jax.checkpoint(jax.jit(lambda x: x @ x))
    loop = lambda x: jax.lax.scan(lambda x, _: (step(x), None), x, length=6)[0]  # noqa: E731
    assert timing.matmul_flops(loop, zeros(4, 4)) == 6 * 2 * 4**3


@pytest.mark.parametrize("length", [64, 1024])  # by the formula and in chunks, on a CPU
def test_attention_is_two_products_whatever_its_kernel(length):
    x = zeros(1, length, 2, 8)
    assert timing.matmul_flops(attention, x, x, x) == 2 * 2 * (2 * length * length * 8)
    assert jax.default_backend() == "cpu"


def test_variants_take_turns_after_a_first_call():
    called = []
    seconds = timing.take_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 2)
    assert called == ["a", "b"] * 3
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}


def test_rows_have_median_spread_and_ratio():
    ours, theirs = timing.timed_rows("case", {"ours": [1.0, 2.0, 3.0], "theirs": [2.0, 6.0, 9.0]}, floor=0.5)
    assert (ours.value, ours.spread, ours.ratio, ours.floor) == (2000, (1000, 3000), 1, 500)
    assert (theirs.case, theirs.value, theirs.ratio) == ("case: theirs", 6000, 3)


def test_ceilings_are_rates():
    found = timing.ceilings("float32")
    assert 1e8 < found.flops < 1e14
    assert 1e8 < found.bytes < 1e13
    assert timing.floor_seconds(found.flops, 0, "float32") == pytest.approx(1)
    assert timing.floor_seconds(0, 2 * found.bytes, "float32") == pytest.approx(2)


def test_a_peer_without_packages_is_a_reason(monkeypatch):
    monkeypatch.setattr(timing, "find_spec", lambda name: None if name == "diffusers" else name)
    assert timing.import_peer("diffusers") == (None, "not installed: diffusers")
