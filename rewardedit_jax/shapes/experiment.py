"""Runs of experiments: arms × seeds of one recipe, trained, evaluated and compared in one table."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.shapes.arms import EXPERIMENTS, Experiment
from rewardedit_jax.shapes.editor_benchmark import RESULT
from rewardedit_jax.shapes.processes import Job, available_slots, last_lines, run_processes
from rewardedit_jax.training.recipe import PREFIX, check_recipe, read_recipe
from rewardedit_jax.training.workdir import read_or_set_aside
from rewardedit_jax.weights.files import write_json

_RECORD = "comparison.json"


class JobsFailed(RuntimeError):
    """Trainings or evaluations failed; the message holds the last lines of their logs."""


@dataclass(frozen=True)
class Comparison:
    """A run of an experiment."""

    config: str  # a recipe of the shapes world; its task says which experiment
    overrides: tuple[str, ...]  # "--config.field=value", for every arm
    arms: tuple[str, ...]  # empty: all arms of the experiment
    seeds: int
    count: int  # held-out scenes, or groups of edits
    workdir: Path
    launch: Path  # the folder of train.py and evaluate.py
    experiments: Mapping[str, Experiment] = field(default_factory=lambda: EXPERIMENTS)  # by `config.task`

    @cached_property
    def experiment(self) -> Experiment:
        config = read_recipe(self.config, self.overrides)
        if config.task not in self.experiments or config.data.name != "shapes":
            raise ValueError(
                f"{self.config} has task={config.task!r}, data.name={config.data.name!r}: the oracle judges the shapes "
                "world only; give a recipe such as configs/reward_ip2p.py:shapes "
                f"(tasks {', '.join(self.experiments)})"
            )
        return self.experiments[config.task]

    @cached_property
    def selected(self) -> list[str]:
        """The arms to train, in the experiment's order, and those that they start from."""
        known = self.experiment.arms
        if unknown := [arm for arm in self.arms if arm not in known]:
            raise ValueError(f"--arms {', '.join(unknown)}: expected some of {', '.join(known)}")
        asked = set(self.arms or known)
        # One level is enough: an arm that others start from starts from the recipe's own `init`.
        asked |= {known[arm].starts_from for arm in asked}
        return [arm for arm in known if arm in asked]

    @cached_property
    def jobs(self) -> dict[tuple[str, int], Job]:
        """(arm, seed) → job. One seed after the other: an interrupted comparison then has complete seeds."""
        jobs: dict[tuple[str, int], Job] = {}
        for seed, arm in product(range(self.seeds), self.selected):
            jobs[arm, seed] = self._job(arm, seed, jobs.get((self.experiment.arms[arm].starts_from, seed)))
        return jobs

    def _job(self, name: str, seed: int, start: Job | None) -> Job:
        experiment, arm = self.experiment, self.experiment.arms[name]
        training, evaluation, log = (
            self.workdir / pattern.format(arm=name.replace(" ", "-"), seed=seed)
            for pattern in (experiment.training, experiment.evaluation, experiment.log)
        )
        init = (f"{PREFIX}init={start.workdir}",) if start else ()
        words = (*arm.defaults, *self.overrides, *arm.overrides, *init, f"{PREFIX}seed={seed}")
        config = read_recipe(self.config, words)
        check_recipe(config, experiment.schema)  # of all arms, before the first is trained
        paths = {"training": training, "evaluation": evaluation, "result": evaluation / RESULT}
        benchmark = [word.format(**paths) for word in experiment.benchmark]
        return Job(
            name=f"{name}, seed {seed}",
            workdir=training,
            model=training / experiment.model,
            result=paths["result"],
            log=log,
            train=(str(self.launch / "train.py"), f"--config={self.config}", *words, "--workdir", str(training)),
            evaluate=(str(self.launch / "evaluate.py"), *benchmark, "--count", str(self.count)),
            steps=config.steps,
            size=(experiment.count_field, self.count),
            after=start,
        )


def compare(comparison: Comparison) -> list[Path]:
    """Trains and evaluates what is missing, prints the table, and returns the files written.

    Raises:
      JobsFailed: after all other jobs are done.
    """
    jobs = list(comparison.jobs.values())
    _record(comparison)
    data = read_recipe(comparison.config, comparison.overrides).data
    # Written here once, before several trainings would write it at the same time.
    print(f"data: {comparison.experiment.prepare_data(data.root, data.train, data.test)}", file=sys.stderr)
    if failed := run_processes(jobs, available_slots(len(jobs))):
        raise JobsFailed("\n\n".join(map(_failure, failed)))
    results: dict[str, list[Path]] = {}
    for (arm, _), job in comparison.jobs.items():
        results.setdefault(comparison.experiment.arms[arm].title or arm, []).append(job.result)
    return comparison.experiment.report(comparison.workdir, results, comparison.count)


def _record(comparison: Comparison) -> None:
    """Writes the recipe to comparison.json; refuses a directory that holds results of another recipe."""
    file = comparison.workdir / _RECORD
    now = {"config": comparison.config, "overrides": list(comparison.overrides)}
    if (before := read_or_set_aside(file)) and before != now:
        raise ValueError(f"{comparison.workdir} holds a comparison of {before}, not of {now}: give another directory")
    with atomic_write(file) as unfinished:
        write_json(now, unfinished)


def _failure(job: Job) -> str:
    if not job.ready:
        return f"{job.name} was not started: it starts from the model of {job.after.name}"
    return f"{job.name} failed; the end of {job.log}:\n{last_lines(job.log)}"
