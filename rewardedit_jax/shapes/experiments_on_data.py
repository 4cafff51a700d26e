"""The first paper's experiments on data of a user: the same arms, evaluated on a benchmark of editors by a judge."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from ml_collections import ConfigDict

from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.evaluation.editing_benchmarks.command import BENCHMARKS
from rewardedit_jax.evaluation.editing_benchmarks.hard_edits import HARD_EDITS
from rewardedit_jax.evaluation.experiments.experiment import Arm, Benchmark, Experiment
from rewardedit_jax.evaluation.experiments.judged_report import report_judged
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL
from rewardedit_jax.shapes.experiments import MULTI_REWARD
from rewardedit_jax.shapes.hard_samples import ORIGINAL
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.training.recipe import PREFIX

# What `--benchmark` may name: the numbers of the others are of subsets, or of the training data.
NAMES = tuple(name for name, one in BENCHMARKS.items() if one.has_whole and one is not HARD_EDITS)
# Of edits and photographs without targets: what appendix C.1 of the paper (table 7) measures.
_EXISTING_METRICS = ("clip_t", "clip_i_source", "fid_source")
_SCHEMAS = {"editing": EditingTask.schema, "shapes_editing": ShapesEditingTask.schema}  # by `config.task`


def metrics_of(experiment: str, benchmark: str) -> Sequence[str]:
    """The metrics that the benchmark measures in an experiment, besides the judge."""
    return _EXISTING_METRICS if experiment == "table7" else BENCHMARKS[benchmark].metrics


def on_data(experiment: Experiment, benchmark: Benchmark, config: ConfigDict) -> Experiment:
    """The experiment with trainings of a recipe on other data.

    Args:
      config: of the trainings.
    Raises:
      ValueError: the experiment needs the shapes world, or the recipe trains no editor.
    """
    if experiment.paper != MULTI_REWARD:
        raise ValueError(f"{experiment.name} needs the shapes world: other data are for the experiments of editors")
    if config.task not in _SCHEMAS:
        raise ValueError(f"the recipe has task={config.task!r}: expected one of {', '.join(_SCHEMAS)}")
    arms, baseline = _arms(experiment, config.data.resolution)
    return replace(
        experiment,
        recipe=experiment.recipe.partition(":")[0],
        arms=arms,
        schema=_SCHEMAS[config.task],
        layout=replace(experiment.layout, evaluation=f"{{arm}}/seed{{seed}}/{benchmark.arguments[0]}"),
        benchmark=benchmark,
        report=partial(report_judged, baseline=baseline),
        prepare=None,
    )


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
