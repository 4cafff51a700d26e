"""Tests `training/compiled_step.py`: what the compiler counts, that it compiles once, and what is refused."""

from functools import partial
from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType
from toy_task import ToyTask, toy_config

from rewardedit_jax.sharding import AXES, global_batch, infer_shardings, make_mesh
from rewardedit_jax.training.compiled_step import bytes_per_device, check_memory, compile_step, memory_limit
from rewardedit_jax.training.loop import initial_params, train
from rewardedit_jax.training.optimizer import make_optimizer
from rewardedit_jax.training.step import create_state


def toy_step(config):
    """(task, step, its arguments) on all devices, as the loop makes them."""
    task, mesh, optimizer = ToyTask(config), make_mesh(**config.mesh), make_optimizer(config.optimizer, config.steps)
    trained, frozen = initial_params(task, config, mesh)
    create = partial(create_state, optimizer=optimizer, ema=True)
    shardings = infer_shardings(jax.eval_shape(create, trained), task.partition_rules, mesh)
    state = jax.jit(create, out_shardings=shardings)(trained)
    batch = global_batch(next(task.batches(0)), mesh)
    return task, compile_step(task, config, optimizer, mesh, shardings, frozen), (state, frozen, batch)


def test_the_estimate_counts_the_arguments_and_a_call_finds_the_program():
    compiled = []

    def count(event, seconds, fun_name="", **about):
        if event == "/jax/core/compile/backend_compile_duration" and "train_step" in fun_name:
            compiled.append(fun_name)

    _, step, arguments = toy_step(toy_config(batch_size=24))
    jax.monitoring.register_event_duration_secs_listener(count)
    memory = step.memory(*arguments)
    expected = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments))
    assert expected <= memory.kept <= expected + 64  # and the seed
    assert 24 * 16 * 4 < memory.temporary < 2**20  # activations
    step(*arguments)
    jax.monitoring.unregister_event_duration_listener(count)
    assert len(compiled) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(arguments[0]))  # taken over by the new state


def test_bytes_of_a_device_follow_from_the_shardings():
    mesh = AbstractMesh((1, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    params = ToyTask(toy_config()).abstract_params()
    kernels, biases = 4 * 16 + 16 * 16 + 16 * 4, 16 + 16 + 4
    shardings = infer_shardings(params, ToyTask.partition_rules, mesh)
    assert bytes_per_device(params, shardings) == 4 * (kernels // 8 + biases)


def mesh_of(*stats):
    return SimpleNamespace(local_devices=[SimpleNamespace(memory_stats=lambda found=found: found) for found in stats])


def test_the_smallest_device_sets_the_limit(unchecked_annotations):
    assert memory_limit(mesh_of({"bytes_limit": 5}, {"bytes_limit": 3})) == 3
    assert memory_limit(mesh_of(None, {})) is None
    check_memory(3 << 30, mesh_of({"bytes_limit": 3 << 30}), "it takes", "buy more")
    with pytest.raises(ValueError, match=r"it takes 3\.00 GiB on each device, which has 2\.00 GiB: buy more"):
        check_memory(3 << 30, mesh_of({"bytes_limit": 2 << 30}), "it takes", "buy more")


@pytest.mark.parametrize(("limits", "fault"), [([0], "optimizer take .*mesh.fsdp"), ([None, 0], "step needs .*remat")])
def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path, monkeypatch, limits, fault):
    found = iter(limits)
    monkeypatch.setattr("rewardedit_jax.training.compiled_step.memory_limit", lambda mesh: next(found))
    with pytest.raises(ValueError, match=fault):
        train(ToyTask(toy_config()), toy_config(), tmp_path / "run")
    records = tmp_path / "run" / "metrics.jsonl"
    assert not records.exists() or not records.read_text()
    assert not list((tmp_path / "run").glob("checkpoints/*"))
