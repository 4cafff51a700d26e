"""Charts of reports, drawn with matplotlib (extra `plots`): bars with intervals, and reliability diagrams.

matplotlib is imported when a chart is drawn, so that every report can be printed without it.
"""

import importlib.util
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rewardedit_jax.command_line import local_path, png_file, whole_number
from rewardedit_jax.evaluation.report import Report
from rewardedit_jax.evaluation.statistics import Bin
from rewardedit_jax.weights.files import write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {"published": "#aab0be", "sound": "#3a6ebe"}
INK, FAINT, GRID = "#1c1c1e", "#808086", "#e2e2e6"
_BAR_HEIGHT = 0.3  # inches per row of a bar chart, its gap included
_DPI = 110


def require_matplotlib() -> None:
    """Raises an ImportError that names the extra, if matplotlib is missing. For use before a long computation."""
    if not importlib.util.find_spec("matplotlib"):
        raise ImportError("matplotlib is missing: charts need the extra 'plots', pip install 'rewardedit_jax[plots]'")


def draw_bars(report: Report) -> "Figure":
    """A bar for each row of a report, from 0 to 1, with a line for its interval and its numbers at the right."""
    figure, (axes,) = new_figure(9.2, 1.1 + _BAR_HEIGHT * len(report.rows))
    # Horizontal bars, as the names of measures are long.
    y = np.arange(len(report.rows))
    # NaN and negative correlations have no bar: their number at the right says what they are.
    widths = [row.value if row.value > 0 else 0.0 for row in report.rows]
    axes.barh(y, np.minimum(widths, 1), height=0.62, color=[_COLORS[row.protocol] for row in report.rows])
    for i, row in enumerate(report.rows):
        if row.interval:
            low, high = np.clip(row.interval, 0, 1)
            middle = (low + high) / 2
            axes.errorbar(middle, i, xerr=(high - low) / 2, ecolor=INK, elinewidth=1.2, capsize=3, fmt="none")
        axes.text(1.02, i, report.label(row), va="center", color=INK, fontsize=9)
    axes.set_yticks(y, [f"{row.measure}, {row.protocol}" for row in report.rows])
    axes.set_ylim(len(report.rows) - 0.4, -0.6)  # the first row at the top
    axes.set_xlim(0, 1)
    if report.percent:
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.grid(axis="x", color=GRID)
    axes.set_title(report.title, loc="left", fontsize=11)
    axes.set_xlabel("lines: 95 % bootstrap intervals", color=FAINT, fontsize=8, loc="left")
    return figure


def draw_reliability(bins: Sequence[Bin], title: str) -> "Figure":
    """A reliability diagram: observed share over stated probability 0.5..1, beside the diagonal of perfect calibration.

    The area of a dot grows with the number of items in its bin.
    """
    figure, (axes,) = new_figure(5.0, 5.0)
    stated, observed, count = np.array(bins, float).reshape(-1, 3).T
    axes.plot([0.5, 1], [0.5, 1], color=FAINT, linewidth=1, linestyle="--")
    axes.plot(stated, observed, color=_COLORS["sound"], linewidth=1.6)
    # Drawn over the frame: the most important bin often lies in the corner at (1, 1).
    axes.scatter(
        stated, observed, s=20 + 180 * count / count.max(initial=1), color=_COLORS["sound"], zorder=3, clip_on=False
    )
    axes.set_xlim(0.5, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("stated probability")
    axes.set_ylabel("share that came true")
    axes.grid(color=GRID)
    axes.set_title(title, loc="left", fontsize=10)
    return figure


def add_report_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of a benchmark that ends in a `Report`."""
    parser.add_argument("--json", type=local_path, metavar="FILE", help="file for every number")
    parser.add_argument("--png", type=png_file, metavar="FILE", help="file for a bar chart (extra 'plots')")
    parser.add_argument("--seed", type=whole_number, default=0, help="seed of the bootstrap (default: 0)")


def save_report(report: Report, json_file: Path | None, png_file: Path | None) -> None:
    """Writes the files that are given: every number, and the bar chart."""
    if json_file:
        write_json(report.to_json(), json_file)
    if png_file:
        save_figure(draw_bars(report), png_file)


def save_figure(figure: "Figure", file: Path) -> None:
    """Writes a figure as an image file, and its directory where missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # "tight" grows the page to the labels outside the axes, whose lengths depend on the report.
    figure.savefig(file, dpi=_DPI, bbox_inches="tight", facecolor="white")


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1) -> "tuple[Figure, Sequence[Axes]]":
    """A figure of this size in inches and its axes, row by row, without the frame at the top and at the right."""
    require_matplotlib()
    # Figure without pyplot: no global state to close, no display; savefig uses the Agg renderer.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=9)
    return figure, panels
