"""The working directory of a run: its configuration and its checkpoints."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from rewardedit_jax.training.step import TrainState


def check_workdir(workdir: Path, resume: bool) -> None:
    """Check that a run can start or resume in this directory; changes nothing.

    Called before models and data are read.

    Raises:
      FileExistsError: without `resume`, if the directory is not empty: no run is overwritten.
      FileNotFoundError: with `resume`, if there is no checkpoint.
    """
    workdir = Path(workdir).absolute()
    if jax.process_index():  # the first host may already write here when the others start
        return
    if resume and not has_checkpoint(workdir):
        raise FileNotFoundError(f"{workdir} holds no checkpoint to resume from: start without --resume")
    if not resume and workdir.exists() and any(workdir.iterdir()):
        raise FileExistsError(
            f"{workdir} is not empty: continue from its last checkpoint with --resume, or give another directory"
        )


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run in this directory can be resumed."""
    # orbax names a complete checkpoint by its step; an unfinished one has a suffix.
    return any(entry.name.isdigit() for entry in workdir.glob("checkpoints/*"))


def open_workdir(workdir: Path, resume: bool) -> Path:
    """The absolute path of the run's directory, created if it is missing. Raises as `check_workdir`."""
    check_workdir(workdir, resume)
    workdir = Path(workdir).absolute()
    if not jax.process_index():
        workdir.mkdir(parents=True, exist_ok=True)
    return workdir


def record_config(workdir: Path, config: ConfigDict) -> None:
    """Write config.json. Warns of every field, except `steps`, that differs from one that is already there."""
    if jax.process_index():
        return
    file = workdir / "config.json"
    text = json.dumps(config.to_dict(), indent=2, default=str)
    if file.exists():
        # A warning, not an error: resuming with another learning rate or batch size may be intended.
        before, now = (flatten_dict(json.loads(one), sep=".") for one in (file.read_text(), text))
        for field in sorted((before.keys() | now.keys()) - {"steps"}):
            if before.get(field) != now.get(field):
                logging.warning("config.%s was %s, is now %s", field, before.get(field), now.get(field))
    file.write_text(text + "\n")


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
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        self._manager.save(int(state.step), args=ocp.args.Composite(state=ocp.args.StandardSave(state)))
        if jax.default_backend() == "cpu":
            # On a CPU orbax writes from the state's own buffers, so the next step could not reuse them: at full size
            # a second state would not fit in memory. On accelerators `save` returns when the host has a copy.
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, laid out by the shardings of the `ShapeDtypeStruct`s. Raises as `check`."""
        self.check(abstract)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(self.latest(), args=args).state

    def reached_preemption(self, step: int) -> bool:
        """True on all hosts at the same step, soon after one of them received SIGTERM."""
        return self._manager.reached_preemption(step)

    def check(self, abstract: TrainState) -> None:
        """Compare the newest checkpoint with the state that the configuration asks for.

        Raises:
          ValueError: naming every leaf that is missing, superfluous, or of another shape.
        """
        step = self.latest()
        saved = _shapes(self._manager.item_metadata(step).state)
        wanted = _shapes(abstract)
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


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Leaf path → shape, with the paths that orbax uses: fields, keys and positions are all written alike."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """`ShapeDtypeStruct`s with the sharding of each array."""
    return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), abstract, shardings)
