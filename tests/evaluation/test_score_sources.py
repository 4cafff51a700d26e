"""Scores from a file: how edits are found in it, and the lines that are errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from rewardedit_jax.evaluation.reward_models.edits import Edit, Unscored, score_edits
from rewardedit_jax.evaluation.reward_models.records import read_scores


def line(edited="b.png", overall=0.5, **more):
    return {"source": "a.png", "edited": edited, "instruction": "make it snow", "overall": {"mean": overall}, **more}


@pytest.fixture
def write(tmp_path):
    def to(*lines):
        file = tmp_path / "scores.jsonl"
        file.write_text("".join(json.dumps(x) + "\n" for x in lines))
        return file

    return to


def edit(source, edited):
    return Edit(source, edited, "make it snow")


def test_scores_are_found_by_file_in_any_spelling(write):
    stored = read_scores(write(line(), line("c.png", -1, following={"mean": 2.0, "std": 1}, quality=None)))
    found = score_edits(stored, [edit(Path("a.png"), Path("x/../c.png")), edit(Path("./a.png"), Path("b.png"))])
    np.testing.assert_array_equal(found, [[2, -1, -1], [0.5, 0.5, 0.5]])


def test_different_scores_of_an_edit_are_no_score(write):
    assert len(read_scores(write(line(), line())).scores) == 1
    stored = read_scores(write(line(), line(overall=0.6), line("c.png")))
    assert score_edits(stored, [edit(Path("a.png"), Path("c.png"))]).tolist() == [[0.5] * 3]
    with pytest.raises(ValueError, match=r"b\.png has different scores, the last in line 2"):
        score_edits(stored, [edit(Path("a.png"), Path("b.png"))])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "a.png", "instruction": "x"}, "line 1: .*`edited`"),
        (["a.png"], "line 1: expected `object`"),
        ({**line(), "instruction": ["x"]}, r"line 1: instruction=\['x'\]"),
        ({**line(), "edited": "b\0.png"}, r"line 1: edited='b\\x00"),
    ],
)
def test_lines_without_an_edit_are_named(write, entry, message):
    file = write(entry, line())
    file.write_text(file.read_text() + "{")
    with pytest.raises(ValueError, match=rf"scores\.jsonl:(.*\n)+  {message}") as measured:
        read_scores(file)
    assert "line 3: not JSON" in str(measured.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overall": {"mean": "good"}}, "overall.mean='good'"),
        ({"overall": {"mean": None}}, "overall.mean=None"),
        ({"overall": {"mean": float("nan")}}, "overall.mean=nan"),
        ({"overall": {"mean": float("inf")}}, "overall.mean=inf"),
        ({"overall": {"mean": 10**400}}, "overall.mean=1000"),
        ({"overall": {"mean": True}}, "overall.mean=True"),
        ({"overall": None}, "expected overall or error"),
        ({"following": {"mean": "a"}}, "following.mean='a'"),
    ],
)
def test_scores_that_are_no_numbers_matter_for_their_own_edit(write, changes, message):
    """--skip-bad allows them like an image that cannot be read."""
    stored = read_scores(write(line("c.png"), {**line(), **changes}))
    asked = [edit(Path("a.png"), Path(name)) for name in ("c.png", "b.png")]
    assert score_edits(stored, asked[:1]).tolist() == [[0.5] * 3]
    with pytest.raises(ValueError, match=rf"1 of 2 edits .*\n.*b\.png was not scored \(line 2: {message}"):
        score_edits(stored, asked)
    unscored = Unscored(allowed=1)
    assert np.isnan(score_edits(stored, asked, unscored)).all(1).tolist() == [False, True]
    assert list(unscored.reasons) == [1]


def test_a_file_may_begin_with_a_byte_order_mark_but_is_utf_8(tmp_path):
    file = tmp_path / "scores.jsonl"
    file.write_text(json.dumps(line()), "utf-8-sig")
    assert len(read_scores(file).scores) == 1
    file.write_text(json.dumps(line()), "utf-16")
    assert len(read_scores(file).scores) == 1
    file.write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"scores\.jsonl: not UTF-8"):
        read_scores(file)


def test_a_stored_error_matters_only_for_its_own_edit(write):
    error = {key: value for key, value in line("c.png").items() if key != "overall"} | {"error": "no image"}
    stored = read_scores(write(line(), error, {**error, "edited": "b.png"}))
    asked = [edit(Path("a.png"), Path(name)) for name in ("b.png", "c.png")]
    np.testing.assert_array_equal(score_edits(stored, asked[:1]), [[0.5] * 3])  # b.png has its score in line 1
    with pytest.raises(ValueError, match=r"1 of 2 edits .*\n.*/.*c\.png was not scored \(line 2: no image\)"):
        score_edits(stored, asked)


def test_images_inside_a_file_have_no_stored_scores(write):
    with pytest.raises(ValueError, match=r"inside its parquet files.*--model"):
        score_edits(read_scores(write(line())), [edit(b"...", b"...")])
