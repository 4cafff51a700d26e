"""Experiments as data: arms of one recipe, the benchmark that evaluates their models, and the report of the results.

An experiment knows nothing of a world or of a benchmark beyond what its fields say. `comparison` runs it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from rewardedit_jax.evaluation.experiments.table import Table
from rewardedit_jax.training.recipe import TrainingRecipe

Results = Mapping[str, Sequence[Path]]  # title of the arm → result of each seed; one for an arm without training
# (directory for pictures, results, count) → the table, and the files written
Report = Callable[[Path, Results, int], tuple[Table, list[Path]]]


@dataclass(frozen=True)
class Arm:
    """One variant of a recipe. Overrides have the form "--config.field=value"."""

    overrides: tuple[str, ...] = ()  # what defines the arm; they win over the overrides of the comparison
    defaults: tuple[str, ...] = ()  # the overrides of the comparison win over these
    starts_from: str | None = None  # the arm whose model of the same seed is `config.init`
    title: str = ""  # name in the table; empty: the arm's name
    recipe: str = ""  # another file of configs/ than the experiment's, with its argument
    # False: `config.init` itself is evaluated; once for all seeds, unless it is the model of another arm.
    trained: bool = True
    system: tuple[str, ...] = ("--model", "{model}")  # what the benchmark evaluates, as arguments like the next ones
    evaluation: tuple[str, ...] = ()  # further arguments of the benchmark


@dataclass(frozen=True)
class Layout:
    """The files of an arm. Paths are relative to the directory of a comparison and contain {arm} and {seed}."""

    training: str  # working directory of train.py
    model: str  # the file that train.py writes last, below `training`
    evaluation: str  # directory of `result`
    log: str
    result: str = "result.json"  # what evaluate.py writes, below `evaluation`


@dataclass(frozen=True)
class Benchmark:
    """How a model is evaluated: a command of launch/evaluate.py."""

    # Arguments of evaluate.py, with {model}, {evaluation}, {result} and {count} for those of the arm.
    arguments: tuple[str, ...]
    transport: tuple[str, ...] = ()  # further arguments, which results do not depend on
    counted: bool = True  # whether the result has the field "count", without which it is evaluated again


@dataclass(frozen=True)
class Experiment:
    """What is trained, how it is evaluated, and what is reported."""

    name: str  # of the command
    paper: str  # its title
    table: str  # of the paper, such as "table 4"
    about: str  # in a few words
    recipe: str  # a file of configs/, with its argument: "reward_ip2p.py:shapes"
    arms: Mapping[str, Arm]
    schema: type[TrainingRecipe]
    layout: Layout
    benchmark: Benchmark
    report: Report
    prepare: Callable[[ConfigDict], Path] | None = None  # writes the data that `config.data` describes, where missing
    count: int = 256  # default of the items that are evaluated

    def title(self, arm: str) -> str:
        return self.arms[arm].title or arm


def list_experiments(experiments: Mapping[str, Experiment]) -> str:
    """Name, table and one line of each experiment, below the title of its paper."""
    width = max(map(len, experiments))
    lines: list[str] = []
    for paper in dict.fromkeys(experiment.paper for experiment in experiments.values()):
        lines.append(f"{paper}:")
        of_paper = (experiment for experiment in experiments.values() if experiment.paper == paper)
        lines += [f"  {one.name:{width}}  {one.table}: {one.about}" for one in of_paper]
    return "\n".join(lines)


def find_experiment(experiments: Mapping[str, Experiment], name: str) -> Experiment:
    """The experiment of this name. Raises ValueError with the names that there are."""
    if name not in experiments:
        raise ValueError(f"there is no experiment {name!r}: expected one of {', '.join(experiments)}")
    return experiments[name]
