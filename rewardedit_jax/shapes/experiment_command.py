"""The command line of the experiments: its arguments, and the run that they describe."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rewardedit_jax.command_line import local_path, whole_number
from rewardedit_jax.evaluation.editing_benchmarks.evaluate import NONE
from rewardedit_jax.evaluation.editing_benchmarks.hard_edits import COUNT, HARD_EDITS
from rewardedit_jax.evaluation.experiments.comparison import Comparison
from rewardedit_jax.evaluation.experiments.experiment import Benchmark, Experiment, find_experiment
from rewardedit_jax.judging.command import REPLAY, add_endpoint_arguments
from rewardedit_jax.shapes.examples import NAME
from rewardedit_jax.shapes.experiments import EDIT_REWARD, EXPERIMENTS
from rewardedit_jax.shapes.experiments_on_data import EDITORS, SCORERS, metrics_of, on_data
from rewardedit_jax.shapes.position_benchmark import report_positions
from rewardedit_jax.training.recipe import PREFIX, read_recipe

_JUDGED = "--benchmark, --benchmark-data, --judge and --store"


def add_experiment_arguments(p: ArgumentParser) -> None:
    """The arguments of `launch/experiment.py`."""
    at_least_one = partial(whole_number, least=1)
    p.add_argument("name", metavar="NAME", help="one of the experiments below")
    p.add_argument(
        "--data", default=NAME, help="shapes, or a prepared data set: edits with rewards, or pairs (default: shapes)"
    )
    p.add_argument("--seeds", type=at_least_one, default=1, help="trainings of each arm (default: %(default)s)")
    p.add_argument("--count", type=at_least_one, help="held-out scenes, or groups of edits (default: the experiment's)")
    p.add_argument("--out", required=True, type=local_path, metavar="DIR", help="for trainings, table and pictures")
    own = "instead of the experiment's recipe, such as configs/reward_ip2p.py:debug"
    p.add_argument("--recipe", metavar="FILE", help=own)
    for option, about in (("--answers", "a judge's pairwise.json"), ("--swapped", "the same with exchanged edits")):
        p.add_argument(option, type=Path, metavar="FILE", help=f"editreward_table8: {about}")
    judged = p.add_argument_group("with --data DIR", "what evaluates the models, as in launch/evaluate.py")
    judged.add_argument(
        "--benchmark", choices=(*EDITORS, *SCORERS), help="of editors (table9: the training data), or of scorers"
    )
    judged.add_argument("--benchmark-data", type=Path, metavar="DIR", help="its photographs and requests")
    judged.add_argument("--judge", metavar="NAME", help="openai, scorer or replay; none: the benchmark's metrics alone")
    judged.add_argument("--judge-model", metavar="NAME", help="the judge's model")
    judged.add_argument("--store", type=local_path, metavar="FILE", help="SQLite file of all answers")
    judged.add_argument("--judge-base", metavar="NAME", help="base model of a published scorer, for its tokenizer")
    add_endpoint_arguments(judged)
    judged.add_argument("--weights", type=Path, metavar="DIR", help="published weight files of the metrics")


def described_comparison(a: Namespace, overrides: Sequence[str], launch: Path, command: str) -> Comparison:
    """The run that the arguments describe.

    Args:
      overrides: "--config.field=value".
      launch: the folder of the commands; the recipes are beside it.
      command: as the user gave it, for the report.
    """
    experiment, configs = find_experiment(EXPERIMENTS, a.name), launch.parent / "configs"
    if a.data == NAME:
        if a.benchmark or a.benchmark_data or a.judge or a.store or a.weights:
            raise ValueError(f"{_JUDGED} belong to --data DIR: the shapes world has an oracle")
        experiment = _with_answers(experiment, a.answers, a.swapped)
        recipe = a.recipe or str(configs / experiment.recipe)
        _check_world(read_recipe(recipe, overrides), read_recipe(str(configs / experiment.recipe)), recipe)
    else:
        recipe = a.recipe or str(configs / experiment.recipe.partition(":")[0])
        overrides = (f"{PREFIX}data.name=prepared", f"{PREFIX}data.root={a.data}", *overrides)
        config = read_recipe(recipe, overrides)
        benchmark = _of_scorers(a) if experiment.paper == EDIT_REWARD else _of_editors(a, config)
        experiment = on_data(experiment, benchmark, config)
    count = a.count or experiment.count
    return Comparison(experiment, recipe, tuple(overrides), a.seeds, count, a.out, launch, command)


def _of_scorers(a: Namespace) -> Benchmark:
    """What evaluates scorers of a user's data. Its files have to be there before anything is trained."""
    if a.benchmark not in SCORERS or not a.benchmark_data:
        raise ValueError(f"{a.name} on --data {a.data} trains scorers: give --benchmark, one of {', '.join(SCORERS)}, "
                         "and --benchmark-data")  # fmt: skip
    _check_there(Path(a.data), a.benchmark_data)
    words = _escaped(a.benchmark, SCORERS[a.benchmark], str(a.benchmark_data))
    return Benchmark((*words, "--json", "{result}"), counted=False)


def _of_editors(a: Namespace, config: ConfigDict) -> Benchmark:
    """What evaluates editors of a user's data. Its files have to be there before anything is trained."""
    benchmark, data, chosen = a.benchmark, a.benchmark_data, []
    if benchmark in SCORERS:
        raise ValueError(f"{a.name} trains editors: --benchmark {benchmark} is of scorers")
    if a.name == "table9":
        benchmark, data = HARD_EDITS.name, Path(a.data)
        chosen = ["--count", str(a.count or COUNT), *(["--labels", config.data.labels] if config.data.labels else [])]
    if not (benchmark and data and a.judge and (a.store or a.judge == NONE)):
        raise ValueError(f"--data {a.data} is not the shapes world: give {_JUDGED}, or --data shapes")
    metrics = metrics_of(a.name, benchmark)
    if a.judge == NONE and not metrics:
        raise ValueError(f"{a.name} on {benchmark} needs a judge: without one there are only metrics, which it lacks")
    _check_there(Path(a.data), data, *([a.store] if a.judge == REPLAY else []), *([a.weights] if a.weights else []))
    given = _given(a, dict.fromkeys(("judge_model", "judge_base", "store", "weights")))
    measured = ["--metrics", *metrics] if metrics else []
    words = _escaped(benchmark, "--data", str(data), *chosen, "--judge", a.judge, *given, *measured)
    endpoint = ArgumentParser()
    add_endpoint_arguments(endpoint)
    # Evaluations run side by side, and share the store.
    transport = ("--wait", *_given(Namespace(**vars(a) | {"wait": False}), vars(endpoint.parse_args([]))))
    return Benchmark((*words, "--json", "{result}"), transport, counted=False)


def _check_there(*files: Path) -> None:
    for needed in files:
        if not needed.exists():
            raise FileNotFoundError(f"there is no {needed}")


def _escaped(*words: str) -> tuple[str, ...]:
    """Words of a command in which a brace is no field to fill in."""
    return tuple(word.replace("{", "{{").replace("}", "}}") for word in words)


def _given(a: Namespace, defaults: Mapping[str, Any]) -> list[str]:
    """The words of the options that differ from their defaults."""
    words = []
    for name, default in defaults.items():
        if (value := getattr(a, name)) != default:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


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
