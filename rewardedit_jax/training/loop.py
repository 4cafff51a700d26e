"""The training loop. It knows a task only through the protocol in `task.py`."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import jax
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rewardedit_jax.data.prefetch import prefetched
from rewardedit_jax.params import Params, find_rule, merge_params, split_params
from rewardedit_jax.sharding import (
    check_batch_size,
    global_batch,
    infer_shardings,
    make_mesh,
    place,
)
from rewardedit_jax.training.checkpoints import Checkpoints, with_shardings
from rewardedit_jax.training.compiled_step import CompiledStep, bytes_per_device, check_memory, compile_step
from rewardedit_jax.training.evaluations import evaluate, find_evaluators, is_recorded
from rewardedit_jax.training.finite import FiniteCheck
from rewardedit_jax.training.inventory import take_inventory
from rewardedit_jax.training.metrics import MetricWriter
from rewardedit_jax.training.optimizer import make_optimizer, warn_of_warmup
from rewardedit_jax.training.processes import check_processes_agree
from rewardedit_jax.training.recipe import TrainingRecipe, check_recipe
from rewardedit_jax.training.signals import STOPPED, stop_requests
from rewardedit_jax.training.step import TrainState, create_state
from rewardedit_jax.training.task import Batch, Evaluator, Metrics, Task
from rewardedit_jax.training.watchdog import Watchdog
from rewardedit_jax.training.workdir import has_checkpoint, open_workdir, record_config

_DEVICE = "device, or another host that it waits for"  # what the watchdog names
_CHECKPOINT = "checkpoint: the disk of the working directory"
_FEWER = "divide the parameters over more devices with mesh.fsdp, or train fewer of them"
_LESS = "lower batch_size and raise accumulate, set compute.remat=all, or divide the work over more devices"


class NonFiniteLoss(FloatingPointError):
    """Loss, gradients or the training state are not finite; the message names the step and the remedy."""


class Interrupted(SystemExit):
    """The run was asked to stop, and its state is on disk; the message says how to resume it.

    The exit status is `STOPPED`, by which job scripts tell it from an error.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.code = STOPPED


def train(
    task: Task,
    config: ConfigDict,
    workdir: Path,
    *,
    resume: bool = False,
) -> TrainState:
    """Trains `task` for `config.steps` optimizer steps and exports the result to workdir/model.

    Args:
      config: with the settings of `TrainingRecipe`.
      resume: continue from the newest checkpoint that can be read; in an empty directory, start from the beginning.
    Raises:
      NonFiniteLoss: nothing is saved after the last good checkpoint.
      Interrupted: on Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2, after the running step is done and saved. Of several
        processes one has to get the signal, and all stop after the same step.
      DamagedCheckpoint: with `resume`, if no checkpoint can be read.
      UnsavedState: the last checkpoint could not be written; the model of a run that is done is exported all the same.
      FileExistsError, FileNotFoundError: if the working directory does not fit `resume`.
      ValueError: if a setting is wrong, if processes differ, or if batch, mesh, rules, parameters, checkpoint and the
        memory of the devices do not fit each other.
    """
    check_recipe(config, TrainingRecipe)
    check_processes_agree(config)
    warn_of_warmup(config.optimizer, config.steps)
    workdir = open_workdir(workdir, resume)
    resume = resume and has_checkpoint(workdir)
    mesh = make_mesh(**config.mesh)
    # What can be refused without reading data or weights is refused first.
    check_batch_size(config.batch_size, mesh)
    evaluators = find_evaluators(task, config.evaluate_every)
    optimizer = make_optimizer(config.optimizer, config.steps)
    create = partial(create_state, optimizer=optimizer, ema=config.optimizer.ema_decay is not None)
    # Shapes and shardings of the whole state are known before any array exists: nothing is ever laid out twice.
    trained, frozen = split_params(task.abstract_params(), task.trainable)
    abstract = jax.eval_shape(create, trained)
    shardings = infer_shardings(abstract, task.partition_rules, mesh)
    kept = bytes_per_device(abstract, shardings)
    kept += bytes_per_device(frozen, infer_shardings(frozen, task.partition_rules, mesh))
    check_memory(kept, mesh, "parameters and optimizer take", _FEWER)
    with Checkpoints(workdir, config.keep_checkpoints) as checkpoints:
        # The state comes from the run's own last checkpoint, else from where the task starts: the weights of a model
        # directory, or scratch. A checkpoint lacks only the frozen parameters.
        if resume:
            # First the state: a checkpoint that does not fit is refused before frozen parameters are read.
            state = checkpoints.restore(with_shardings(abstract, shardings))
            frozen = frozen_params(task, config, mesh)
        else:
            trained, frozen = initial_params(task, config, mesh)
            state = jax.jit(create, out_shardings=shardings, donate_argnums=0)(trained)
            del trained  # donated: the state has taken over its memory
        # Written once the state exists: a run that fails before leaves an empty directory.
        record_config(workdir, config)
        step = compile_step(task, config, optimizer, mesh, shardings, frozen)
        # The order of the examples follows from the step; no iterator is saved or restored.
        start = int(state.step)
        if start > config.steps:
            logging.warning("the checkpoint is of step %d, beyond steps=%d: its model is exported", start, config.steps)
        with (
            MetricWriter(workdir, start, config.steps) as writer,
            prefetched(task.batches(start), partial(global_batch, mesh=mesh), depth=2) as batches,
        ):
            state = _Run(config, checkpoints, writer, evaluators, frozen).go(step, state, batches)
        unsaved = checkpoints.unsaved(int(state.step))
    # Outside the block: the prefetching thread and the writers are closed before the model is written.
    try:
        _export(task, _complete(state, frozen), workdir / "model")
    finally:
        if unsaved:  # after the model, which takes less room than the state and may have found it
            raise unsaved
    return state


def initial_params(task: Task, config: ConfigDict, mesh: Mesh) -> tuple[Params, Params]:
    """(trained, frozen) parameters before the first step, laid out on the mesh."""
    params = task.init(jax.random.key(config.seed))
    return split_params(place(params, infer_shardings(params, task.partition_rules, mesh)), task.trainable)


def frozen_params(task: Task, config: ConfigDict, mesh: Mesh) -> Params:
    """The frozen parameters alone, laid out on the mesh; what trains is neither read nor drawn."""
    params = task.init(jax.random.key(config.seed), lambda path: not find_rule(task.trainable, path)[1])
    return place(params, infer_shardings(params, task.partition_rules, mesh))


class _Run:
    """The steps of one call of `train`, and what happens between them."""

    def __init__(
        self,
        config: ConfigDict,
        checkpoints: Checkpoints,
        writer: MetricWriter,
        evaluators: Mapping[str, Evaluator],
        frozen: Params,
    ):
        self.config, self.checkpoints, self.writer = config, checkpoints, writer
        self.evaluators, self.frozen = evaluators, frozen
        # (step, time) that speeds are measured from: the start of this call, then the last logged step.
        self._start: tuple[int, float]
        self._mark: tuple[int, float] | None = None
        self._watchdog = Watchdog(config.stall_seconds)
        self._finite: FiniteCheck

    def go(self, step: CompiledStep, state: TrainState, batches: Iterator[Batch]) -> TrainState:
        """Run all steps. Each is dispatched before the metrics of the previous one are read: the device never waits."""
        pending = None
        self._finite = FiniteCheck(self.config.nonfinite == "skip", state.params)
        with stop_requests(jax.process_count()) as stop_requested, self._watchdog:
            self._catch_up(state)
            self._start = int(state.step), time.perf_counter()
            for n in range(int(state.step) + 1, self.config.steps + 1):
                batch = self._next(batches, n)
                if n == self._start[0] + 1:
                    self._compile(step, state, batch)
                # Dispatched only: arrays of metrics are futures until they are read.
                with self._watchdog.watch(_DEVICE):
                    state, metrics = step(state, self.frozen, batch)
                if pending:
                    self._log(pending[0], self._read(*pending))
                pending = n, metrics
                # Asked on every step: on several hosts the answer is a collective, which all must take part in.
                stopping = stop_requested.is_set() or self.checkpoints.reached_preemption(n)
                if stopping or self._pauses(n):
                    self._pause(n, metrics, state, stopping)
                    pending = None
                if stopping:
                    self._stop(n)
        return state

    def _catch_up(self, state: TrainState) -> None:
        """The evaluation of the step that the run goes on from, if it was stopped before that was recorded."""
        n = int(state.step)
        if n and self._due(n, self.config.evaluate_every) and not is_recorded(self.evaluators, self.writer):
            evaluate(self.evaluators, self.writer, _complete(state, self.frozen), n)

    def _stop(self, n: int) -> None:
        with self._watchdog.watch(_CHECKPOINT):
            unsaved = self.checkpoints.unsaved(n)  # once the state is on disk
        if unsaved:
            raise unsaved
        message = f"stopped after step {n}, whose state is saved: continue with --resume"
        with suppress(OSError):  # the terminal is closed
            print(message, file=sys.stderr)  # Python prints the messages of exits with a status of 1 only
        raise Interrupted(message)

    def _compile(self, step: CompiledStep, state: TrainState, batch: Batch) -> None:
        """Compiles the step, tells how long that took and the memory that it needs, and refuses what does not fit."""
        self.writer.announce("compiling the training step")
        begin = time.monotonic()
        memory = step.memory(state, self.frozen, batch)
        needs = f"; a step needs {memory}" if memory else ""
        self.writer.announce(f"compiled in {time.monotonic() - begin:.0f} s{needs}")
        if memory:
            check_memory(memory.total, step.mesh, "a training step needs", _LESS)

    def _next(self, batches: Iterator[Batch], n: int) -> Batch:
        try:
            with self._watchdog.watch("input: the task's next batch"):
                return next(batches)
        except StopIteration:
            raise ValueError(f"the task's batches ended before step {n} of {self.config.steps}") from None

    def _due(self, n: int, every: int) -> bool:
        return n == self.config.steps or (every > 0 and n % every == 0)

    def _pauses(self, n: int) -> bool:
        return self._due(n, self.config.checkpoint_every) or self._due(n, self.config.evaluate_every)

    def _pause(self, n: int, metrics: Metrics, state: TrainState, stopping: bool) -> None:
        """Checkpoint and evaluation after step n. Their time does not count in `examples_per_second`."""
        # Raises before a broken state is saved. Logged before the checkpoint: a run that is killed behind it goes on
        # from there, and would lack this record.
        self._log(n, self._read(n, metrics))
        if stopping or self._due(n, self.config.checkpoint_every):
            # The metrics tell of parameters, not of moments and average.
            inventory, broken = take_inventory(state)
            if broken:
                raise NonFiniteLoss(self._advice(n, f"NaN or infinity in {', '.join(broken[:3])}"))
            with self._watchdog.watch(_CHECKPOINT):
                self.checkpoints.save(state, inventory)
        if not stopping and self._due(n, self.config.evaluate_every):
            evaluate(self.evaluators, self.writer, _complete(state, self.frozen), n)
        self._mark = n, time.perf_counter()

    def _read(self, n: int, metrics: Metrics) -> dict[str, float]:
        """The metrics of step n, checked; on logged steps also the speed since the last one.

        Blocks until the step is done. The first step compiles, so the next speed is measured from its end.
        """
        with self._watchdog.watch(_DEVICE):
            numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._watchdog.step_done()
        if fault := self._finite.fault(n, numbers):
            raise NonFiniteLoss(self._advice(n, fault))
        now, due = time.perf_counter(), self._due(n, self.config.log_every)
        if due:
            step, then = self._mark or self._start
            examples = (n - step) * self.config.batch_size * self.config.accumulate
            numbers["examples_per_second"] = examples / (now - then)
        # The first mark is set after step 1, so that later speeds leave compilation out.
        if due or not self._mark:
            self._mark = n, now
        return numbers

    def _advice(self, n: int, found: str) -> str:
        good = self.checkpoints.latest()
        kept = f"the last good checkpoint is of step {good}" if good else "there is no checkpoint yet"
        go_on = "continue from it with --resume" if good else "start again"
        return (
            f"step {n}: {found}. Nothing broken was saved: "
            f"{kept}; {go_on} with a lower learning_rate or clip_norm, or in float32 if half precision overflows"
        )

    def _log(self, n: int, numbers: Mapping[str, float]) -> None:
        if self._due(n, self.config.log_every) or self._due(n, self.config.evaluate_every):
            self.writer.write(n, numbers)


def _complete(state: TrainState, frozen: Params) -> Params:
    """The parameters of the exported model: the moving average if there is one, and the frozen parameters."""
    return merge_params(state.params if state.ema is None else state.ema, frozen)


def _export(task: Task, params: Params, directory: Path) -> None:
    if jax.process_count() > 1:  # a collective that every host takes part in; the first host writes
        params = jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), params)
    if jax.process_index() == 0:
        task.export(params, directory)
