"""The checkpoints of a run: training states on disk, and the newest one that can be read."""

import gc
import sys
from asyncio.log import logger as asyncio_logger
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from absl import logging
from jax.experimental import multihost_utils

from rewardedit_jax.data.output_files import set_aside
from rewardedit_jax.training.step import TrainState, nonfinite_leaves

# What orbax raises for files that are missing, cut off or overwritten.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
_MAX_MESSAGE = 200  # characters of such an error


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be read, or whose values are not finite."""


class Checkpoints:
    """Checkpoints of a run under workdir/checkpoints: the newest `keep` training states, written in the background."""

    def __init__(self, workdir: Path, keep: int):
        # Asynchronous: training goes on while the files are written.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._directory = workdir / "checkpoints"
        # Without a handler, orbax cannot read the metadata of a checkpoint before it is restored.
        handlers = {"state": ocp.StandardCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._directory, item_handlers=handlers, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()  # waits for what is still being written

    def latest(self) -> int | None:
        """The step of the newest checkpoint, once it is on disk."""
        # orbax lists a checkpoint as soon as it begins to write it.
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        self._manager.save(int(state.step), args=ocp.args.Composite(state=ocp.args.StandardSave(state)))
        if jax.default_backend() == "cpu":
            # On a CPU orbax writes from the state's own buffers, so the next step could not reuse them: at full size
            # a second state would not fit in memory. On accelerators `save` returns when the host has a copy.
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state that can be read, laid out by the shardings of the `ShapeDtypeStruct`s.

        Newer checkpoints are renamed to checkpoints/STEP.damaged1 with a warning: their steps can be saved again.
        Several hosts do so if all of them see the damage. If one host alone cannot read its part, the others wait for
        it, and the run ends with a timeout of orbax.

        Raises:
          DamagedCheckpoint: no checkpoint can be read; nothing is renamed.
          ValueError: a checkpoint is of another model or optimizer.
        """
        damaged: dict[int, str] = {}
        with _quiet_tasks():
            for step in sorted(self._manager.all_steps(), reverse=True):
                try:
                    state = self._read(step, abstract)
                except DamagedCheckpoint as error:
                    damaged[step] = str(error)
                else:
                    self._set_aside(damaged, step)
                    return state
        reasons = "\n  ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise DamagedCheckpoint(
            f"no checkpoint in {self._directory} can be read. Copy an intact one there, or remove this folder to start "
            f"again:\n  {reasons}"
        )

    def reached_preemption(self, step: int) -> bool:
        """True on all hosts at the same step, soon after one of them received SIGTERM."""
        return self._manager.reached_preemption(step)

    def _read(self, step: int, abstract: TrainState) -> TrainState:
        with _damage():
            _check_database(self._directory / str(step) / "state")
            saved = _shapes(self._manager.item_metadata(step).state)
        if not saved:
            raise DamagedCheckpoint("its metadata lists no arrays")
        self._check(step, saved, _shapes(abstract))
        with _damage():
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            state = self._manager.restore(step, args=args).state
        # A run that goes on from such a state could only stop at its next step.
        if broken := nonfinite_leaves(state):
            raise DamagedCheckpoint(f"{len(broken)} arrays hold NaN or infinity, the first is {broken[0]}")
        return state

    def _check(self, step: int, saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
        """Compare a checkpoint with the state that the configuration asks for.

        Raises:
          ValueError: naming every leaf that is missing, superfluous, or of another shape.
        """
        # All differences in one error, because one wrong setting usually changes many leaves.
        faults = [
            f"{path}: saved {saved.get(path, 'nothing')}, wanted {wanted.get(path, 'nothing')}"
            for path in sorted(saved.keys() | wanted.keys())
            if saved.get(path) != wanted.get(path)
        ]
        if faults:
            raise ValueError(
                f"checkpoint {step} in {self._directory} is of another model or optimizer than the configuration "
                "asks for; resume with the configuration it was made with (config.json):\n  " + "\n  ".join(faults)
            )

    def _set_aside(self, damaged: Mapping[int, str], good: int) -> None:
        """Rename damaged checkpoints, on the first host, after the state of step `good` was read on all of them."""
        if not damaged:
            return
        if not jax.process_index():
            for step, reason in damaged.items():
                kept = set_aside(self._directory / str(step), "damaged")
                logging.warning("checkpoint %d is damaged and is kept as %s: %s", step, kept, reason)
            logging.warning("the run goes on from checkpoint %d", good)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()


@contextmanager
def _damage() -> Iterator[None]:
    """Turns the errors of unreadable files into `DamagedCheckpoint`."""
    try:
        yield
    except _UNREADABLE as error:
        # Shortened: messages of tensorstore end with a list of its source files.
        message = shorten(str(error), _MAX_MESSAGE, placeholder=" ...")
        raise DamagedCheckpoint(f"{type(error).__name__}: {message}") from error


def _check_database(directory: Path) -> None:
    """Read the index of a checkpoint's arrays. Raises ValueError if it is damaged.

    Before orbax does: it reads all arrays at the same time, and each of them would fail with a traceback of its own.
    """
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{directory}/"}}
    if not ts.KvStore.open(spec).result().list().result():
        raise ValueError("its database of arrays is empty")


@contextmanager
def _quiet_tasks() -> Iterator[None]:
    """Suppresses the tracebacks of orbax's other tasks when one of them fails: there is one for each array.

    asyncio logs tasks whose exceptions nobody reads, and tensorstore answers tasks whose event loop is closed.
    """
    hook = sys.unraisablehook

    def show(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    asyncio_logger.disabled, sys.unraisablehook = True, show
    try:
        yield
    finally:
        gc.collect()  # tasks are logged when they are deleted
        asyncio_logger.disabled, sys.unraisablehook = False, hook


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Leaf path → shape, with the paths that orbax uses: fields, keys and positions are all written alike."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """`ShapeDtypeStruct`s with the sharding of each array."""
    return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), abstract, shardings)
