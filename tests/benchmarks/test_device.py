"""The command for accelerators: parts resume, fail alone and end in time; and all of them run, at tiny size."""

import json
import math
import sys
import types

import device
import pytest
import timing
from timing import Row


def part(monkeypatch, name, rows, seconds=100):
    """Replaces a part by a module with these rows."""
    monkeypatch.setitem(sys.modules, f"fake_{name}", types.SimpleNamespace(rows=rows))
    monkeypatch.setitem(device.PARTS, name, device.Part(f"fake_{name}", seconds, f"about {name}"))


@pytest.fixture
def parts(monkeypatch):
    """Two parts, the first of which fails once; and how often each ran."""
    calls = {"parity": 0, "attention": 0}

    def failing(size):
        calls["parity"] += 1
        yield Row("one", 1.0)
        if calls["parity"] == 1:
            raise RuntimeError("out of memory")
        yield Row("two", 2.0)

    def good(size):
        calls["attention"] += 1
        yield Row("three", 3.0, spread=(2.0, 4.0))

    part(monkeypatch, "parity", failing)
    part(monkeypatch, "attention", good)
    return calls


def test_only_what_failed_runs_again(parts, tmp_path):
    run = lambda: device.run(list(parts), "tiny", tmp_path, "abc", apart=False)  # noqa: E731
    assert run() == ["parity"]
    kept = json.loads((tmp_path / "parity.json").read_text())
    assert [row["case"] for row in kept["rows"]] == ["one"]
    assert not kept["complete"]
    assert "incomplete" in (tmp_path / "table.md").read_text()
    assert run() == []
    assert parts == {"parity": 2, "attention": 1}
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {case} |" in table for case in ("one", "two", "three"))
    assert "| 2 to 4 |" in table
    assert "incomplete" not in table


def test_no_case_begins_after_the_end(monkeypatch, tmp_path):
    part(monkeypatch, "parity", lambda size: (Row(str(i), 1.0) for i in range(9)), seconds=-1)
    device.measure("parity", "full", tmp_path, "")
    found = json.loads((tmp_path / "parity.json").read_text())
    assert [row["case"] for row in found["rows"]] == ["0", "further cases"]
    assert found["complete"]


def test_output_fits_what_a_device_sends_back():
    assert len(device.PARTS) + 1 <= 8  # files
    assert sum(part.seconds for part in device.PARTS.values()) <= 540  # of the ten minutes that one command may take


def test_the_command_lists_parts(monkeypatch, tmp_path, capsys):
    (tmp_path / "scoring.json").write_text('{"complete": true}')
    monkeypatch.setattr(sys, "argv", ["device.py", "--list", "--out", str(tmp_path)])
    device.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(device.PARTS)
    assert [line.split()[0] for line in lines if "complete" in line] == ["scoring"]


def test_an_unknown_part_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["device.py", "--parts", "parity,parody"])
    with pytest.raises(SystemExit):
        device.main()
    assert "parody" in capsys.readouterr().err


def measured(monkeypatch, tmp_path, part):
    """The rows of a part at tiny size, without PyTorch, which has a test of its own."""
    monkeypatch.setattr(timing, "find_spec", lambda name: None)
    assert device.run([part], "tiny", tmp_path, "", apart=False) == []
    rows = [Row(**row) for row in json.loads((tmp_path / f"{part}.json").read_text())["rows"]]
    rows = [row for row in rows if not row.note.startswith("not installed")]
    assert rows
    assert all(row.value is not None and math.isfinite(row.value) for row in rows)
    return rows


@pytest.mark.slow
def test_parity_is_within_its_bounds(monkeypatch, tmp_path):
    rows = measured(monkeypatch, tmp_path, "parity")
    assert [row.case for row in rows if row.note] == []
    assert len(rows) == 2 * 6


# Two starts of a process are left to tests/test_startup.py.
@pytest.mark.slow
@pytest.mark.parametrize(("part", "ours"), [("train_step", 2), ("edit_latency", 2), ("scoring", 2), ("attention", 6)])
def test_a_part_runs_at_tiny_size(monkeypatch, tmp_path, part, ours):
    rows = measured(monkeypatch, tmp_path, part)
    assert len(rows) == ours
    assert all(row.more["error"] < 1e-5 for row in rows if part == "attention")
