"""Runs of experiments: arms × seeds of one recipe, trained, evaluated and compared in one table."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.evaluation.experiments.experiment import Arm, Experiment
from rewardedit_jax.evaluation.experiments.processes import Job, available_slots, is_result, last_lines, run_processes
from rewardedit_jax.evaluation.experiments.table_files import write_table
from rewardedit_jax.training.recipe import PREFIX, check_recipe, read_recipe
from rewardedit_jax.training.workdir import read_or_set_aside
from rewardedit_jax.weights.files import write_json

_RECORD = "comparison.json"


class JobsFailed(RuntimeError):
    """Trainings or evaluations failed; the message holds the last lines of their logs."""


@dataclass(frozen=True)
class Comparison:
    """A run of an experiment."""

    experiment: Experiment
    config: str  # file of the recipe, with its argument
    overrides: tuple[str, ...]  # "--config.field=value", for every arm
    seeds: int
    count: int  # items of the benchmark: held-out scenes, or groups of edits
    workdir: Path
    launch: Path  # the folder of train.py and evaluate.py
    command: str = ""  # as the user gave it, for the report

    @cached_property
    def jobs(self) -> dict[tuple[str, int], Job]:
        """(arm, seed) → job. One seed after the other: an interrupted comparison then has complete seeds."""
        jobs: dict[tuple[str, int], Job] = {}
        for seed, (name, arm) in product(range(self.seeds), self.experiment.arms.items()):
            if arm.trained or arm.starts_from or not seed:
                jobs[name, seed] = self._job(name, seed, jobs.get((arm.starts_from, seed)))
        return jobs

    def _job(self, name: str, seed: int, start: Job | None) -> Job:
        arm, layout, benchmark = self.experiment.arms[name], self.experiment.layout, self.experiment.benchmark
        overrides, config = self._recipe(arm, seed, start)
        home = self._trained_in(name, seed, config) if arm.trained else self.workdir
        training, count = self._path(layout.training, name, seed, home), self.count if benchmark.counted else None
        # The neighbour may have evaluated it as well. Without a count, nothing says on what.
        if not (count and is_result(result := self._path(layout.evaluation, name, seed, home) / layout.result, count)):
            result = self._path(layout.evaluation, name, seed) / layout.result
        paths = {"model": training if arm.trained else config.init, "evaluation": result.parent, "result": result}
        train = (str(self.launch / "train.py"), f"--config={self._file(arm)}", *overrides, "--workdir", str(training))
        command, *more = benchmark.arguments
        words = (command, *arm.system, *more, *benchmark.transport, *arm.evaluation)
        arguments = [word.format(**paths, count=self.count) for word in words]
        return Job(
            name=f"{name}, seed {seed}",
            workdir=training,
            model=training / layout.model,
            result=result,
            log=self._path(layout.log, name, seed),
            train=train if arm.trained else (),
            evaluate=(str(self.launch / "evaluate.py"), *arguments),
            steps=config.steps,
            count=count,
            after=start,
        )

    def _recipe(self, arm: Arm, seed: int, start: Job | None) -> tuple[Sequence[str], ConfigDict]:
        """The overrides of an arm and the recipe that they make; all are checked before the first is trained."""
        init = (f"{PREFIX}init={start.workdir}",) if start else ()
        words = (*arm.defaults, *self.overrides, *arm.overrides, *init, f"{PREFIX}seed={seed}")
        config = read_recipe(self._file(arm), words)
        check_recipe(config, self.experiment.schema)
        return words, config

    def _file(self, arm: Arm) -> str:
        return str(self.launch.parent / "configs" / arm.recipe) if arm.recipe else self.config

    def _path(self, pattern: str, arm: str, seed: int, home: Path | None = None) -> Path:
        return (home or self.workdir) / pattern.format(arm=arm.replace(" ", "-"), seed=seed)

    def _trained_in(self, name: str, seed: int, config: ConfigDict) -> Path:
        """The directory that holds the arm's training: a neighbour that has finished the same one, or `workdir`."""
        pattern = self.experiment.layout.training
        if self._path(pattern, name, seed).exists():
            return self.workdir
        wanted = json.loads(json.dumps(config.to_dict(), default=str))  # as `record_config` writes it
        for neighbour in sorted(self.workdir.parent.glob("*/")):
            training = self._path(pattern, name, seed, neighbour)
            if (training / self.experiment.layout.model).is_file() and _recorded(training) == wanted:
                return neighbour
        return self.workdir

    def results(self) -> dict[str, list[Path]]:
        """Title of the arm → result of each seed."""
        found: dict[str, list[Path]] = {}
        for (arm, _), job in self.jobs.items():
            found.setdefault(self.experiment.title(arm), []).append(job.result)
        return found

    def notes(self) -> list[str]:
        """A sentence for each override that some arms replace.

        Raises:
          ValueError: all arms replace it, or the command sets it.
        """
        notes, arms = [], self.experiment.arms
        for word in self.overrides:
            field = word.partition("=")[0]
            fixed = [name for name, arm in arms.items() if any(o.partition("=")[0] == field for o in arm.overrides)]
            if field == f"{PREFIX}seed" or len(fixed) == len(arms):
                raise ValueError(f"{word} has no effect: {'--seeds sets it' if not fixed else 'every arm sets it'}")
            if fixed:
                notes.append(f"{word} has no effect on the arms that define it: {', '.join(fixed)}.")
        return notes

    def about(self) -> dict[str, Any]:
        """What was run, for table.json."""
        trained = {name: [str(job.workdir) for (of, _), job in self.jobs.items() if of == name and job.train]
                   for name in self.experiment.arms}  # fmt: skip
        arms = [
            {"name": name, "title": self.experiment.title(name), "starts_from": arm.starts_from,
             **({"recipe": arm.recipe} if arm.recipe else {}),
             "overrides": [*arm.defaults, *arm.overrides], "steps": self.jobs[name, 0].steps if arm.trained else 0,
             "trainings": trained[name]}
            for name, arm in self.experiment.arms.items()
        ]  # fmt: skip
        return {
            **{key: getattr(self.experiment, key) for key in ("name", "paper", "table", "about")},
            "command": self.command,
            "recipe": Path(self.config).name,
            "overrides": self.overrides,
            "arms": arms,
            "seeds": self.seeds,
            "count": self.count if self.experiment.benchmark.counted else None,
        }


def compare(comparison: Comparison) -> list[Path]:
    """Trains and evaluates what is missing, prints the table, and returns the files written.

    Raises:
      JobsFailed: after all other jobs are done.
    """
    notes, jobs = comparison.notes(), list(comparison.jobs.values())
    _record(comparison)
    _prepare_data(comparison)
    if failed := run_processes(jobs, available_slots(len(jobs))):
        raise JobsFailed("\n\n".join(map(_failure, failed)))
    table, files = comparison.experiment.report(comparison.workdir, comparison.results(), comparison.count)
    table = table.with_notes(*notes)
    print(table.to_text())
    return [*write_table(table, comparison.about(), comparison.workdir), *files]


def _prepare_data(comparison: Comparison) -> None:
    """Writes the data here, once, before several trainings would write it at the same time."""
    if prepare := comparison.experiment.prepare:
        missing = [job for job in comparison.jobs.values() if not (job.trained or job.done)]
        recipes = [(job.train[1].removeprefix("--config="), job.train[2:-2]) for job in missing]
        described = [read_recipe(recipe, overrides).data for recipe, overrides in recipes]
        for data in {str(data): data for data in described}.values():
            print(f"data: {prepare(data)}", file=sys.stderr)


def _recorded(training: Path) -> Any:
    """The recipe of a training; None where it cannot be read."""
    try:
        return read_json(training / "config.json", dict)
    except (OSError, ValueError):
        return None


def _record(comparison: Comparison) -> None:
    """Writes the recipe to comparison.json; refuses a directory that holds results of another one."""
    file = comparison.workdir / _RECORD
    now = {
        "experiment": comparison.experiment.name,
        "config": Path(comparison.config).name,
        "overrides": list(comparison.overrides),
    }
    if not comparison.experiment.benchmark.counted:  # nothing in a result says what it is of
        now["benchmark"] = list(comparison.experiment.benchmark.arguments)
    if before := read_or_set_aside(file):
        # Records of earlier versions have the path of the recipe and no experiment.
        before = {**now, **before, "config": Path(before.get("config", "")).name}
        before = {key: before[key] for key in now}
        if before != now:
            raise ValueError(
                f"{comparison.workdir} holds a comparison of {before}, not of {now}: give another directory"
            )
    with atomic_write(file) as unfinished:
        write_json(now, unfinished)


def _failure(job: Job) -> str:
    if not job.ready:
        return f"{job.name} was not started: it starts from the model of {job.after.name}"
    return f"{job.name} failed; the end of {job.log}:\n{last_lines(job.log)}"
