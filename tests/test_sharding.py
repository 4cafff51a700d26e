"""Tests `sharding.py` on one device, with abstract meshes for larger ones; `test_distributed.py` has eight."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from toy_task import ToyTask, toy_config

from rewardedit_jax.sharding import (
    AXES,
    batch_axes_in_scope,
    check_batch_size,
    global_batch,
    infer_shardings,
    make_mesh,
    partition_rule,
)
from rewardedit_jax.training.step import create_state


def abstract_mesh(data, fsdp, tensor):
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def abstract_params():
    return jax.eval_shape(ToyTask(toy_config()).init, jax.random.key(0))


def test_minus_one_takes_the_rest():
    mesh = make_mesh(1, -1, 1)
    assert dict(mesh.shape) == {"data": 1, "fsdp": jax.device_count(), "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (0, -1, 1), (-2, 1, -1)])
def test_mesh_that_does_not_fit_is_explained(sizes):
    with pytest.raises(ValueError, match=r"does not fit 1 device.*only one, to -1") as error:
        make_mesh(*sizes)
    assert f"data={sizes[0]}, fsdp={sizes[1]}" in str(error.value)


def test_batch_that_does_not_divide_is_explained():
    check_batch_size(16, abstract_mesh(2, 4, 3))
    with pytest.raises(ValueError, match=r"batch_size=12 .* data=2 × fsdp=4: take a multiple of 8"):
        check_batch_size(12, abstract_mesh(2, 4, 3))


def test_a_network_divides_what_divides_evenly():
    assert batch_axes_in_scope(8) == ()  # no mesh is set
    with jax.sharding.use_abstract_mesh(abstract_mesh(2, 4, 2)):
        assert batch_axes_in_scope(16) == ("data", "fsdp")
        assert batch_axes_in_scope(1) == batch_axes_in_scope(12) == ()
    with jax.sharding.use_abstract_mesh(AbstractMesh((2,), ("x",))):
        assert batch_axes_in_scope(2) == ()


def test_moments_and_average_lie_where_their_parameter_lies():
    state = jax.eval_shape(lambda p: create_state(p, optax.adamw(1.0), True), abstract_params())
    shardings = infer_shardings(state, ToyTask.partition_rules, abstract_mesh(2, 4, 2))
    kernels = [
        s.spec
        for keys, s in jax.tree_util.tree_leaves_with_path(shardings)
        if "hidden" in jax.tree_util.keystr(keys) and "kernel" in jax.tree_util.keystr(keys)
    ]
    assert kernels == [P("fsdp", "tensor")] * 4
    assert shardings.step.spec == P()
    assert shardings.params["head"]["out"]["bias"].spec == P()


def test_first_rule_wins():
    rules = ((r"head/out/kernel", P()), (r".*/kernel", P("fsdp")), (r".*", P()))
    shardings = infer_shardings(abstract_params(), rules, abstract_mesh(1, 2, 1))
    assert shardings["head"]["out"]["kernel"].spec == P()
    assert shardings["head"]["hidden"]["kernel"].spec == P("fsdp")


def test_all_faults_of_the_rules_come_in_one_error():
    rules = ((r"features/.*", P("fsdp", "tensor")), (r"head/.*/kernel", P(None, ("fsdp", "tensor"))))
    with pytest.raises(ValueError, match="partition rules do not fit") as error:
        infer_shardings(abstract_params(), rules, abstract_mesh(1, 4, 2))
    told = str(error.value)
    assert "features/bias" in told
    assert "more axes than its shape (16,)" in told
    assert "head/out/kernel" in told
    assert "cannot divide 4 of its shape (16, 4) by 8 (fsdp × tensor)" in told
    assert "head/out/bias: no rule covers it" in told
    assert "head/hidden/kernel" not in told  # 16 is divisible by 8
    assert "features/kernel" not in told


def test_many_faults_are_shortened():
    parameters = {f"layer_{i}": np.zeros(3) for i in range(100)}
    with pytest.raises(ValueError, match=r"\.\.\. and 60 more$"):
        infer_shardings(parameters, ((".*", P("fsdp")),), abstract_mesh(1, 2, 1))


def test_global_batch_is_the_batch():
    batch = {"x": np.arange(6).reshape(3, 2)}
    placed = global_batch(batch, make_mesh(**toy_config().mesh))
    assert isinstance(placed["x"], jax.Array)
    np.testing.assert_array_equal(placed["x"], batch["x"])


@pytest.mark.parametrize(
    ("kernel", "a", "b"),
    [
        (P("fsdp", "tensor"), P("fsdp", None), P(None, "tensor")),
        (P(("fsdp", "tensor")), P(("fsdp", "tensor"), None), P(None, None)),
        (P(), P(None, None), P(None, None)),
    ],
)
def test_a_low_rank_difference_lies_as_its_kernel(kernel, a, b):
    rules = ((r"net/layer/kernel", kernel), (r".*/other/kernel", P()))
    assert partition_rule(rules, "net/layer/lora_a")[1] == a
    assert partition_rule(rules, "net/layer/lora_b")[1] == b
    assert partition_rule(rules, "net/nothing/lora_a") is None
