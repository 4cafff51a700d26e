"""AURORA's test set as a benchmark of editors: edits of several data sets, many of them actions (arXiv:2407.03471).

The judge answers Real-Edit's three questions about each edit. The target images serve the metrics.
"""

from pathlib import Path

from rewardedit_jax.data.encoded import AskedEdits
from rewardedit_jax.data.layouts import LAYOUTS, Options
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Benchmark, Item, Requests, open_edits_of, requests_of
from rewardedit_jax.evaluation.editing_benchmarks.magicbrush import METRICS
from rewardedit_jax.evaluation.editing_benchmarks.real_edit import QUESTIONS, RUBRICS
from rewardedit_jax.reward import PERSPECTIVES

NAME = "aurora_edits"
_LAYOUT = "aurora"  # as launch/prepare_data.py names it


def open_aurora_edits(path: Path) -> Requests:
    stored, labels, missing = open_edits_of(path, _LAYOUT, _published)
    items = [
        # Keys are "number in the list:path of the target".
        Item(label, number, f"{label.key.partition(':')[0]}.png", str(label.extra.get("input", label.key)))
        for number, label in enumerate(labels)
    ]
    return requests_of(stored, items, missing)


def _published(path: Path) -> AskedEdits:
    return LAYOUTS[_LAYOUT].open(path, Options())


AURORA_EDITS = Benchmark(
    NAME,
    "AURORA's test set: edits of objects and actions, by data set",
    version=1,
    asked=QUESTIONS,
    rubrics=RUBRICS,
    open=open_aurora_edits,
    measures=PERSPECTIVES,
    metrics=METRICS,
)
