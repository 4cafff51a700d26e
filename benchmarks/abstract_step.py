"""The trainer's step of a recipe on a mesh, traced from shapes: neither data nor weights nor the devices are needed."""

from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from abstract_tasks import task_of
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from rewardedit_jax.params import Params, split_params
from rewardedit_jax.sharding import check_batch_size, infer_shardings
from rewardedit_jax.training.checkpoints import with_shardings
from rewardedit_jax.training.compiled_step import bytes_per_device, jitted_step
from rewardedit_jax.training.optimizer import make_optimizer
from rewardedit_jax.training.step import TrainState, create_state
from rewardedit_jax.training.task import Task


class IndivisibleParameters(ValueError):
    """A mesh that does not divide the parameters."""


class AbstractStep(NamedTuple):
    """The step of a recipe on a mesh, and what it takes, as shapes with shardings."""

    config: ConfigDict
    mesh: Mesh | AbstractMesh
    task: Task
    optimizer: optax.GradientTransformation
    state: TrainState
    frozen: Params

    @classmethod
    def of(cls, config: ConfigDict, mesh: Mesh | AbstractMesh) -> "AbstractStep":
        """Raises IndivisibleParameters."""
        task, optimizer = task_of(config), make_optimizer(config.optimizer, config.steps)
        trained, frozen = split_params(task.abstract_params(), task.trainable)
        create = partial(create_state, optimizer=optimizer, ema=config.optimizer.ema_decay is not None)
        state = jax.eval_shape(create, trained)
        try:
            shardings = [infer_shardings(tree, task.partition_rules, mesh) for tree in (state, frozen)]
        except ValueError as error:
            raise IndivisibleParameters(*error.args) from error
        return cls(config, mesh, task, optimizer, *map(with_shardings, (state, frozen), shardings))

    def least_memory(self) -> int:
        """Bytes on each device of state, frozen parameters and gradients, which every step holds at the same time."""
        # Of float32: clipping needs the norm of all gradients before the first parameter changes.
        gradients = jax.tree.map(lambda x: x.update(dtype=jnp.float32), self.state.params)
        held = self.state, self.frozen, gradients
        return bytes_per_device(held, _shardings(held))

    def trace(self) -> jax.stages.Traced:
        """The step as the trainer compiles it. Networks choose kernels by the backend that JAX has at this moment."""
        check_batch_size(self.config.batch_size, self.mesh)
        shardings = map(_shardings, (self.state, self.frozen))
        step = jitted_step(self.task, self.config, self.optimizer, self.mesh, *shardings)
        seed = jax.ShapeDtypeStruct((), np.uint32)
        with jax.set_mesh(self.mesh):
            return step.trace(self.state, self.frozen, self.task.abstract_batch(), seed)

    def lower(self, backend: str, platform: str) -> jax.stages.Lowered:
        """The step for a platform that is not here ("tpu", "cuda"), with the kernels of its backend ("tpu", "gpu")."""
        # The backend of this process is the CPU.
        with mock.patch.object(jax, "default_backend", return_value=backend):
            return self.trace().lower(lowering_platforms=(platform,))


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, tree)
