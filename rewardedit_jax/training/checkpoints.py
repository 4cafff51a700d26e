"""The working directory of a run: its configuration and its checkpoints."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from rewardedit_jax.training.state import TrainState


def check_workdir(workdir: Path, resume: bool) -> None:
    """Nothing is made or changed: for a look before models and data are read.

    Raises:
      FileExistsError: if it holds something and `resume` was not asked for: no run is overwritten.
      FileNotFoundError: if `resume` was asked for and there is no checkpoint.
    """
    workdir = Path(workdir).absolute()
    if jax.process_index():  # only the first looks: it may be writing here before the others have started
        return
    if resume and not any(entry.name.isdigit() for entry in workdir.glob("checkpoints/*")):
        raise FileNotFoundError(f"{workdir} holds no checkpoint to resume from: start without --resume")
    if not resume and workdir.exists() and any(workdir.iterdir()):
        raise FileExistsError(
            f"{workdir} is not empty: go on from its last checkpoint with --resume, or give another directory"
        )


def open_workdir(workdir: Path, resume: bool) -> Path:
    """The absolute path of the run's directory, made if it is missing; refused as `check_workdir` says."""
    check_workdir(workdir, resume)
    workdir = Path(workdir).absolute()
    if not jax.process_index():
        workdir.mkdir(parents=True, exist_ok=True)
    return workdir


def record_config(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json; where one lies there already, warns of every field that differs but `steps`."""
    if jax.process_index():
        return
    file = workdir / "config.json"
    text = json.dumps(config.to_dict(), indent=2, default=str)
    if file.exists():
        before, now = _leaves(json.loads(file.read_text())), _leaves(json.loads(text))
        for field in sorted((before.keys() | now.keys()) - {"steps"}):
            if before.get(field) != now.get(field):
                logging.warning("config.%s was %s, is now %s", field, before.get(field), now.get(field))
    file.write_text(text + "\n")


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        path: leaf
        for key, value in tree.items()
        for path, leaf in _leaves(value, f"{prefix}.{key}" if prefix else key).items()
    }


class Checkpoints:
    """Training states under workdir/checkpoints, the newest `keep` of them, written in the background."""

    def __init__(self, workdir: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._directory = workdir / "checkpoints"
        handlers = {"state": ocp.StandardCheckpointHandler()}  # without them, metadata cannot be read before `restore`
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
            # Here the writer reads the state's own memory, which the next step could then not take over: at full
            # size a second state would not fit. Accelerators have copied theirs to the host when `save` returns.
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, each leaf laid out as the sharding of its `ShapeDtypeStruct` says.

        Raises:
          ValueError: naming every leaf that is missing, too many, or of another shape than the network's.
        """
        step = self.latest()
        self._check(step, abstract)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(step, args=args).state

    def reached_preemption(self, step: int) -> bool:
        """True on all hosts at the same step, soon after one of them was told to stop."""
        return self._manager.reached_preemption(step)

    def _check(self, step: int, abstract: TrainState) -> None:
        saved = _shapes(self._manager.item_metadata(step).state)
        wanted = _shapes(abstract)
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
    """Leaf path → shape; fields, keys and positions written alike, as orbax names them."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """`ShapeDtypeStruct`s that also say where each array lies."""

    def add(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(add, abstract, shardings)
