"""The command line of the experiments: its arguments, and the run that they describe."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from rewardedit_jax.command_line import local_path, whole_number
from rewardedit_jax.evaluation.experiments.comparison import Comparison
from rewardedit_jax.evaluation.experiments.experiment import Benchmark, Experiment, find_experiment
from rewardedit_jax.shapes.examples import NAME
from rewardedit_jax.shapes.experiments import EXPERIMENTS, on_benchmark
from rewardedit_jax.shapes.position_benchmark import report_positions
from rewardedit_jax.training.recipe import PREFIX, read_recipe

_JUDGED = "--benchmark, --benchmark-data, --judge and --store"


def add_experiment_arguments(p: ArgumentParser) -> None:
    """The arguments of `launch/experiment.py`."""
    at_least_one = partial(whole_number, least=1)
    p.add_argument("name", metavar="NAME", help="one of the experiments below")
    p.add_argument(
        "--data", default=NAME, help="shapes, or a prepared data set of edits with rewards (default: shapes)"
    )
    p.add_argument("--seeds", type=at_least_one, default=1, help="trainings of each arm (default: %(default)s)")
    p.add_argument("--count", type=at_least_one, help="held-out scenes, or groups of edits (default: the experiment's)")
    p.add_argument("--out", required=True, type=local_path, metavar="DIR", help="for trainings, table and pictures")
    own = "instead of the experiment's recipe, such as configs/reward_ip2p.py:debug"
    p.add_argument("--recipe", metavar="FILE", help=own)
    for option, about in (("--answers", "a judge's pairwise.json"), ("--swapped", "the same with exchanged edits")):
        p.add_argument(option, type=Path, metavar="FILE", help=f"editreward_table8: {about}")
    judged = p.add_argument_group("with --data DIR", "what evaluates the editors, as in launch/evaluate.py")
    judged.add_argument("--benchmark", choices=("real_edit",), help="the benchmark of editors")
    judged.add_argument("--benchmark-data", type=Path, metavar="DIR", help="its photographs and requests")
    judged.add_argument("--judge", metavar="NAME", help="openai, scorer or replay")
    judged.add_argument("--judge-model", metavar="NAME", help="the judge's model")
    judged.add_argument("--store", type=local_path, metavar="FILE", help="SQLite file of all answers")


def described_comparison(a: Namespace, overrides: Sequence[str], launch: Path, command: str) -> Comparison:
    """The run that the arguments describe.

    Args:
      overrides: "--config.field=value".
      launch: the folder of the commands; the recipes are beside it.
      command: as the user gave it, for the report.
    """
    experiment, configs = find_experiment(EXPERIMENTS, a.name), launch.parent / "configs"
    if a.data == NAME:
        if a.benchmark or a.benchmark_data or a.judge or a.store:
            raise ValueError(f"{_JUDGED} belong to --data DIR: the shapes world has an oracle")
        experiment = _with_answers(experiment, a.answers, a.swapped)
        recipe = a.recipe or str(configs / experiment.recipe)
        _check_world(read_recipe(recipe, overrides), read_recipe(str(configs / experiment.recipe)), recipe)
    else:
        recipe = a.recipe or str(configs / experiment.recipe.partition(":")[0])
        experiment = on_benchmark(experiment, _benchmark(a), read_recipe(recipe).task)
        overrides = (f"{PREFIX}data.name=prepared", f"{PREFIX}data.root={a.data}", *overrides)
    count = a.count or experiment.count
    return Comparison(experiment, recipe, tuple(overrides), a.seeds, count, a.out, launch, command)


def _benchmark(a: Namespace) -> Benchmark:
    """The benchmark of the arguments. Its files have to be there before anything is trained."""
    if not (a.benchmark and a.benchmark_data and a.judge and a.store):
        raise ValueError(f"--data {a.data} is not the shapes world: give {_JUDGED}, or --data shapes")
    for needed in (Path(a.data), a.benchmark_data, *([a.store] if a.judge == "replay" else [])):
        if not needed.exists():
            raise FileNotFoundError(f"there is no {needed}")
    judge = ("--judge", a.judge, *(("--judge-model", a.judge_model) if a.judge_model else ()), "--store", str(a.store))
    given = ("--data", str(a.benchmark_data), *judge)
    # A brace in a path is no field to fill in.
    words = (word.replace("{", "{{").replace("}", "}}") for word in given)
    return Benchmark((a.benchmark, *words, "--model", "{model}", "--json", "{result}"), counted=False)


def _check_world(config: ConfigDict, own: ConfigDict, recipe: str) -> None:
    """Refuses a recipe that trains something else than the experiment's own, or on data without an oracle."""
    found, expected = ((one.task, one.data.name) for one in (config, own))
    if found != expected:
        raise ValueError(
            f"{recipe} has task={found[0]!r}, data.name={found[1]!r}: this experiment, in the world of its oracle, "
            f"needs task={expected[0]!r}, data.name={expected[1]!r}"
        )


def _with_answers(experiment: Experiment, answers: Path | None, swapped: Path | None) -> Experiment:
    """The experiment on position bias with a judge's stored answers; refuses answers for any other."""
    if not answers and not swapped:
        return experiment
    if experiment.report is not report_positions or not answers:
        raise ValueError("--answers, and --swapped with it, belong to editreward_table8")
    return replace(experiment, report=partial(report_positions, answers=answers, swapped=swapped))
