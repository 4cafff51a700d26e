"""Runs trainings and the evaluations of their models as parallel processes, one per core.

The files of a job alone say what it runs next: the same code starts it, evaluates its model, and resumes it.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.training.metrics import read_records
from rewardedit_jax.training.signals import stop_requests
from rewardedit_jax.training.workdir import has_checkpoint

_EVALUATION_SHARE = 0.2  # of its training's steps: progress of an evaluation, about its share of time
_POLL_SECONDS = 0.5
_SHOWN_LOG_LINES = 20


@dataclass(frozen=True)
class Job:
    """One training and the evaluation of its model."""

    name: str
    workdir: Path  # working directory of train.py
    model: Path  # the file that train.py writes last
    result: Path  # JSON file that evaluate.py writes
    log: Path  # output of both
    train: tuple[str, ...]  # train.py and its arguments; empty: a model is evaluated as it is
    evaluate: tuple[str, ...]  # evaluate.py and its arguments
    steps: int  # of the training
    count: int | None  # of the items that are evaluated, see `is_result`
    after: "Job | None" = None  # the job whose model this one starts from

    @property
    def trained(self) -> bool:
        return not self.train or self.model.is_file()

    @property
    def ready(self) -> bool:
        return self.after is None or self.after.trained

    @property
    def done(self) -> bool:
        return is_result(self.result, self.count)

    def next_command(self) -> list[str] | None:
        """Training, from the last checkpoint if there is one; then evaluation; None when both are done."""
        if self.done:
            return None
        if self.trained:
            return [sys.executable, *self.evaluate]
        return [sys.executable, *self.train, *(["--resume"] if has_checkpoint(self.workdir) else [])]

    def progress(self) -> float:
        """Work done, in training steps."""
        if self.done:
            return (1 + _EVALUATION_SHARE) * self.steps
        return float(self.steps if self.trained else _last_step(self.workdir / "metrics.jsonl"))


def is_result(file: Path, count: int | None) -> bool:
    """Whether an evaluation has written this file, with `count` items unless that is None.

    A file that is damaged, or whose field "count" is another one, is written again.
    """
    try:
        found = read_json(file, dict)
    except (OSError, ValueError):
        return False
    return count is None or found.get("count") == count


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen
    cores: tuple[int, ...]
    command: list[str]


def run_processes(jobs: Sequence[Job], slots: Iterable[tuple[int, ...]]) -> list[Job]:
    """Runs all jobs, one per slot at a time, and returns those that failed or whose start model is missing.

    A failed job does not stop the others, except those that start from its model.

    Args:
      slots: for each job to run at the same time, the cores that it is pinned to; empty: not pinned.
    """
    waiting, free = [job for job in jobs if job.next_command()], list(slots)
    running: list[_Running] = []
    failed: list[Job] = []
    total = math.ceil(sum((1 + _EVALUATION_SHARE) * job.steps for job in jobs))
    bar_format = "{percentage:3.0f}%|{bar:30}| {elapsed}<{remaining}{postfix}"
    interval = 0.5 if sys.stderr.isatty() else 30  # seconds; every update is a line of its own in a log file
    with tqdm(total=total, bar_format=bar_format, mininterval=interval) as bar, stop_requests() as stop:
        try:
            while True:
                if stop.is_set():  # SIGTERM and the like end the processes as Ctrl-C does
                    raise KeyboardInterrupt
                while free and (job := next((job for job in waiting if job.ready), None)):
                    waiting.remove(job)
                    running.append(_start(job, free.pop()))
                if not running:
                    return failed + waiting  # what still waits starts from the model of a failed job
                time.sleep(_POLL_SECONDS)
                for ended in [r for r in running if r.process.poll() is not None]:
                    running.remove(ended)
                    free.append(ended.cores)
                    following = ended.job.next_command()
                    # A process that succeeds without leaving its files would be started again for ever.
                    if ended.process.returncode or following == ended.command:
                        failed.append(ended.job)
                    elif following:
                        waiting.insert(0, ended.job)  # an evaluation comes before the next training
                _show(bar, jobs, running)
        finally:  # after an exception; trainings save their state on SIGTERM
            for r in running:
                r.process.terminate()
            for r in running:
                r.process.wait()


def share_cores(cores: Sequence[int], jobs: int) -> list[tuple[int, ...]]:
    """Cores split evenly into one slot per job, with at least one core in each slot."""
    slots = max(1, min(len(cores), jobs))
    return [tuple(cores[i::slots]) for i in range(slots)]


def available_slots(jobs: int) -> list[tuple[int, ...]]:
    """Slots for `run_processes`: all cores of a CPU, or a single slot for an accelerator."""
    # A child process asks: JAX reserves an accelerator's memory in the process that looks at its devices.
    backend = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"], capture_output=True, text=True, check=True
    )
    if backend.stdout.split()[-1] != "cpu":
        return [()]
    if hasattr(os, "sched_getaffinity"):
        return share_cores(sorted(os.sched_getaffinity(0)), jobs)
    return [()] * max(1, min(os.cpu_count() or 1, jobs))  # macOS cannot pin a process


def last_lines(log: Path, count: int = _SHOWN_LOG_LINES) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:]) if log.is_file() else ""


def _start(job: Job, cores: tuple[int, ...]) -> _Running:
    command = job.next_command()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if cores:
        # XLA counts its cores when jax is imported, which takes longer than this call.
        os.sched_setaffinity(process.pid, cores)
    return _Running(job, process, cores, command)


def _last_step(metrics: Path) -> int:
    """The last step of a metrics.jsonl, 0 without one."""
    try:
        records, _ = read_records(metrics)
    except OSError:
        return 0
    return records[-1][0] if records else 0


def _show(bar: tqdm, jobs: Sequence[Job], running: Sequence[_Running]) -> None:
    evaluating, done = sum(r.job.trained for r in running), sum(job.done for job in jobs)
    counts = f"training {len(running) - evaluating}, evaluating {evaluating}, done {done} of {len(jobs)}"
    # A process announces compilation in its log, and is then silent until its first step or batch is done.
    if compiling := sum("compiling" in last_lines(r.job.log, 1) for r in running):
        counts += f", compiling {compiling}"
    bar.set_postfix_str(counts, refresh=False)
    bar.update(sum(job.progress() for job in jobs) - bar.n)
