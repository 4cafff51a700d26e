"""The papers' experiments in the shapes world, as data: one for each table, by the name of its command.

Arms that several experiments have under the same name are the same training, so that a comparison finds those of its
neighbours.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from rewardedit_jax.evaluation.experiments.experiment import Arm, Benchmark, Experiment, Layout
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.comparison_report import report_asked, report_editors
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL
from rewardedit_jax.shapes.examples import prepare_shapes
from rewardedit_jax.shapes.hard_samples import report_hard_samples
from rewardedit_jax.shapes.pixel_report import report_existing_metrics, report_pixels
from rewardedit_jax.shapes.position_benchmark import report_positions
from rewardedit_jax.shapes.preferences import prepare_shapes_preferences
from rewardedit_jax.shapes.reader_report import report_readers
from rewardedit_jax.shapes.scorer_benchmark import report_scorers
from rewardedit_jax.shapes.tasks import ShapesEditingTask, ShapesScoringTask
from rewardedit_jax.training.recipe import PREFIX

MULTI_REWARD = "Multi-Reward as Condition (arXiv:2411.04713)"
EDIT_REWARD = "EditReward (arXiv:2509.26346)"
SMART_EDIT = "SmartEdit (arXiv:2312.06739)"
_PIXELS = 64  # of the second training of table 11; the world has 32
# Of the small data of EditReward's table 7: a ranking of 1000 steps reads their pairs nearly three times.
FEW_GROUPS = 2000


def _prepare_editing(data: ConfigDict) -> Path:
    return prepare_shapes(data.root, data.train, data.test)


def _prepare_scoring(data: ConfigDict) -> Path:
    return prepare_shapes_preferences(data.root, data.train, data.test)


def _benchmark(name: str, *output: str) -> Benchmark:
    return Benchmark((name, *output, "--count", "{count}"))


# Editors.

_editors = partial(
    Experiment,
    paper=MULTI_REWARD,
    recipe="reward_ip2p.py:shapes",
    schema=ShapesEditingTask.schema,
    layout=Layout(
        training="{arm}/seed{seed}/training",
        model="model/model_index.json",
        evaluation="{arm}/seed{seed}/evaluation",
        log="{arm}/seed{seed}/log.txt",
    ),
    benchmark=_benchmark("shapes", "--output", "{evaluation}"),
    prepare=_prepare_editing,
)
_report_arms = partial(report_editors, every_arm=True)

_PLAIN = {BASELINE: Arm((f"{PREFIX}reward.layout=",))}
_FULL = {FULL: Arm()}  # the recipe itself uses all parts
_SOURCES = {
    "scores": Arm((f"{PREFIX}reward.sources=('scores',)",)),
    "feedback": Arm((f"{PREFIX}reward.sources=('text',)",)),
}
_PATHS = {name: Arm((f"{PREFIX}reward.paths=('{name}',)",)) for name in ("attention", "addition")}
_PERSPECTIVES = {name: Arm((f"{PREFIX}reward.perspectives=('{name}',)",)) for name in PERSPECTIVES}
_START = {"start": Arm((f"{PREFIX}reward.layout=",), trained=False, title="start editor")}
_RESOLUTIONS = {
    FULL: Arm(title="32 pixels"),
    "large": Arm((f"{PREFIX}data.resolution={_PIXELS}",), title=f"{_PIXELS} pixels"),
}
# Both train all that reads an instruction, on the same edits from the same U-Net and for as many steps.
_READERS = {
    "text encoder": Arm((
        f"{PREFIX}reward.layout=",
        f"{PREFIX}trainable=(('(unet|text_encoder)/.*', True), ('vae/.*', False))",
        f"{PREFIX}data.root=runs/shapes-data-stage1",
        f"{PREFIX}data.train=60000",
    ), defaults=(f"{PREFIX}steps=1000",), recipe="reward_ip2p.py:shapes"),
    "language model": Arm(),
}  # fmt: skip

_EDITING = (
    _editors("table1", table="table 1", about="training without reward, and with it", arms=_PLAIN | _FULL,
             report=report_editors),
    _editors("table2", table="table 2", about="distance to the ideal edit, as on MagicBrush", arms=_PLAIN | _FULL,
             report=report_pixels),
    _editors("table4", table="table 4", about="scores, feedback or both", arms=_PLAIN | _SOURCES | _FULL,
             report=_report_arms),
    _editors("table5", table="table 5", about="attention, addition or both", arms=_PLAIN | _PATHS | _FULL,
             report=_report_arms),
    _editors("table6", table="table 6", about="scores 5 to 0 asked for", arms=_FULL, report=report_asked),
    _editors("table7", table="table 7", about="existing metrics beside the judge", arms=_PLAIN | _FULL,
             report=report_existing_metrics),
    _editors("table8", table="table 8", about="the data without rewards as control", arms=_START | _PLAIN | _FULL,
             report=_report_arms),
    replace(
        _editors("table9", table="table 9", about="hard training samples edited again", arms=_FULL, count=500,
                 report=report_hard_samples),
        layout=replace(_editors.keywords["layout"], evaluation="{arm}/seed{seed}/hard"),
        benchmark=_benchmark("shapes_hard", "--output", "{evaluation}"),
    ),
    _editors("table10", table="table 10", about="one perspective at a time", arms=_PLAIN | _PERSPECTIVES | _FULL,
             report=_report_arms),
    _editors("table11", table="table 11", about="training at two resolutions", arms=_RESOLUTIONS,
             report=partial(_report_arms, baseline=(_RESOLUTIONS[FULL].title, "5"))),
    _editors("ablations", table="tables 4, 5 and 10", about="their arms in one table", report=report_editors,
             arms=_PLAIN | _SOURCES | _PATHS | _PERSPECTIVES | _FULL),
    _editors("smartedit_table1", recipe="reward_smartedit.py:shapes", table="table 1", about="the same of SmartEdit",
             arms=_START | _PLAIN | _FULL, report=report_editors),
    _editors("readers", paper=SMART_EDIT, recipe="smartedit.py:shapes", table="its claim",
             about="a language model that sees, in place of a text encoder", arms=_READERS, count=512,
             report=report_readers),
)  # fmt: skip


# Scorers.

_scorers = partial(
    Experiment,
    paper=EDIT_REWARD,
    recipe="edit_reward.py:shapes",
    schema=ShapesScoringTask.schema,
    layout=Layout(
        training="{arm}-{seed}",
        model="model/tokenizer.json",
        evaluation="{arm}-{seed}/evaluation",
        log="{arm}-{seed}.log",  # not in the training's directory, which has to be empty at its start
    ),
    benchmark=_benchmark("shapes_scorer", "--json", "{result}"),
    report=report_scorers,
    prepare=_prepare_scoring,
)


def _tuned(title: str, objective: str, ties: str, *more: str) -> Arm:
    """An arm that fine-tunes the scorer of the arm `ratings`. `more`: "field=value"."""
    overrides = (f"objective.name={objective}", f"data.ties={ties}", *more)
    # A scorer that starts from ratings needs a tenth of the learning rate and a twentieth of the steps of the recipe.
    defaults = (f"{PREFIX}steps=1000", f"{PREFIX}optimizer.learning_rate=1e-4")
    return Arm(tuple(PREFIX + word for word in overrides), defaults, "ratings", title)


def _width(title: str, times: float) -> Arm:
    """The recipe's network with all widths multiplied. The width of an attention head stays."""
    text = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {"hidden_size": 96, "intermediate_size": 192, "num_heads": 4, "out_hidden_size": 128}
    sizes = [f"{PREFIX}network.{part}.{field}={int(times * size)}"
             for part, of in (("text", text), ("vision", vision)) for field, size in of.items()]  # fmt: skip
    return Arm(tuple(sizes), title=title)


_RATINGS = {"ratings": Arm()}
_STRICT = {"strict": _tuned("ranking, strict pairs", "uncertainty", "strict only")}
_TIES = {"ties": _tuned("ranking, ties disentangled", "uncertainty", "disentangle")}
_LOSSES = {
    "probability": _tuned("the same by -log P", "negative_log_probability", "disentangle"),
    "thurstone": _tuned("the same by Thurstone", "thurstone", "disentangle"),
}
_FEW = {
    f"{name}-few": replace(arm, overrides=(*arm.overrides, f"{PREFIX}data.train={FEW_GROUPS}"),
                           title=f"{arm.title}, {FEW_GROUPS:,} groups")
    for name, arm in (_STRICT | _TIES).items()
}  # fmt: skip
_DESIGNS = {
    "regression": _tuned("point-wise", "reg", "marked"),
    "shared": _tuned("pair-wise, shared head, mean", "uncertainty", "disentangle", "heads.kind=shared"),
    "min": _tuned("pair-wise, multiple heads, min", "uncertainty", "disentangle", "heads.aggregation=min"),
    "sum": _tuned("pair-wise, multiple heads, sum", "uncertainty", "disentangle", "heads.aggregation=sum"),
    "ties": replace(_TIES["ties"], title="pair-wise, multiple heads, mean"),
}
_WIDTHS = {"half": _width("half the width", 0.5), **_RATINGS, "double": _width("twice the width", 2)}
_SHIPPED = {"shipped": Arm((f"{PREFIX}init=shapes_scorer",), trained=False, title="shapes_scorer, as it ships")}

_SCORING = (
    _scorers("editreward_table4", table="table 4", about="loss, heads and aggregation", arms=_RATINGS | _DESIGNS),
    _scorers("editreward_table5", table="table 5", about="size of the backbone", arms=_WIDTHS),
    _scorers("editreward_table7", table="table 7", about="size of the data, and ties disentangled",
             arms=_RATINGS | _FEW | _STRICT | _TIES),
    replace(
        _scorers("editreward_table8", table="table 8", about="position bias", arms=_SHIPPED),
        layout=replace(_scorers.keywords["layout"], evaluation="{arm}-{seed}-positions"),
        benchmark=_benchmark("shapes_positions", "--output", "{evaluation}"),
        report=report_positions,
    ),
    _scorers("scorers", table="tables 4 and 7, and eq. 4", about="ratings, then four rankings",
             arms=_RATINGS | _STRICT | _TIES | _LOSSES),
)  # fmt: skip

EXPERIMENTS: Mapping[str, Experiment] = {experiment.name: experiment for experiment in (*_EDITING, *_SCORING)}
