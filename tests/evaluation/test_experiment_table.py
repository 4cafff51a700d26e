"""The table of an experiment: its arithmetic against numbers worked out by hand, and its four forms."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.evaluation.experiments.table import Estimate, Samples, make_table
from rewardedit_jax.evaluation.experiments.table_files import write_table
from rewardedit_jax.evaluation.report import TextTable

BASE, BEST = ("plain", ""), ("tuned", "5")
ABOUT = {
    "name": "table1", "paper": "A paper", "table": "table 1", "about": "this and that", "command": "python x.py",
    "recipe": "a.py:shapes", "overrides": ["--config.steps=3"], "seeds": 2, "count": 2,
    "arms": [{"title": "plain", "steps": 1200}],
}  # fmt: skip


def samples(*of_seeds, counts=None):
    values = np.asarray(of_seeds, float)
    return Samples(values, np.ones(values.shape[1]) if counts is None else np.asarray(counts))


def test_means_over_items_and_seeds():
    found = samples([1, 3], [3, 5]).estimate()
    assert (found.mean, found.per_seed) == (3, (2, 4))
    assert found.interval == (2, 4)  # of the items' means over seeds, 2 and 4


def test_an_item_may_count_several_things():
    """Groups with 3, 1 and no pairs: the mean is over pairs."""
    found = samples([3, 0, 0], counts=[3, 1, 0]).estimate()
    assert found.mean == 0.75
    low, high = found.interval
    assert 0 <= low < 0.75 < high <= 1


def test_what_is_no_mean_over_items_has_no_interval():
    assert samples([0.3], [0.5]).estimate() == Estimate(0.4, None, (0.3, 0.5))


def test_nothing_counted_is_undefined():
    found = samples([0, 0], counts=[0, 0]).estimate()
    assert np.isnan(found.mean)
    assert found.to_json() == {"mean": None, "interval": None, "per_seed": [None]}
    assert found.text(".2f", several=False) == "–"


def test_differences_are_paired():
    """Items differ much but all have the same gain: its interval is a point although those of the means overlap."""
    table = make_table({BASE: {"m": samples([0, 4, 1, 3])}, BEST: {"m": samples([0.5, 4.5, 1.5, 3.5])}}, BASE)
    gain = table.line(*BEST).gains["m"]
    assert (gain.mean, *gain.interval) == pytest.approx((0.5, 0.5, 0.5))
    assert table.line(*BASE).gains == {}
    low, high = table.line(*BEST).values["m"].interval
    assert high - low > 1


def test_one_seed_stands_for_all():
    difference = samples([1, 1], [3, 3]).minus(samples([1, 2]))
    assert difference.estimate().per_seed == (-0.5, 1.5)


def test_unequal_items_cannot_be_paired():
    for other in (samples([1, 2, 3]), samples([1, 2], counts=[1, 2])):
        with pytest.raises(ValueError, match="unequal items"):
            make_table({BASE: {"m": samples([1, 2])}, BEST: {"m": other}}, BASE)


@pytest.fixture
def table():
    found = {BASE: {"a": samples([1, 3], [2, 4]), "b": samples([1, 1], [1, 1])}, BEST: {"a": samples([2, 4], [4, 6])}}
    fixed = {"nothing done": {"a": samples([0, 0])}}
    return make_table(found, BASE, fixed).with_notes("A note.", detail=[1])


def test_text_and_markdown_say_the_same(table):
    for form in (table.to_text(), table.to_markdown()):
        assert "4.00 ± 1.41" in form  # of 3 and 5
        assert "+1.50 ± 0.71" in form  # of 1 and 2
        assert "2 training seeds" in form
        assert 'Δ: over "plain"' in form
        assert "A note." in form
    rows = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    heading, _, fixed, plain, tuned, *_ = table.to_text().splitlines()
    assert heading.index("a  ") == fixed.index("0.00") == plain.index("2.50") == tuned.index("4.00")


def test_one_seed_shows_intervals():
    text = make_table({BASE: {"a": samples([1, 3])}}).to_text()
    assert "2.00 [1.00, 3.00]" in text
    assert "asked for" not in text
    assert "Δ" not in text


def test_the_json_has_every_number(table, tmp_path):
    files = write_table(table, ABOUT, tmp_path)
    found = json.loads(files[2].read_text())
    assert {*ABOUT, "rows", "differences", "notes", "details"} == found.keys()
    assert found["rows"][-1] == {
        "arm": "tuned", "asked": "5", "measure": "a", "mean": 4.0, "interval": [3.0, 5.0], "per_seed": [3.0, 5.0]
    }  # fmt: skip
    (difference,) = found["differences"]
    assert (difference["over"], difference["measure"], difference["per_seed"]) == (["plain", ""], "a", [1.0, 2.0])
    assert (found["details"], found["notes"]) == ({"detail": [1]}, ["A note."])


def test_the_files(table, tmp_path):
    pytest.importorskip("matplotlib")
    files = write_table(table, ABOUT, tmp_path / "new")
    assert [file.name for file in files] == ["table.txt", "table.md", "table.json", "table.png"]
    markdown = files[1].read_text()
    assert all(word in markdown for word in ("`python x.py`", "a.py:shapes", "--config.steps=3", "plain 1,200"))
    assert Image.open(files[3]).width > 300


def test_without_matplotlib_the_numbers_are_written(table, tmp_path, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: name != "matplotlib" and find_spec(name, *a))
    assert [file.name for file in write_table(table, ABOUT, tmp_path)] == ["table.txt", "table.md", "table.json"]
    assert "table.png is not drawn" in capsys.readouterr().err


def test_further_tables_come_last(table):
    from dataclasses import replace

    shown = replace(table, further=(TextTable(["x"], [["1"]], "By type"),)).to_text()
    assert shown.index("A note.") < shown.index("By type")
