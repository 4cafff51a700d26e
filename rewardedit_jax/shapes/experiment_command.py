"""The command line of the experiments: its arguments, and the run that they describe."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from rewardedit_jax.command_line import local_path, whole_number
from rewardedit_jax.evaluation.experiments.comparison import Comparison
from rewardedit_jax.evaluation.experiments.experiment import Experiment, find_experiment
from rewardedit_jax.shapes.experiments import EXPERIMENTS
from rewardedit_jax.shapes.position_benchmark import report_positions
from rewardedit_jax.training.recipe import read_recipe


def add_experiment_arguments(p: ArgumentParser) -> None:
    """The arguments of `launch/experiment.py`."""
    at_least_one = partial(whole_number, least=1)
    p.add_argument("name", metavar="NAME", help="one of the experiments below")
    p.add_argument("--data", choices=("shapes",), default="shapes", help="what to train and to evaluate on")
    p.add_argument("--seeds", type=at_least_one, default=1, help="trainings of each arm (default: %(default)s)")
    p.add_argument("--count", type=at_least_one, help="held-out scenes, or groups of edits (default: the experiment's)")
    p.add_argument("--out", required=True, type=local_path, metavar="DIR", help="for trainings, table and pictures")
    own = "instead of the experiment's recipe, such as configs/reward_ip2p.py:debug"
    p.add_argument("--recipe", metavar="FILE", help=own)
    for option, about in (("--answers", "a judge's pairwise.json"), ("--swapped", "the same with exchanged edits")):
        p.add_argument(option, type=Path, metavar="FILE", help=f"editreward_table8: {about}")


def described_comparison(a: Namespace, overrides: Sequence[str], launch: Path, command: str) -> Comparison:
    """The run that the arguments describe.

    Args:
      overrides: "--config.field=value".
      launch: the folder of the commands; the recipes are beside it.
      command: as the user gave it, for the report.
    """
    experiment = _with_answers(find_experiment(EXPERIMENTS, a.name), a.answers, a.swapped)
    own, count = str(launch.parent / "configs" / experiment.recipe), a.count or experiment.count
    recipe = a.recipe or own
    _check_world(read_recipe(recipe, overrides), read_recipe(own), recipe)
    return Comparison(experiment, recipe, tuple(overrides), a.seeds, count, a.out, launch, command)


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
