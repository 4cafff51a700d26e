"""What a trainer trains: the protocol of a task."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key

from rewardedit_jax.params import Params

Batch = Any
Metrics = dict[str, Array]
# (complete parameters, step) → named numbers, or images uint8[h, w, 3]. Called on every host. It must not keep the
# parameters: the next step reuses their memory.
Evaluator = Callable[[Params, int], Mapping[str, Any]]


@runtime_checkable
class Task(Protocol):
    """A model, its objective and its data, as the trainer sees them.

    Frozen networks lie in the same parameter tree as those that train. One list of rules then says what trains and
    another how everything is sharded, a network can train in part, and objective, evaluators and export read one tree.
    The trainer splits the tree by `trainable` and differentiates the trained part. The frozen part is an argument of
    the compiled step: closed over, it would be written into the program as constants.

    A task holds no parameters.
    """

    trainable: tuple[tuple[str, bool], ...]  # path regex → does it train?
    partition_rules: tuple[tuple[str, PartitionSpec], ...]  # path regex → mesh axes

    def abstract_params(self) -> Params:
        """Shapes and dtypes (`jax.ShapeDtypeStruct`) of the complete tree; nothing is read or computed."""

    def init(self, rng: Key[Array, ""], wanted: Callable[[str], bool] | None = None) -> Params:
        """The parameters before the first step, on the host or a device.

        Pure: the same key gives the same tree.

        Args:
          wanted: which parameters to read or draw, by their path; the tree then holds these alone. A resumed run asks
            for the frozen ones. None: all.
        """

    def loss(self, params: Params, batch: Batch, rng: Key[Array, ""]) -> tuple[Float[Array, " b"], Mapping[str, Array]]:
        """Loss per example, and metrics: scalars, or one number per example. Pure: it is traced."""

    def batches(self, start: int) -> Iterator[Batch]:
        """This host's part of the batches of the optimizer steps start, start + 1, ..., without end.

        A batch is a pytree of arrays whose leading axis is batch_size · accumulate / hosts. The batch of step n depends
        on n alone, never on `start`: a resumed run equals one that never stopped.
        """

    def evaluators(self) -> Mapping[str, Evaluator]:
        """What measures the model while it trains, by the name that its metrics get. May be empty."""

    def export(self, params: Params, directory: Path) -> None:
        """Write the complete tree as the model directory that users load."""
