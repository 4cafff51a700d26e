"""The trainer's step of a recipe, compiled for TPUs that are not here, as numbers for each chip."""

import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from abstract_step import AbstractStep
from hlo_text import Program
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict
from program_costs import collectives, flops, hbm_bytes
from tpu_chips import CHIPS, Place

from rewardedit_jax.sharding import make_mesh
from rewardedit_jax.training.compiled_step import StepMemory

_OUT_OF_MEMORY = re.compile(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT]?)(?: of [\d.]+[KMGT]? hbm|\) exceeds)")
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (color [1-9]\d*, )?(.*):$", re.M)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class TooLarge(Exception):
    """A step that does not fit the memory of a chip; `needed` bytes of it."""

    def __init__(self, needed: float):
        super().__init__(needed)
        self.needed = needed


def tpu_devices(topology: str, slices: int = 1) -> list[Any]:
    """The devices of some slices of a topology such as "v5e:16x16", none of which needs to be here.

    Raises:
      ValueError: unknown chips. RuntimeError: libtpu is missing, or it does not know the topology.
    """
    chip, _, shape = topology.partition(":")
    if chip not in CHIPS or not shape:
        raise ValueError(f"topology={topology!r}: expected one of {', '.join(CHIPS)}, and a shape, such as v5e:4x4")
    settings: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
    if set(shape.split("x")) == {"1"}:  # by default a host has four chips
        settings["chips_per_host_bounds"] = (1, 1, 1)
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **settings).devices)


def lower_step(config: ConfigDict, mesh: Mesh) -> jax.stages.Lowered:
    """The step that the trainer compiles for a recipe, of shapes alone.

    Raises:
      TooLarge: a chip does not hold what every step needs.
    """
    step = AbstractStep.of(config, mesh)
    if (needed := step.least_memory()) > memory_limit(mesh):
        raise TooLarge(needed)
    return step.lower("tpu", "tpu")


def memory_limit(mesh: Mesh) -> float:
    """Bytes of HBM on each chip of a mesh."""
    kind = mesh.devices.flat[0].device_kind.lower()
    return CHIPS[{"tpu v5 lite": "v5e", "tpu v6 lite": "v6e", "tpu v5": "v5p"}[kind]].hbm


def places_of(mesh: Mesh) -> list[Place]:
    """Where each device of a mesh is."""
    devices = mesh.devices.flat
    return [Place(getattr(device, "slice_index", 0) or 0, tuple(device.coords)) for device in devices]


def optimised_program(config: ConfigDict, topology: str, slices: int) -> tuple[str, StepMemory]:
    """The step's program for one chip as text, and the memory of its arrays; the program's own code is not counted.

    The compiler optimises, gives every array its place, and then makes machine code. That last part takes most of the
    time and changes nothing that is counted here, so that the compiler is stopped before.

    Raises:
      TooLarge, IndivisibleParameters. RuntimeError: the compiler failed; its process has printed why.
    """
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder, failures = Path(name), processes.SimpleQueue()
        compiler = processes.Process(target=_compile, args=(config, topology, slices, folder, failures), daemon=True)
        compiler.start()
        try:
            _wait(compiler, failures, folder)
            return _written(folder, "").read_text(), planned_memory(_written(folder, "-buffer-assignment").read_text())
        finally:
            compiler.kill()
            compiler.join()


def _compile(config: ConfigDict, topology: str, slices: int, folder: Path, failures: Any) -> None:
    """In a process of its own: compiles the step, and has XLA write what it does to a folder."""
    os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    mesh = make_mesh(**config.mesh, devices=tpu_devices(topology, slices))
    try:
        lower_step(config, mesh).compile()
    except jax.errors.JaxRuntimeError as error:
        if not (found := _OUT_OF_MEMORY.search(str(error))):
            raise
        failures.put(TooLarge(float(found[1]) * _UNITS[found[2]]))
    except (TooLarge, ValueError) as error:
        failures.put(error)


def _wait(compiler: multiprocessing.Process, failures: Any, folder: Path) -> None:
    """Until the program is optimised and its arrays have their places. Raises what failed."""
    is_running = True
    # The last file of that part: the others are complete.
    while not _written(folder, "_after_buffer_assignment"):
        if not failures.empty():
            raise failures.get()
        if not is_running:
            raise RuntimeError("the compiler's process ended without a program")
        is_running = compiler.is_alive()  # looked at before the folder and the failures, which it writes first
        time.sleep(0.1)


def _written(folder: Path, what: str) -> Path | None:
    """What XLA has written of the step, beside small programs for the CPU."""
    return next(folder.glob(f"*.jit_train_step.*.after_optimizations{what}.txt"), None)


def planned_memory(buffers: str) -> StepMemory:
    """The arrays in HBM, by XLA's text of its buffer assignment."""
    kept = temporary = other = 0
    for size, memory_space, kind in _ALLOCATION.findall(buffers):
        if memory_space or "thread-local" in kind:  # of the chip itself; of functions within an instruction
            continue
        if "parameter" in kind:
            kept += int(size)
        elif "temp" in kind:
            temporary += int(size)
        else:
            other += int(size)
    return StepMemory(kept, temporary, other)


def measure(config: ConfigDict, topology: str, slices: int, hlo: Path | None = None) -> dict[str, Any]:
    """The step of a recipe as it is compiled, as numbers for each chip. Raises TooLarge.

    Args:
      hlo: file to write the compiled program to.
    """
    mesh = make_mesh(**config.mesh, devices=tpu_devices(topology, slices))
    begin = time.monotonic()
    text, memory = optimised_program(config, topology, slices)
    if memory.total > memory_limit(mesh):
        raise TooLarge(memory.total)
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
        "memory": {**memory._asdict(), "total": memory.total},
        "flops": flops(program),
        "hbm_bytes": hbm_bytes(program),
        "loops_counted_once": sorted(program.unknown_loops),
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
