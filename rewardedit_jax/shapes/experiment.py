"""Experiments of the shapes world: arms × seeds of one recipe, trained, evaluated and compared in one table.

An experiment is data: arms, the directories of their files, the benchmark that evaluates a trained model, and the
function that turns results into a table. `EDITORS` and `SCORERS` are the two; `Comparison` is a run of one.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from rewardedit_jax.data.runs import atomic_write
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL, RESULT, report_editors
from rewardedit_jax.shapes.examples import prepare_shapes
from rewardedit_jax.shapes.preferences import prepare_shapes_preferences
from rewardedit_jax.shapes.processes import Job, available_slots, last_lines, run_processes
from rewardedit_jax.shapes.scorer_benchmark import report_scorers
from rewardedit_jax.training.workdir import read_or_set_aside
from rewardedit_jax.weights.files import write_json

_PREFIX = "--config."
_RECORD = "comparison.json"


class JobsFailed(RuntimeError):
    """Trainings or evaluations failed; the message holds the last lines of their logs."""


@dataclass(frozen=True)
class Arm:
    """One variant of a recipe. Overrides have the form "--config.field=value"."""

    overrides: tuple[str, ...] = ()  # what defines the arm; they win over the overrides of the comparison
    defaults: tuple[str, ...] = ()  # the overrides of the comparison win over these
    starts_from: str | None = None  # the arm whose model of the same seed is `config.init`
    title: str = ""  # name in the table; empty: the arm's name


@dataclass(frozen=True)
class Experiment:
    """What is trained and how it is evaluated. Paths are relative to the workdir and contain {arm} and {seed}."""

    arms: Mapping[str, Arm]
    training: str  # working directory of train.py
    model: str  # the file that train.py writes last, below `training`
    evaluation: str  # directory of result.json, which evaluate.py writes
    log: str
    benchmark: tuple[str, ...]  # arguments of evaluate.py, with {training}, {evaluation} and {result} for paths
    count_field: str  # field of result.json with the number of scenes or groups
    prepare_data: Callable[[str, int, int], Path]  # (root, train, test) → directory
    # (workdir, title → result.json of each seed, count) → files written
    report: Callable[[Path, Mapping[str, Sequence[Path]], int], list[Path]]


# The ablations of Multi-Reward as Condition: table 4 (scores, feedback) and table 5 (attention, addition). The recipe
# itself uses both sources and both paths.
EDITORS = Experiment(
    arms={
        BASELINE: Arm((f"{_PREFIX}reward.layout=",)),
        "scores": Arm((f"{_PREFIX}reward.sources=('scores',)",)),
        "feedback": Arm((f"{_PREFIX}reward.sources=('text',)",)),
        "attention": Arm((f"{_PREFIX}reward.paths=('attention',)",)),
        "addition": Arm((f"{_PREFIX}reward.paths=('addition',)",)),
        FULL: Arm(),
    },
    training="{arm}/seed{seed}/training",
    model="model/model_index.json",
    evaluation="{arm}/seed{seed}/evaluation",
    log="{arm}/seed{seed}/log.txt",
    benchmark=("shapes", "--model", "{training}", "--output", "{evaluation}"),
    count_field="scenes",
    prepare_data=prepare_shapes,
    report=report_editors,
)


def _ranking(title: str, objective: str, ties: str) -> Arm:
    """An arm that fine-tunes the scorer of the arm `ratings` on preferences."""
    overrides = (f"{_PREFIX}objective.name={objective}", f"{_PREFIX}data.ties={ties}")
    # A scorer that starts from ratings needs a tenth of the learning rate and a twentieth of the steps of the recipe.
    return Arm(overrides, (f"{_PREFIX}steps=1000", f"{_PREFIX}optimizer.learning_rate=1e-4"), "ratings", title)


# EditReward, section 3.3 (ties) and eq. 4 (-log P): all rankings start from the same regression of ratings.
SCORERS = Experiment(
    arms={
        "ratings": Arm(),
        "strict": _ranking("ranking, strict pairs", "uncertainty", "strict only"),
        "ties": _ranking("ranking, ties disentangled", "uncertainty", "disentangle"),
        "probability": _ranking("the same by -log P", "negative_log_probability", "disentangle"),
        "thurstone": _ranking("the same by Thurstone", "thurstone", "disentangle"),
    },
    training="{arm}-{seed}",
    model="model/tokenizer.json",
    evaluation="{arm}-{seed}/evaluation",
    log="{arm}-{seed}.log",  # not in the training's directory, which has to be empty at its start
    benchmark=("shapes_scorer", "--model", "{training}", "--json", "{result}"),
    count_field="groups",
    prepare_data=prepare_shapes_preferences,
    report=report_scorers,
)

EXPERIMENTS = {"shapes_editing": EDITORS, "shapes_scoring": SCORERS}  # by `config.task`


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

    @cached_property
    def experiment(self) -> Experiment:
        config = recipe(self.config, self.overrides)
        if config.task not in EXPERIMENTS or config.data.name != "shapes":
            raise ValueError(
                f"{self.config} has task={config.task!r}, data.name={config.data.name!r}: the oracle judges the shapes "
                f"world only; give a recipe such as configs/reward_ip2p.py:shapes (tasks {', '.join(EXPERIMENTS)})"
            )
        return EXPERIMENTS[config.task]

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
        init = (f"{_PREFIX}init={start.workdir}",) if start else ()
        words = (*arm.defaults, *self.overrides, *arm.overrides, *init, f"{_PREFIX}seed={seed}")
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
            steps=recipe(self.config, words).steps,
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
    data = recipe(comparison.config, comparison.overrides).data
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


def recipe(config: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The configuration that `launch/train.py --config=CONFIG OVERRIDES` trains; later overrides win."""
    file = config.partition(":")[0]
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no recipe {file}")
    if malformed := [word for word in overrides if not word.startswith(_PREFIX) or "=" not in word]:
        raise ValueError(f"expected {_PREFIX}field=value: {' '.join(malformed)}")
    # Separate flag values: absl's global flags belong to the launcher.
    values = flags.FlagValues()
    words = ["recipe", f"--config={config}", *overrides]
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=words)
    try:
        values(words)
    except (flags.Error, AttributeError, TypeError) as error:  # AttributeError: a field that the recipe does not have
        raise ValueError(f"{config}: {error}") from error
    return values.config
