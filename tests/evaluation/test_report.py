"""Reports and tables: one content as text, Markdown and JSON."""

import json
import math

import numpy as np

from rewardedit_jax.evaluation.report import Report, Row, TextTable, aligned, note_repeated, plus_minus, sound_share

ROWS = (
    Row("accuracy", "published", 0.5354, "919 votes"),
    Row("accuracy", "sound", 0.25, "4 votes", (0.1, 0.5)),
    Row("undefined", "sound", math.nan, "0 votes"),
)
REPORT = Report("A benchmark", ROWS, ["A note."], {"seed": 3, "nested": {"r": [math.nan, 1.0]}}, percent=True)


def test_three_forms_have_the_same_content():
    text, markdown, content = REPORT.to_text(), REPORT.table().to_markdown(), REPORT.to_json()
    for form in (text, markdown):
        assert all(
            part in form for part in ("A benchmark", "53.54", "[10.00, 50.00]", "undefined", "919 votes", "A note.")
        )
    assert content["rows"][0] == {"measure": "accuracy", "protocol": "published", "value": 0.5354, "of": "919 votes",
                                  "interval": None}  # fmt: skip
    assert content["rows"][1]["interval"] == [0.1, 0.5]
    assert content["rows"][2]["value"] is None
    assert (content["seed"], content["nested"], content["notes"]) == (3, {"r": [None, 1.0]}, ["A note."])
    json.dumps(content, allow_nan=False)


def test_correlations_are_not_percentages():
    report = Report("r", ROWS[1:2], [], {}, percent=False)
    assert "0.2500" in report.to_text()
    assert "[0.1000, 0.5000]" in report.to_text()


def test_columns_are_aligned():
    heading, rule, first, second = aligned(("name", "n"), [("a", "1"), ("longer", "22")])
    assert heading.index("n", 4) == first.index("1") == second.index("22")
    assert rule == "------  --"


def test_markdown_has_as_many_cells_in_every_row():
    lines = TextTable(("name", "n"), [("a", "1"), ("b", "")], notes=["n: number."]).to_markdown().splitlines()
    assert {line.count("|") for line in lines if line.startswith("|")} == {3}
    assert lines[-1] == "n: number."


def test_notes_are_added():
    report = REPORT.with_notes((["Another."], {"more": 1}), ([], {}))
    assert report.notes == ["A note.", "Another."]
    assert report.values == {**REPORT.values, "more": 1}
    assert REPORT.notes == ["A note."]


def test_plus_minus():
    assert plus_minus(1.234, 0.056) == "1.23 ± 0.06"
    assert plus_minus(1.234, 0.056, "+.1f") == "+1.2 ± 0.1"
    assert plus_minus(-1.234, None, "+.2f") == "-1.23"


def test_a_share_counts_pairs_and_resamples_groups():
    """Two groups of one and three pairs: 3 of 4 right; a resample has 0/2, 3/4 or 6/6 right pairs."""
    row = sound_share("pairs", np.array([0, 3]), "pairs", 0, np.array([1, 3]))
    assert (row.value, row.of, row.protocol) == (0.75, "4 pairs", "sound")
    assert row.interval == (0, 1)


def test_a_share_of_nothing_is_undefined():
    row = sound_share("pairs", np.zeros(2), "pairs", 0, np.zeros(2, int))
    assert math.isnan(row.value)
    assert row.interval is None


def test_repeated_items():
    notes, values = note_repeated(list("abcab"), [1, 2, 3, 1, 9], "pairs")
    assert values == {"contradictory": {"pairs": 1, "first": [[1, 4]]}, "repeated": {"pairs": 1, "first": [[0, 3]]}}
    assert "items 1 = 4" in notes[0]
    assert note_repeated("ab", [1, 1], "pairs")[0] == []
