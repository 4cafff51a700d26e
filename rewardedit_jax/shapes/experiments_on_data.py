"""The papers' experiments on data of a user: the same arms, evaluated on public benchmarks.

Editors are judged on a benchmark of editors. Scorers are measured on benchmarks of reward models; they start from a
pretrained model, where those of the shapes world start from a regression.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.evaluation.editing_benchmarks.command import BENCHMARKS
from rewardedit_jax.evaluation.editing_benchmarks.hard_edits import HARD_EDITS
from rewardedit_jax.evaluation.experiments.experiment import Arm, Benchmark, Experiment
from rewardedit_jax.evaluation.experiments.judged_report import report_judged
from rewardedit_jax.evaluation.experiments.reward_model_report import report_reward_models
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL
from rewardedit_jax.shapes.experiments import EDIT_REWARD, FEW_GROUPS, SMART_EDIT
from rewardedit_jax.shapes.hard_samples import ORIGINAL
from rewardedit_jax.shapes.position_benchmark import report_positions
from rewardedit_jax.shapes.tasks import ShapesEditingTask, ShapesScoringTask
from rewardedit_jax.training.recipe import PREFIX

# What `--benchmark` may name. The numbers of other benchmarks of editors are of subsets, or of the training data.
EDITORS = tuple(name for name, one in BENCHMARKS.items() if one.has_whole and one is not HARD_EDITS)
# Of reward models: the option of launch/evaluate.py that names the data.
SCORERS = {"genai_bench": "--pairs", "aurora": "--pairs", "editreward_bench": "--groups"}
# Of edits and photographs without targets: what appendix C.1 of the paper (table 7) measures.
_EXISTING_METRICS = ("clip_t", "clip_i_source", "fid_source")
_FEW_PAIRS = 130_000  # of 200,000, in EditReward's table 7
_BACKBONES = {
    "3b": Arm((f"{PREFIX}init=Qwen/Qwen2.5-VL-3B-Instruct",), title="Qwen2.5-VL-3B"),
    "7b": Arm((f"{PREFIX}init=Qwen/Qwen2.5-VL-7B-Instruct",), title="Qwen2.5-VL-7B"),
    "mimo": Arm((f"{PREFIX}init=XiaomiMiMo/MiMo-VL-7B-SFT-2508",), title="MiMo-VL-7B"),
}
# Schemas by `config.task`. The tasks of the shapes world also train on other data.
_EDITING = {"editing": EditingTask.schema, "shapes_editing": ShapesEditingTask.schema}
_SCORING = {"scoring": ScoringTask.schema, "shapes_scoring": ShapesScoringTask.schema}


def metrics_of(experiment: str, benchmark: str) -> Sequence[str]:
    """The metrics that the benchmark measures in an experiment, besides the judge."""
    return _EXISTING_METRICS if experiment == "table7" else BENCHMARKS[benchmark].metrics


def on_data(experiment: Experiment, benchmark: Benchmark, config: ConfigDict) -> Experiment:
    """The experiment with trainings of a recipe on other data.

    Args:
      config: of the trainings.
    Raises:
      ValueError: the experiment needs the shapes world, or the recipe trains something else.
    """
    if experiment.paper == EDIT_REWARD:
        return _of_scorers(experiment, benchmark, config)
    if experiment.paper == SMART_EDIT:
        raise ValueError(f"{experiment.name} trains its arms in the shapes world: it needs --data shapes")
    _check_task(config.task, _EDITING)
    arms, baseline = _arms(experiment, config.data.resolution)
    report = partial(report_judged, baseline=baseline)
    return _measured_by(experiment, benchmark, arms=arms, schema=_EDITING[config.task], report=report)


def _measured_by(experiment: Experiment, benchmark: Benchmark, **fields: Any) -> Experiment:
    """The experiment on another benchmark, whose results lie in a folder of its name; the data are there already."""
    folder = experiment.layout.evaluation.rpartition("/")[0]
    layout = replace(experiment.layout, evaluation=f"{folder}/{benchmark.arguments[0]}")
    recipe = experiment.recipe.partition(":")[0]
    return replace(experiment, recipe=recipe, layout=layout, benchmark=benchmark, prepare=None, **fields)


def _of_scorers(experiment: Experiment, benchmark: Benchmark, config: ConfigDict) -> Experiment:
    if experiment.report is report_positions:
        raise ValueError(
            f"{experiment.name} trains nothing: it needs --data shapes, with --answers for those of a judge"
        )
    _check_task(config.task, _SCORING)
    if experiment.name == "editreward_table5":
        arms = _BACKBONES
    else:
        # Without the regression, which takes the place of pretraining, and without what fits its small network.
        given = {name: arm for name, arm in experiment.arms.items() if arm.starts_from}
        arms = {
            name: replace(arm, starts_from=None, defaults=(), overrides=tuple(map(_few_pairs, arm.overrides)),
                          title=arm.title.replace(f"{FEW_GROUPS:,} groups", f"{_FEW_PAIRS:,} pairs"))
            for name, arm in given.items()
        }  # fmt: skip
    return _measured_by(experiment, benchmark, arms=arms, schema=_SCORING[config.task], report=report_reward_models)


def _check_task(found: str, expected: Collection[str]) -> None:
    if found not in expected:
        raise ValueError(f"the recipe has task={found!r}: expected one of {', '.join(expected)}")


def _few_pairs(override: str) -> str:
    """The size of the small data, as a setting of data of a user."""
    return f"{PREFIX}data.pairs={_FEW_PAIRS}" if override.startswith(f"{PREFIX}data.train=") else override


def _arms(experiment: Experiment, resolution: int) -> tuple[Mapping[str, Arm], str]:
    """The arms, and the title of the one that the others are compared with."""
    if experiment.name == "table6":  # one training, evaluated several times
        best = "asked for the best"
        asked = {
            f"asked {score}": Arm(starts_from=FULL, trained=False, evaluation=("--reward", *3 * (str(score),)))
            for score in range(5, -1, -1)
        }
        return {FULL: Arm(title=best), **asked}, best
    if experiment.name == "table9":
        original = Arm(trained=False, system=("--targets",), title=ORIGINAL)
        return {"original": original, **experiment.arms}, ORIGINAL
    if experiment.name == "table11":
        small, large = (f"{times * resolution} pixels" for times in (1, 2))
        more = f"{PREFIX}data.resolution={2 * resolution}"
        return {FULL: Arm(title=small), "large": Arm((more,), title=large)}, small
    return experiment.arms, BASELINE
