"""The checkpoints of a run: training states on disk, and the newest one that can be read."""

import gc
import shutil
import sys
from asyncio.log import logger as asyncio_logger
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from absl import logging
from jax.experimental import multihost_utils

from rewardedit_jax.data.output_files import set_aside
from rewardedit_jax.listing import list_lines
from rewardedit_jax.training.inventory import Entry, Inventory, path_name, read_record, take_inventory, write_record
from rewardedit_jax.training.step import TrainState
from rewardedit_jax.training.workdir import UNFINISHED

# Orbax raises errors of many types for files that are missing, cut off or overwritten, `Exception` itself among them.
# These have other reasons, such as a device without memory for the state.
_NOT_DAMAGE = (RuntimeError, MemoryError)
# What it raises if files cannot be written: tensorstore has errors of its own for a full disk.
_UNWRITABLE = (OSError, ValueError, RuntimeError)
_OF_TASKS = ("Event loop is closed", "Encountered error while reading array index")
_MAX_MESSAGE = 200  # characters of such an error


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be read, or whose values are not finite or not those that were saved."""


class UnsavedState(OSError):
    """The last state of a run is not on disk; the message says why, and how to go on."""


class Checkpoints:
    """Checkpoints of a run under workdir/checkpoints: the newest `keep` training states, written in the background.

    A checkpoint is complete or absent: orbax renames its folder when all files are written. With the state it holds the
    inventory of its arrays, as neither tensorstore nor the file system notices a bit that flips in a large array.
    """

    def __init__(self, workdir: Path, keep: int):
        self._directory, self._keep = workdir / "checkpoints", keep
        self._remove_unfinished()
        self._manager = self._open()
        self._writing: int | None = None  # the step of the last checkpoint that was begun
        self._error = "it was not saved"  # of the last checkpoint that could not be written

    def __enter__(self) -> "Checkpoints":
        self._quiet = _quiet_tasks()
        self._quiet.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._finish()
        self._manager.close()
        self._remove_unfinished()
        self._quiet.__exit__(None, None, None)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, once it is on disk."""
        # orbax lists a checkpoint as soon as it begins to write it.
        self._finish()
        return self._manager.latest_step()

    def save(self, state: TrainState, inventory: Inventory) -> None:
        """Write a checkpoint in the background; the one before has to be on disk first.

        If it cannot be written, as on a full disk, that is a warning: older checkpoints stay, and the run goes on.

        Args:
          inventory: of this state.
        """
        self._finish()
        self._remove_unfinished()
        self._writing = int(state.step)
        args = {"state": ocp.args.StandardSave(state), "inventory": ocp.args.JsonSave(write_record(inventory))}
        with self._tolerance():
            self._manager.save(self._writing, args=ocp.args.Composite(**args))
        if jax.default_backend() == "cpu":
            # On a CPU orbax writes from the state's own buffers, so the next step could not reuse them: at full size
            # a second state would not fit in memory. On accelerators `save` returns when the host has a copy.
            self._finish()

    def unsaved(self, step: int) -> UnsavedState | None:
        """An error to raise if the state of a step is not on disk, once all is written."""
        newest = self.latest()
        if newest == step:
            return None
        go_on = f"continue from step {newest} with --resume" if newest else "start again, as there is no checkpoint yet"
        return UnsavedState(
            f"the state of step {step} could not be saved in {self._directory}: {self._error}. Make room there, or "
            f"move the run to another disk, and {go_on}"
        )

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
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self._read(step, abstract)
            except DamagedCheckpoint as error:
                damaged[step] = str(error)
            else:
                self._set_aside(damaged, step)
                return state
        heading = f"no checkpoint in {self._directory} can be read. Copy an intact one there, or remove this folder to "
        reasons = [f"step {step}: {reason}" for step, reason in damaged.items()]
        raise DamagedCheckpoint(list_lines(f"{heading}start again:", reasons))

    def reached_preemption(self, step: int) -> bool:
        """True on all hosts at the same step, soon after one of them received SIGTERM."""
        return self._manager.reached_preemption(step)

    def _open(self) -> ocp.CheckpointManager:
        # Asynchronous: training goes on while the files are written.
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, enable_async_checkpointing=True)
        # Without a handler, orbax cannot read the metadata of a checkpoint before it is restored.
        handlers = {"state": ocp.StandardCheckpointHandler(), "inventory": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self._directory, item_handlers=handlers, options=options)

    def _remove_unfinished(self) -> None:
        """Remove what a killed run or a full disk has left behind: it takes the room of the next checkpoint.

        Not as soon as a checkpoint has failed, when threads of tensorstore may still be writing its files. What they
        write after the end of a run is removed at the start of the next.
        """
        if not jax.process_index():
            for part in self._directory.glob(f"*{UNFINISHED}*"):
                shutil.rmtree(part, ignore_errors=True)

    def _finish(self) -> None:
        """Wait until the checkpoint that was begun last is on disk, or has failed."""
        with self._tolerance():
            self._manager.wait_until_finished()

    @contextmanager
    def _tolerance(self) -> Iterator[None]:
        """Turns the error of a checkpoint that cannot be written into a warning."""
        try:
            yield
        except _UNWRITABLE as error:
            self._error = _short(error)
            # The next save would meet what else has failed in the background: a new manager knows nothing of it.
            with suppress(*_UNWRITABLE):
                self._manager.close()
            self._manager = self._open()
            message = (
                "checkpoint %s could not be written in %s: %s. The run goes on; the next checkpoint is another try."
            )
            logging.warning(message, self._writing, self._directory, self._error)

    def _read(self, step: int, abstract: TrainState) -> TrainState:
        with _damage():
            _check_database(self._directory / str(step) / "state")
            saved = self._inventory(step)
        if not saved:
            raise DamagedCheckpoint("it lists no arrays")
        self._check(step, saved, abstract)
        with _damage():
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            state = self._manager.restore(step, args=args).state
        read, broken = take_inventory(state)
        if changed := [path for path in saved if saved[path].digest not in (None, read[path].digest)]:
            raise DamagedCheckpoint(f"{len(changed)} arrays are not what was saved, the first is {changed[0]}")
        # A run that goes on from such a state could only stop at its next step.
        if broken:
            raise DamagedCheckpoint(f"{len(broken)} arrays hold NaN or infinity, the first is {broken[0]}")
        return state

    def _inventory(self, step: int) -> Inventory:
        """The inventory that was saved with a state; without digests if an older version has written it."""
        if (self._directory / str(step) / "inventory").exists():
            args = ocp.args.Composite(inventory=ocp.args.JsonRestore())
            return read_record(self._manager.restore(step, args=args).inventory)
        logging.warning("checkpoint %d has no digests, so flipped bits would not be noticed", step)
        return _described(self._manager.item_metadata(step).state)

    def _check(self, step: int, saved: Inventory, abstract: TrainState) -> None:
        """Compare a checkpoint with the state that the configuration asks for.

        Raises:
          ValueError: naming every leaf that is missing, superfluous, or of another shape or type.
        """
        wanted = _described(abstract)
        # All differences in one error, because one wrong setting usually changes many leaves.
        faults = [
            f"{path}: saved {_layout(saved.get(path))}, wanted {_layout(wanted.get(path))}"
            for path in sorted(saved.keys() | wanted.keys())
            if _layout(saved.get(path)) != _layout(wanted.get(path))
        ]
        if faults:
            heading = (
                f"checkpoint {step} in {self._directory} is of another model or optimizer than the configuration asks "
                "for; resume with the configuration it was made with (config.json):"
            )
            raise ValueError(list_lines(heading, faults))

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
    except _NOT_DAMAGE:
        raise
    except Exception as error:
        raise DamagedCheckpoint(_short(error)) from error


def _short(error: Exception) -> str:
    # Shortened: messages of tensorstore end with a list of its source files.
    return f"{type(error).__name__}: {shorten(str(error), _MAX_MESSAGE, placeholder=' ...')}"


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

    asyncio logs tasks whose exceptions nobody reads, and tensorstore answers tasks whose event loop is closed; tasks
    that are deleted while they read complain too.
    """
    hook = sys.unraisablehook

    def show(unraisable: Any) -> None:
        if not any(text in str(unraisable.exc_value) for text in _OF_TASKS):
            hook(unraisable)

    asyncio_logger.disabled, sys.unraisablehook = True, show
    try:
        yield
    finally:
        gc.collect()  # tasks are logged when they are deleted
        asyncio_logger.disabled, sys.unraisablehook = False, hook


def _described(tree: Any) -> Inventory:
    """The inventory of a tree whose leaves have a shape and a type, but no values."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): Entry(tuple(leaf.shape), str(leaf.dtype), None) for path, leaf in leaves}


def _layout(entry: Entry | None) -> str:
    return f"{entry.dtype} {entry.shape}" if entry else "nothing"


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """`ShapeDtypeStruct`s with the sharding of each array."""
    return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), abstract, shardings)
