"""What a comparison of editors writes, from made-up results: edits that are ideal, imperfect or missing."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.shapes import comparison_report as module
from rewardedit_jax.shapes.asked import ASKED, FURTHER
from rewardedit_jax.shapes.comparison_report import (
    curve_of,
    dark_errors,
    grid_of,
    report_editors,
    table_of,
    types_of,
)
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL, Result, held_out_scenes, score

COUNT = 16


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(COUNT)


def result_of(scenes, **pictures):
    stacks = {asked: np.stack([getattr(s, name) for s in scenes]) for asked, name in pictures.items()}
    further = {label: np.tile(np.float32(ASKED[label]), (5, 1)) for label in FURTHER if "5" in pictures}
    return Result({asked: score(p, scenes) for asked, p in stacks.items()}, stacks, further)


@pytest.fixture(scope="module")
def results(scenes):
    plain = result_of(scenes, none="edited")
    rewarded = result_of(scenes, **{"5": "ideal", "3": "edited", "0": "source"})
    return {BASELINE: [plain, plain], FULL: [rewarded, rewarded]}


@pytest.fixture
def files(results, tmp_path):
    """The arguments `workdir` and `results` of `report_editors`."""
    for arm, of_seeds in results.items():
        for seed, result in enumerate(of_seeds):
            result.save(tmp_path / arm / str(seed), {})
    return tmp_path, {arm: [tmp_path / arm / str(i) / "result.json" for i in range(2)] for arm in results}


def test_files_have_both_tables_and_all_numbers(files, results, scenes, capsys):
    pytest.importorskip("matplotlib")
    written = report_editors(*files, COUNT)
    assert [file.name for file in written] == ["table.txt", "table.md", "table.json", "grid.png", "curve.png"]
    text, markdown = written[0].read_text(), written[1].read_text()
    assert capsys.readouterr().out == text
    for form in (text, markdown):
        assert form.index("Δ following") < form.index("Dark scenes") < form.index("local (")
        assert f"{BASELINE} 0.0" in form  # the brightness error
    found = json.loads(written[2].read_text())
    assert (found["scenes"], found["seeds"], found["baseline"]) == (COUNT, 2, BASELINE)
    assert [(row["arm"], row["asked"]) for row in found["types"]["rows"]] == [
        (BASELINE, "none"),
        (FULL, "5"),
        (FULL, "0"),
    ]
    assert sum(found["types"]["scenes"].values()) == COUNT
    assert found["curve"]["points"]["following 0"]["mean"] == [0, 5, 5]
    np.testing.assert_array_equal(np.asarray(Image.open(written[3])), grid_of(results, scenes))


def test_tables_in_markdown_stand_apart(files):
    """A line that touches a table would become a row of it."""
    lines = report_editors(*files, COUNT)[1].read_text().splitlines()
    rows = [line.startswith("|") for line in lines]
    starts = [i for i, row in enumerate(rows) if row and (i == 0 or not rows[i - 1])]
    assert len(starts) == 2
    assert all(not lines[i - 1] for i in starts if i)
    assert all(lines[i + 1] == "" for i, row in enumerate(rows) if row and not rows[i + 1])


def test_without_matplotlib_all_but_the_curve_is_written(files, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: name != "matplotlib" and find_spec(name, *a))
    written = report_editors(*files, COUNT)
    assert [file.name for file in written] == ["table.txt", "table.md", "table.json", "grid.png"]
    assert all(file.is_file() for file in written)
    assert "rewardedit_jax[plots]" in capsys.readouterr().err


def test_the_baseline_alone_has_no_curve(files, capsys):
    workdir, of_arms = files
    written = report_editors(workdir, {BASELINE: of_arms[BASELINE]}, COUNT)
    assert written[-1].name == "grid.png"
    assert json.loads(written[2].read_text())["curve"] is None
    assert capsys.readouterr().err == ""


def test_table_compares_with_training_without_reward(results, scenes):
    table = table_of(results, scenes)
    rows = {(row.arm, row.asked): row for row in table.rows}
    best, plain = rows[FULL, "5"], rows[BASELINE, "none"]
    np.testing.assert_allclose(best.gain.mean, np.subtract(best.scores.mean, plain.scores.mean), atol=1e-6)
    assert rows["source, unchanged", ""].scores.mean == pytest.approx((0, 5, 5), abs=0.1)
    assert table.claims[0].arm == FULL
    assert "following" in table.claims[0].falls


def test_grid_of_one_arm_and_of_none_without_reward(results, scenes):
    both, only, plain = grid_of(results, scenes), *(grid_of({arm: results[arm]}, scenes) for arm in (FULL, BASELINE))
    assert plain.shape[1] < only.shape[1] < both.shape[1]


def test_rows_of_the_grid_are_those_of_the_baseline_over_all_seeds(results, scenes, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "choose_rows", lambda scenes, scores: asked.append(scores) or [0])
    plain = results[BASELINE][0]
    other = Result({"none": plain.scores["none"] + 1}, plain.pictures)
    grid_of({FULL: results[FULL], BASELINE: [plain, other]}, scenes)
    grid_of({"scores": results[FULL]}, scenes)
    np.testing.assert_allclose(asked[0], plain.scores["none"] + 0.5)
    np.testing.assert_allclose(asked[1], results[FULL][0].scores["5"])


def test_types_and_dark_scenes_leave_out_the_middle_reward(results, scenes):
    assert list(types_of(results, scenes).rows) == [(BASELINE, "none"), (FULL, "5"), (FULL, "0")]
    errors = dark_errors(results, scenes)
    assert list(errors) == [(BASELINE, "none"), (FULL, "5")]
    assert errors[FULL, "5"].value < 0.001 < errors[BASELINE, "none"].value
    assert errors[FULL, "5"].scenes == errors[BASELINE, "none"].scenes > 0


def test_the_curve_is_of_the_arm_with_all_parts(results, scenes):
    curve = curve_of({"scores": results[FULL], **results}, scenes)
    assert (curve.arm, curve.scenes, curve.seeds) == (FULL, 5, 2)
    assert list(curve.points) == list(ASKED)
    assert list(curve.references) == [BASELINE, "imperfect edits"]
    assert curve_of({"scores": results[FULL]}, scenes).arm == "scores"
