"""The files of an experiment's table: text, Markdown, JSON and a chart."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardedit_jax.evaluation.charts import FAINT, GRID, INK, new_figure, save_figure
from rewardedit_jax.evaluation.experiments.table import Table, key_title
from rewardedit_jax.weights.files import write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOR = "#3a6ebe"
_LINE_HEIGHT, _PANEL_WIDTH, _LABEL_WIDTH = 0.3, 1.9, 3.0  # inches


def write_table(table: Table, about: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes table.txt, .md, .json and .png, and returns the files. Without matplotlib there is no PNG, but a warning.

    Args:
      about: what was run; the JSON file has its entries, the Markdown file a sentence of them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"table.{suffix}" for suffix in ("txt", "md", "json", "png")]
    files[0].write_text(table.to_text() + "\n", "utf-8")
    files[1].write_text(f"{table.to_markdown()}\n\n{_origin(about)}\n", "utf-8")
    write_json({**about, **table.to_json()}, files[2])
    title = f"{about['paper']}, {about['table']}: {about['about']}"
    return [*files[:3], *save_if_possible(lambda: draw_table(table, title), files[3])]


def _origin(about: Mapping[str, Any]) -> str:
    """The command and what it ran."""
    steps = ", ".join(f"{arm['title']} {arm['steps']:,}" for arm in about["arms"])
    title, command = f"{about['paper']}, {about['table']}: {about['about']}", about["command"]
    overrides = " ".join(about["overrides"]) or "none"
    return (
        f"{title}. Command: `{command}`. Recipe: {about['recipe']}; "
        f"overrides: {overrides}; steps: {steps}; seeds: {about['seeds']}"
        + (f"; count: {about['count']}." if about["count"] else ".")
    )


def save_if_possible(draw: Callable[[], "Figure"], file: Path) -> list[Path]:
    """The file of a chart; nothing if matplotlib is missing: numbers are worth having without it."""
    try:
        save_figure(draw(), file)
    except ImportError as error:
        print(f"{file.name} is not drawn: {error}", file=sys.stderr)
        return []
    return [file]


def draw_table(table: Table, title: str) -> "Figure":
    """A panel for each measure: a dot and its interval for each line, and a faint dot for each seed."""
    measures = table.measures
    size = _LABEL_WIDTH + _PANEL_WIDTH * len(measures), 1.2 + _LINE_HEIGHT * len(table.lines)
    figure, panels = new_figure(*size, columns=len(measures))
    for axes, name in zip(panels, measures, strict=True):
        _draw_panel(axes, table, name)
        axes.set_title(name, loc="left", fontsize=10)
    labels = [key_title((line.arm, line.asked)) for line in table.lines]
    panels[0].set_yticks(range(len(labels)), labels)
    for axes in panels[1:]:
        axes.set_yticks(range(len(labels)), [""] * len(labels))
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("lines: 95 % bootstrap intervals over items; faint: each seed", color=FAINT, fontsize=8)
    return figure


def _draw_panel(axes: "Axes", table: Table, name: str) -> None:
    for y, line in enumerate(table.lines):
        if (value := line.values.get(name)) is None or np.isnan(value.mean):
            continue
        if value.interval:
            axes.plot(value.interval, [y, y], color=INK, linewidth=1.2)
        if len(value.per_seed) > 1:
            axes.plot(value.per_seed, [y] * len(value.per_seed), "o", color=FAINT, markersize=3, alpha=0.6)
        axes.plot([value.mean], [y], "o", color=_COLOR, markersize=5)
    axes.set_ylim(len(table.lines) - 0.4, -0.6)  # the first line at the top
    axes.grid(axis="x", color=GRID)
