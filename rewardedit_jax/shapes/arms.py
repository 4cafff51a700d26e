"""Experiments of the shapes world as data: `EDITORS` and `SCORERS`. `experiment` runs them.

An experiment names its arms, the directories of their files, the benchmark that evaluates a trained model, and the
function that turns results into a table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.comparison_report import report_editors
from rewardedit_jax.shapes.editor_benchmark import BASELINE, COUNT, FULL
from rewardedit_jax.shapes.examples import prepare_shapes
from rewardedit_jax.shapes.preferences import prepare_shapes_preferences
from rewardedit_jax.shapes.scorer_benchmark import report_scorers
from rewardedit_jax.shapes.tasks import ShapesEditingTask, ShapesScoringTask
from rewardedit_jax.training.recipe import PREFIX, TrainingRecipe


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
    schema: type[TrainingRecipe]
    training: str  # working directory of train.py
    model: str  # the file that train.py writes last, below `training`
    evaluation: str  # directory of result.json, which evaluate.py writes
    log: str
    benchmark: tuple[str, ...]  # arguments of evaluate.py, with {training}, {evaluation} and {result} for paths
    count_field: str  # field of result.json with the number of scenes or groups
    prepare_data: Callable[[str, int, int], Path]  # (root, train, test) → directory
    # (workdir, title → result.json of each seed, count) → files written
    report: Callable[[Path, Mapping[str, Sequence[Path]], int], list[Path]]


# The ablations of Multi-Reward as Condition: table 4 (scores, feedback), table 5 (attention, addition), table 10 (each
# perspective). The recipe itself uses all of them.
EDITORS = Experiment(
    arms={
        BASELINE: Arm((f"{PREFIX}reward.layout=",)),
        "scores": Arm((f"{PREFIX}reward.sources=('scores',)",)),
        "feedback": Arm((f"{PREFIX}reward.sources=('text',)",)),
        "attention": Arm((f"{PREFIX}reward.paths=('attention',)",)),
        "addition": Arm((f"{PREFIX}reward.paths=('addition',)",)),
        **{perspective: Arm((f"{PREFIX}reward.perspectives=('{perspective}',)",)) for perspective in PERSPECTIVES},
        FULL: Arm(),
    },
    schema=ShapesEditingTask.schema,
    training="{arm}/seed{seed}/training",
    model="model/model_index.json",
    evaluation="{arm}/seed{seed}/evaluation",
    log="{arm}/seed{seed}/log.txt",
    benchmark=("shapes", "--model", "{training}", "--output", "{evaluation}"),
    count_field=COUNT,
    prepare_data=prepare_shapes,
    report=report_editors,
)


def _ranking(title: str, objective: str, ties: str) -> Arm:
    """An arm that fine-tunes the scorer of the arm `ratings` on preferences."""
    overrides = (f"{PREFIX}objective.name={objective}", f"{PREFIX}data.ties={ties}")
    # A scorer that starts from ratings needs a tenth of the learning rate and a twentieth of the steps of the recipe.
    return Arm(overrides, (f"{PREFIX}steps=1000", f"{PREFIX}optimizer.learning_rate=1e-4"), "ratings", title)


# EditReward, section 3.3 (ties) and eq. 4 (-log P): all rankings start from the same regression of ratings.
SCORERS = Experiment(
    arms={
        "ratings": Arm(),
        "strict": _ranking("ranking, strict pairs", "uncertainty", "strict only"),
        "ties": _ranking("ranking, ties disentangled", "uncertainty", "disentangle"),
        "probability": _ranking("the same by -log P", "negative_log_probability", "disentangle"),
        "thurstone": _ranking("the same by Thurstone", "thurstone", "disentangle"),
    },
    schema=ShapesScoringTask.schema,
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
