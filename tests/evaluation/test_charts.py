"""Charts: bars and intervals have the lengths of their numbers; a missing matplotlib is named with its extra."""

import importlib.util
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.evaluation.charts import (
    draw_bars,
    draw_reliability,
    require_matplotlib,
    save_figure,
    save_report,
)
from rewardedit_jax.evaluation.report import Report, Row
from rewardedit_jax.evaluation.statistics import Bin

ROWS = [
    Row("a", "published", 0.5, "4 votes"),
    Row("a", "sound", 0.25, "4 votes", (0.125, 0.75)),
    Row("b", "sound", math.nan, "0 votes"),
    Row("c", "sound", -0.5, "4 votes", (-0.75, 0.25)),
]
REPORT = Report("A benchmark", ROWS, [], {}, percent=False)


def render(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def test_bars_have_the_length_of_their_values():
    (axes,) = draw_bars(REPORT).axes
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.25, 0, 0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "a, published",
        "a, sound",
        "b, sound",
        "c, sound",
    ]
    assert [text.get_text() for text in axes.texts] == [
        "0.5000",
        "0.2500 [0.1250, 0.7500]",
        "undefined",
        "-0.5000 [-0.7500, 0.2500]",
    ]


def test_intervals_are_drawn_where_there_are_any():
    """Ends outside 0..1 lie at the border."""
    (axes,) = draw_bars(REPORT).axes
    lines = [segment[:, 0].tolist() for bars in axes.containers[1:] for segment in bars[2][0].get_segments()]
    assert lines == [pytest.approx([0.125, 0.75]), pytest.approx([0, 0.25])]


def test_protocols_differ_in_color():
    picture = render(draw_bars(REPORT))
    for color in ((170, 176, 190), (58, 110, 190)):
        assert (picture == color).all(axis=2).sum() > 100


def test_the_reliability_diagram_has_a_dot_per_bin():
    figure = draw_reliability([Bin(0.6, 0.5, 10), Bin(0.9, 1.0, 40)], "a scorer")
    (axes,) = figure.axes
    (dots,) = axes.collections
    np.testing.assert_allclose(dots.get_offsets(), [(0.6, 0.5), (0.9, 1.0)])
    assert dots.get_sizes()[0] < dots.get_sizes()[1]
    assert (render(figure) == (58, 110, 190)).all(axis=2).sum() > 300


@pytest.mark.parametrize("bins", [[], [Bin(math.nan, math.nan, 3)], [Bin(0.6, 0.5, 0)]])
def test_a_reliability_diagram_without_numbers(bins):
    assert render(draw_reliability(bins, "a scorer")).size


@pytest.mark.parametrize("interval", [None, (math.nan, math.nan), (-math.inf, math.inf), (math.nan, 0.5)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bars_without_finite_numbers(value, interval):
    report = Report("A benchmark", [Row("a", "sound", value, "0 votes", interval)], [], {}, percent=True)
    assert render(draw_bars(report)).size


def test_missing_directories_are_made(tmp_path):
    save_figure(draw_reliability([Bin(0.6, 0.5, 10)], "a scorer"), tmp_path / "new" / "curve.png")
    assert Image.open(tmp_path / "new" / "curve.png").width > 300


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"matplotlib.*rewardedit_jax\[plots\]"):
        require_matplotlib()
    with pytest.raises(ImportError, match=r"rewardedit_jax\[plots\]"):
        draw_bars(REPORT)


def test_files_are_written_where_asked(tmp_path):
    json_file, png_file = tmp_path / "new" / "out.json", tmp_path / "new" / "out.png"
    save_report(REPORT, json_file, None)
    assert not png_file.exists()
    assert json.loads(json_file.read_text())["title"] == "A benchmark"
    save_report(REPORT, None, png_file)
    assert png_file.stat().st_size > 0
