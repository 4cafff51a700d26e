"""The training step of recipes, compiled for TPUs that are not here."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from abstract_step import AbstractStep
from abstract_tasks import task_of
from jax.sharding import AbstractMesh, AxisType
from paths import ROOT
from tiny_models import get_config
from tpu_step import other_meshes, planned_memory

from rewardedit_jax.sharding import AXES, _arranged
from rewardedit_jax.training.compiled_step import StepMemory

SCRIPT = ROOT / "benchmarks" / "tpu_pod.py"


@pytest.mark.parametrize(
    ("recipe", "cache", "metrics"),
    [
        ("reward_ip2p", "", []),
        ("reward_smartedit", "a folder", []),
        ("smartedit", "", ["edit", "reply"]),
        ("edit_reward", "", ["accuracy"]),
    ],
)
def test_the_loss_takes_the_abstract_batch(recipe, cache, metrics):
    config = get_config(recipe, "debug")
    config.batch_size, config.accumulate = 4, 3
    if cache:
        config.data.cache = cache
    task = task_of(config)
    loss, found = jax.eval_shape(task.loss, task.abstract_params(), task.abstract_batch(), jax.random.key(0))
    assert loss.shape == (12,)
    assert sorted(found)[: len(metrics)] == metrics


def test_published_sizes_take_the_place_of_a_model_that_is_not_here():
    task = task_of(get_config("reward_ip2p"))
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in task.abstract_params().items()}
    assert {name: round(size / 1e6, 1) for name, size in sizes.items()} == {
        "unet": 864.6,
        "vae": 83.7,
        "text_encoder": 123.1,
    }
    assert task.abstract_batch().source.shape == (128, 256, 256, 3)
    assert task.abstract_batch().inputs.reward_ids.shape == (128, 77)


@pytest.mark.parametrize("variant", ["", "lora"])
def test_a_published_instruct_pix2pix_reads_the_source_already(variant):
    start = task_of(get_config("reward_ip2p", variant)).start
    assert start.parts["unet"].origin.config.in_channels == 8
    start = task_of(get_config("ip2p")).start
    assert start.parts["unet"].origin.config.in_channels == 4


def test_a_published_smartedit_reads_what_a_small_one_reads():
    small, published = (task_of(get_config("reward_smartedit", variant)) for variant in ("debug", ""))
    ours, theirs = (
        jax.tree.map(lambda x: (x.ndim, x.dtype), task.abstract_batch().inputs) for task in (small, published)
    )
    assert ours == theirs


def test_a_task_without_shapes():
    with pytest.raises(ValueError, match="task='shapes_autoencoder': expected one of editing"):
        task_of(get_config("autoencoder", "debug"))


def test_least_memory():
    """State, frozen parameters and gradients of one chip; counters are a few bytes."""
    config = get_config("reward_ip2p", "debug")
    whole, divided = (
        AbstractStep.of(config, AbstractMesh((4 // fsdp, fsdp, 1), AXES, axis_types=(AxisType.Auto,) * 3))
        for fsdp in (1, 4)
    )
    trained, frozen = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (whole.state.params, whole.frozen))
    # Parameters, two moments, average and gradients, all of float32.
    assert 0 < whole.least_memory() - 4 * (5 * trained + frozen) < 32
    assert divided.least_memory() < 0.3 * whole.least_memory()


BUFFERS = """BufferAssignment:
allocation 0: size 4096, parameter 0, shape |f32[1024]| at ShapeIndex {}, maybe-live-out:
 value: <3 x @0> (size=4096,offset=0): f32[1024]
allocation 1: size 512, parameter 1, shape |f32[8]| at ShapeIndex {}:
allocation 2: size 64, maybe-live-out:
allocation 3: size 32, constant:
allocation 4: size 16, thread-local:
allocation 5: size 2048, preallocated-temp:
allocation 6: size 8, color 2, preallocated-temp:
allocation 7: size 1024, color 1, preallocated-temp:
"""


def test_memory_that_the_compiler_plans():
    """Parameters, among them those that take the results; the chip's own memory does not count."""
    assert planned_memory(BUFFERS) == StepMemory(kept=4608, temporary=2048, other=96)


@pytest.mark.parametrize(
    ("recipe", "chips", "parts"),
    [("reward_ip2p", 64, [1, 4, 16, 64]), ("edit_reward", 1024, [-1, 256, 64, 16, 4, 1]), ("reward_ip2p", 2, [1])],
)
def test_other_meshes(recipe, chips, parts):
    assert [mesh["fsdp"] for mesh in other_meshes(get_config(recipe), chips)] == parts


def slices_of_tpus():
    """Two slices of 2 × 4 chips, as JAX describes them."""
    kind = {"platform": "tpu", "device_kind": "TPU v5 lite", "core_on_chip": 0}
    places = [(of, x, y) for of in range(2) for x in range(2) for y in range(4)]
    return [
        SimpleNamespace(id=i, process_index=i // 4, slice_index=of, coords=(x, y, 0), **kind)
        for i, (of, x, y) in enumerate(places)
    ]


@pytest.mark.parametrize(("sizes", "whole"), [((4, 2, 2), 4), ((2, 8, 1), 8), ((16, 1, 1), 1)])
def test_slices_of_a_tpu_hold_whole_groups_of_parameters(sizes, whole):
    groups = _arranged(list(sizes), slices_of_tpus()).reshape(-1, whole)
    assert all(len({device.slice_index for device in group}) == 1 for group in groups)


def test_parameters_over_several_slices():
    across = _arranged([1, 16, 1], slices_of_tpus())
    assert [device.slice_index for device in across.ravel()] == [0] * 8 + [1] * 8
    with pytest.raises(ValueError, match="data=1, fsdp=1 does not fit 2 slices"):
        _arranged([1, 1, 16], slices_of_tpus())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install jax[tpu]")
def test_it_compiles_for_four_chips(tmp_path):
    out = tmp_path / "four.json"
    command = [sys.executable, SCRIPT, "--config", ROOT / "configs" / "edit_reward.py:debug", "--topology", "v5e:2x2"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([*command, "--json", out], capture_output=True, text=True, check=True, env=environment)
    assert "in 1 slice(s), data=4 × fsdp=1 × tensor=1" in done.stdout
    assert "all-reduce" in done.stdout
    found = json.loads(out.read_text())
    assert found["chips"] == 4
    assert 0 < found["memory"]["kept"] < found["memory"]["total"]
    shown = subprocess.run(
        [sys.executable, SCRIPT, "--table", tmp_path], capture_output=True, text=True, check=True, env=environment
    )
    assert "| edit_reward.py:debug | v5e:2x2 | 4·1·1 |" in shown.stdout
