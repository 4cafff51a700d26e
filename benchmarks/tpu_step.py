"""The trainer's step of a recipe, compiled for TPUs that are not here, as numbers for each chip."""

import math
import re
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import optax
from abstract_tasks import task_of
from hlo_text import Program
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict
from program_costs import collectives, flops, hbm_bytes
from tpu_chips import CHIPS, Place

from rewardedit_jax.params import Params, split_params
from rewardedit_jax.sharding import check_batch_size, infer_shardings, make_mesh
from rewardedit_jax.training.checkpoints import with_shardings
from rewardedit_jax.training.compiled_step import jitted_step
from rewardedit_jax.training.optimizer import make_optimizer
from rewardedit_jax.training.step import TrainState, create_state
from rewardedit_jax.training.task import Task

_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class TooLarge(Exception):
    """A step that does not fit the memory of a chip; `needed` bytes of it."""

    def __init__(self, needed: float):
        super().__init__(needed)
        self.needed = needed


class IndivisibleParameters(ValueError):
    """A mesh that does not divide the parameters."""


class Memory(NamedTuple):
    """Bytes on each chip."""

    arguments: int  # state, frozen parameters and batch
    temporary: int  # activations, gradients
    total: int  # with the program, and what is returned in memory of its own


def tpu_devices(topology: str, slices: int = 1) -> list[Any]:
    """The devices of some slices of a topology such as "v5e:16x16", none of which needs to be here.

    Raises:
      ValueError: unknown chips. RuntimeError: libtpu is missing, or it does not know the topology.
    """
    chip, _, shape = topology.partition(":")
    if chip not in CHIPS or not shape:
        raise ValueError(f"topology={topology!r}: expected one of {', '.join(CHIPS)}, and a shape, such as v5e:4x4")
    settings: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
    if set(shape.split("x")) == {"1"}:  # hosts have four chips unless they are told to have one
        settings["chips_per_host_bounds"] = (1, 1, 1)
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **settings).devices)


class Described(NamedTuple):
    """What the step of a recipe takes on a mesh, as shapes with shardings."""

    task: Task
    optimizer: optax.GradientTransformation
    state: TrainState
    frozen: Params

    @classmethod
    def of(cls, config: ConfigDict, mesh: Mesh) -> "Described":
        task, optimizer = task_of(config), make_optimizer(config.optimizer, config.steps)
        trained, frozen = split_params(task.abstract_params(), task.trainable)
        create = partial(create_state, optimizer=optimizer, ema=config.optimizer.ema_decay is not None)
        state = jax.eval_shape(create, trained)
        try:
            shardings = [infer_shardings(tree, task.partition_rules, mesh) for tree in (state, frozen)]
        except ValueError as error:
            raise IndivisibleParameters(*error.args) from error
        return cls(task, optimizer, *map(with_shardings, (state, frozen), shardings))

    def least_memory(self) -> int:
        """Bytes on each chip of state, frozen parameters and gradients, which every step holds at the same time."""
        # Of float32: clipping needs the norm of all gradients before the first parameter changes.
        gradients = sum(shard_size(x) * 4 for x in jax.tree.leaves(self.state.params))
        return gradients + sum(shard_size(x) * x.dtype.itemsize for x in jax.tree.leaves((self.state, self.frozen)))


def shard_size(x: jax.ShapeDtypeStruct) -> int:
    """Elements of an array on each chip."""
    return math.prod(x.sharding.shard_shape(x.shape))


def lower_step(config: ConfigDict, mesh: Mesh) -> jax.stages.Lowered:
    """The step that the trainer compiles for a recipe, of shapes alone.

    Raises:
      TooLarge: a chip does not hold what every step needs.
    """
    check_batch_size(config.batch_size, mesh)
    task, optimizer, state, frozen = described = Described.of(config, mesh)
    if (needed := described.least_memory()) > memory_limit(mesh):
        raise TooLarge(needed)
    shardings = (jax.tree.map(lambda x: x.sharding, tree) for tree in (state, frozen))
    step = jitted_step(task, config, optimizer, mesh, *shardings)
    seed = jax.ShapeDtypeStruct((), np.uint32)
    # Networks choose kernels by the backend, which is here the CPU.
    with jax.set_mesh(mesh), mock.patch.object(jax, "default_backend", return_value="tpu"):
        return step.trace(state, frozen, task.abstract_batch(), seed).lower(lowering_platforms=("tpu",))


def memory_limit(mesh: Mesh) -> float:
    """Bytes of HBM on each chip of a mesh."""
    kind = mesh.devices.flat[0].device_kind.lower()
    return CHIPS[{"tpu v5 lite": "v5e", "tpu v6 lite": "v6e", "tpu v5": "v5p"}[kind]].hbm


def places_of(mesh: Mesh) -> list[Place]:
    """Where each device of a mesh is."""
    devices = mesh.devices.flat
    return [Place(getattr(device, "slice_index", 0) or 0, tuple(device.coords)) for device in devices]


def compile_step(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Raises TooLarge if the compiler finds no room for the program."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not (found := _OUT_OF_MEMORY.search(str(error))):
            raise
        raise TooLarge(float(found[1]) * _UNITS[found[2]]) from error


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    stats = compiled.memory_analysis()
    returned = stats.output_size_in_bytes - stats.alias_size_in_bytes  # the state is returned in its own place
    arguments, temporary = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    return Memory(arguments, temporary, arguments + temporary + returned + stats.generated_code_size_in_bytes)


def measure(config: ConfigDict, topology: str, slices: int, hlo: Path | None = None) -> dict[str, Any]:
    """The compiled step of a recipe, as numbers for each chip. Raises TooLarge.

    Args:
      hlo: file to write the compiled program to.
    """
    mesh = make_mesh(**config.mesh, devices=tpu_devices(topology, slices))
    begin = time.monotonic()
    compiled = compile_step(lower_step(config, mesh))
    text, cost = compiled.as_text(), compiled.cost_analysis()
    if hlo:
        hlo.write_text(text)
    program = Program.parse(text)
    return {
        "topology": topology,
        "slices": slices,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "examples": config.batch_size * config.accumulate,
        "accumulate": config.accumulate,
        "memory": memory_of(compiled)._asdict(),
        "flops": flops(program),
        "hbm_bytes": hbm_bytes(program),
        "loops_counted_once": sorted(program.unknown_loops),
        "xla": {name: cost[name] for name in ("flops", "bytes accessed")},  # with the body of each loop once
        "collectives": [one.__dict__ for one in collectives(program)],
        "places": places_of(mesh),
        "compile_seconds": time.monotonic() - begin,
        "libtpu": version("libtpu"),
        "jax": jax.__version__,
    }


def other_meshes(config: ConfigDict, chips: int) -> Iterator[dict[str, int]]:
    """The mesh of the recipe, then others: parameters divided over more chips, or over fewer if it has all of them."""
    yield config.mesh.to_dict()
    tensor, fsdp = max(config.mesh.tensor, 1), config.mesh.fsdp
    everything = chips // tensor
    factors = [4**n for n in range(1, everything.bit_length())]
    tried = [everything // factor for factor in factors] if fsdp == -1 else [fsdp * factor for factor in factors]
    yield from ({"data": -1, "fsdp": size, "tensor": tensor} for size in tried if 1 <= size <= everything)
