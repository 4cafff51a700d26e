"""The training step compiled for a mesh, and the memory that it needs on each device.

XLA plans all memory of a program when it compiles it. What does not fit is therefore refused before the first step, in
place of the allocator's report of all its blocks in the middle of it.
"""

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rewardedit_jax.params import Params
from rewardedit_jax.sharding import batch_sharding, replicated
from rewardedit_jax.training.optimizer import make_schedule
from rewardedit_jax.training.step import TrainState, train_step
from rewardedit_jax.training.task import Batch, Metrics, Task


class StepMemory(NamedTuple):
    """Bytes that a compiled step needs on each device."""

    kept: int  # state, frozen parameters and batch; the new state takes the place of the old one
    temporary: int  # activations, gradients, and parameters gathered from other devices
    other: int  # the program, and results in memory of their own, such as metrics

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> "StepMemory | None":
        """By the compiler's count; None where the backend does not tell what its programs need."""
        found = compiled.memory_analysis()
        if found is None:
            return None
        added = found.output_size_in_bytes - found.alias_size_in_bytes
        return cls(found.argument_size_in_bytes, found.temp_size_in_bytes, added + found.generated_code_size_in_bytes)

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        return f"{gib(self.total)} per device, {gib(self.temporary)} of them temporary"


@dataclass(frozen=True)
class CompiledStep:
    """`train_step` with the constants of a run, compiled for each shape of batch. The state is donated."""

    jitted: Any  # of (state, frozen, batch, seed)
    mesh: Mesh
    seed: np.uint32  # of NumPy: a host may hand it to devices of other hosts

    def __call__(self, state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        with jax.set_mesh(self.mesh):  # for networks that constrain the sharding of their activations
            return self.jitted(state, frozen, batch, self.seed)

    def memory(self, state: TrainState, frozen: Params, batch: Batch) -> StepMemory | None:
        """Compiles the step for arguments like these. A call that follows finds the compiled program."""
        with jax.set_mesh(self.mesh):
            return StepMemory.of(self.jitted.lower(state, frozen, batch, self.seed).compile())


def compile_step(
    task: Task,
    config: ConfigDict,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state_shardings: TrainState,
    frozen: Params,
) -> CompiledStep:
    """The step of a run. Nothing is compiled yet: the first batch decides for which shape."""
    frozen_shardings = jax.tree.map(lambda x: x.sharding, frozen)
    jitted = jitted_step(task, config, optimizer, mesh, state_shardings, frozen_shardings)
    return CompiledStep(jitted, mesh, np.uint32(config.seed))


def jitted_step(
    task: Task,
    config: ConfigDict,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state_shardings: TrainState,
    frozen_shardings: Params,
) -> jax.stages.Wrapped:
    """`train_step` with the constants of a run, to be called with state, frozen parameters, batch and seed.

    The state is donated: its memory is reused.
    """
    step = partial(
        train_step,
        loss_fn=task.loss,
        optimizer=optimizer,
        schedule=make_schedule(config.optimizer, config.steps),
        accumulate=config.accumulate,
        ema_decay=config.optimizer.ema_decay,
        skip_nonfinite=config.nonfinite == "skip",
    )
    # Parameters, moments and average keep their layout from step to step; metrics are scalars on every device.
    return jax.jit(
        step,
        in_shardings=(state_shardings, frozen_shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
    )


def bytes_per_device(abstract: Any, shardings: Any) -> int:
    """The memory that a tree of arrays takes on each device, by shapes and shardings alone."""
    sizes = jax.tree.map(lambda x, s: x.dtype.itemsize * prod(s.shard_shape(x.shape)), abstract, shardings)
    return sum(jax.tree.leaves(sizes))


def memory_limit(mesh: Mesh) -> int | None:
    """The bytes that this process may use on its smallest device; None where it is not known, as of CPUs."""
    stats = (device.memory_stats() or {} for device in mesh.local_devices)
    return min((found["bytes_limit"] for found in stats if "bytes_limit" in found), default=None)


def check_memory(needed: int, mesh: Mesh, what: str, remedy: str) -> None:
    """Raises ValueError if `what` needs more bytes on each device than there are. Nothing is refused that would fit."""
    limit = memory_limit(mesh)
    if limit is not None and needed > limit:
        raise ValueError(f"{what} {gib(needed)} on each device, which has {gib(limit)}: {remedy}")


def gib(size: int) -> str:
    """A number of bytes as text: "1.25 GiB"."""
    return f"{size / 2**30:.2f} GiB"
