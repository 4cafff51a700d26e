"""Tables of benchmarks, the place where they were measured, and their command."""

import json
import math
import sys

import reporting
from reporting import environment, markdown, print_rows
from timing import Row


def test_the_table_says_what_was_not_measured():
    row = Row("a", 1234.5, "ms", (1000, 2000.4), 1.5, 0.02, more={"MFU": 0.4})
    lines = markdown([row, Row("b", note="no GPU")]).splitlines()
    assert lines[2] == "| a | 1230 ms | 1000 to 2000 | 1.5 | 0.02 | MFU 0.4 |"
    assert lines[3] == "| b | not measured |  |  |  | no GPU |"


def test_the_place_is_named():
    where = environment(commit="abc")
    assert where["commit"] == "abc"
    assert where["device"]
    assert {"python", "jax", "flax"} <= where["versions"].keys()
    assert math.isfinite(where["load"])


def test_the_command_prints_and_writes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--json", str(tmp_path / "found.json")])
    sizes = []
    print_rows("What it measures.", lambda size: iter([sizes.append(size) or Row("a", 2.0, spread=(1.0, 3.0))]))
    assert sizes == ["small"]  # without an accelerator
    assert "| a | 2 ms | 1 to 3 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rows"][0]["value"] == 2
    assert found["environment"]["versions"]["jax"]
    assert reporting.size_of_run(False, "tiny") == "tiny"
