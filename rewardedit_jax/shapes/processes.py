"""Trainings and their scoring as processes side by side: each core works on one, and a stopped run goes on.

What is left to do is read from the files of a job alone, so that going on after an interruption and going on from
training to scoring are one thing.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from rewardedit_jax.shapes.results import scored_scenes

_SCORING = 0.2  # of the progress of a training: about the time that scoring takes
_POLL_SECONDS = 0.5
_SHOWN_LOG_LINES = 20


@dataclass(frozen=True)
class Job:
    """One training and the scoring of its model, under `directory`."""

    name: str
    directory: Path
    launch: Path  # where train.py and evaluate.py are
    training: tuple[str, ...]  # arguments of train.py
    steps: int
    count: int  # scenes to score

    @property
    def workdir(self) -> Path:
        return self.directory / "training"

    @property
    def evaluation(self) -> Path:
        return self.directory / "evaluation"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    @property
    def scored(self) -> bool:
        return scored_scenes(self.evaluation) == self.count

    @property
    def trained(self) -> bool:
        return (self.workdir / "model" / "model_index.json").is_file()

    def next_command(self) -> list[str] | None:
        """Training, anew or from the last checkpoint; then scoring; None when both are done."""
        if self.scored:
            return None
        if self.trained:
            script, *arguments = "evaluate.py", "shapes", "--model", self.workdir, "--output", self.evaluation
            arguments += ["--count", self.count]
        else:
            script, *arguments = "train.py", *self.training, "--workdir", self.workdir
            if any(entry.name.isdigit() for entry in self.workdir.glob("checkpoints/*")):
                arguments.append("--resume")
        return [sys.executable, str(self.launch / script), *map(str, arguments)]

    def progress(self) -> float:
        """In steps of training."""
        if self.scored:
            return (1 + _SCORING) * self.steps
        return float(self.steps if self.trained else _last_step(self.workdir / "metrics.jsonl"))


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen
    cores: tuple[int, ...]
    command: list[str]


def run_jobs(jobs: Sequence[Job], slots: Iterable[tuple[int, ...]]) -> list[Job]:
    """Runs all jobs, one per slot at a time, and returns those that failed; the others finish all the same.

    Args:
      slots: for each job to run side by side, the cores it is pinned to; empty: not pinned.
    """
    waiting, free = deque(job for job in jobs if job.next_command()), list(slots)
    running: list[_Running] = []
    failed: list[Job] = []
    with _progress_bar(jobs) as bar:
        try:
            while waiting or running:
                while waiting and free:
                    running.append(_start(waiting.popleft(), free.pop()))
                time.sleep(_POLL_SECONDS)
                for ended in [r for r in running if r.process.poll() is not None]:
                    running.remove(ended)
                    following = ended.job.next_command()
                    if ended.process.returncode or following == ended.command:  # a success must have left its files
                        failed.append(ended.job)
                    elif following:
                        running.append(_start(ended.job, ended.cores))
                        continue
                    free.append(ended.cores)
                _show(bar, jobs, running)
        finally:  # of a run that is interrupted; trainings save their state when they are told to stop
            for r in running:
                r.process.terminate()
            for r in running:
                r.process.wait()
    return failed


def share_cores(cores: Sequence[int], jobs: int) -> list[tuple[int, ...]]:
    """Slots for so many jobs: the cores dealt out evenly, at most one slot per core."""
    slots = max(1, min(len(cores), jobs))
    return [tuple(cores[i::slots]) for i in range(slots)]


def available_slots(jobs: int) -> list[tuple[int, ...]]:
    """On a CPU all cores, dealt out; an accelerator takes one job at a time."""
    # Asked in a process of its own: whoever looks at an accelerator holds its memory.
    backend = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"], capture_output=True, text=True, check=True
    )
    if backend.stdout.split()[-1] != "cpu":
        return [()]
    if hasattr(os, "sched_getaffinity"):
        return share_cores(sorted(os.sched_getaffinity(0)), jobs)
    return [()] * max(1, min(os.cpu_count() or 1, jobs))  # macOS cannot pin


def last_lines(log: Path, count: int = _SHOWN_LOG_LINES) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:]) if log.is_file() else ""


def _start(job: Job, cores: tuple[int, ...]) -> _Running:
    command = job.next_command()
    if not job.trained and "--resume" not in command:
        shutil.rmtree(job.workdir, ignore_errors=True)  # stopped before its first checkpoint: nothing to go on from
    job.directory.mkdir(parents=True, exist_ok=True)
    with job.log.open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if cores:
        os.sched_setaffinity(process.pid, cores)  # before it has counted its cores, which takes an import of jax
    return _Running(job, process, cores, command)


def _last_step(metrics: Path) -> int:
    """0 before the first logged step; the last line may be half written."""
    lines = [line for line in metrics.read_text().split("\n")[:-1] if line] if metrics.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def _progress_bar(jobs: Sequence[Job]) -> tqdm:
    patience = 0.5 if sys.stderr.isatty() else 30  # seconds between two lines of a log
    total = round(sum((1 + _SCORING) * job.steps for job in jobs))
    form = "{percentage:3.0f}%|{bar:30}| {elapsed}<{remaining}{postfix}"
    return tqdm(total=total, bar_format=form, mininterval=patience)


def _show(bar: tqdm, jobs: Sequence[Job], running: Sequence[_Running]) -> None:
    scoring, done = sum(r.job.trained for r in running), sum(job.scored for job in jobs)
    told = f"training {len(running) - scoring}, scoring {scoring}, done {done} of {len(jobs)}"
    bar.set_postfix_str(told, refresh=False)
    bar.update(sum(job.progress() for job in jobs) - bar.n)
