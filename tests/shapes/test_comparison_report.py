"""What a comparison of editors writes, from made-up results: edits that are ideal, imperfect or missing."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.shapes import comparison_report as module
from rewardedit_jax.shapes.asked import ASKED, FURTHER
from rewardedit_jax.shapes.comparison_report import (
    curve_of,
    dark_errors,
    grid_of,
    report_asked,
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


def test_both_tables_and_the_pictures(files, results, scenes):
    pytest.importorskip("matplotlib")
    table, written = report_editors(*files, COUNT)
    assert [file.name for file in written] == ["grid.png", "curve.png"]
    for form in (table.to_text(), table.to_markdown()):
        assert form.index("Δ following") < form.index("Dark scenes") < form.index("local (")
        assert f"{BASELINE} 0.0" in form  # the brightness error
    assert [(row["arm"], row["asked"]) for row in table.details["types"]["rows"]] == [
        (BASELINE, "none"),
        (FULL, "5"),
        (FULL, "0"),
    ]
    assert sum(table.details["types"]["scenes"].values()) == COUNT
    assert table.details["curve"]["points"]["following 0"]["mean"] == (0, 5, 5)
    np.testing.assert_array_equal(np.asarray(Image.open(written[0])), grid_of(results, scenes))


def test_tables_in_markdown_stand_apart(results, scenes):
    """A line that touches a table would become a row of it."""
    lines = table_of(results, scenes).to_markdown().splitlines()
    rows = [line.startswith("|") for line in lines]
    starts = [i for i, row in enumerate(rows) if row and (i == 0 or not rows[i - 1])]
    assert len(starts) == 2
    assert all(not lines[i - 1] for i in starts if i)
    assert all(lines[i + 1] == "" for i, row in enumerate(rows) if row and not rows[i + 1])


def test_without_matplotlib_there_is_no_curve(files, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: name != "matplotlib" and find_spec(name, *a))
    _, written = report_editors(*files, COUNT)
    assert [file.name for file in written] == ["grid.png"]
    assert "rewardedit_jax[plots]" in capsys.readouterr().err


def test_the_baseline_alone_has_no_curve(files, capsys):
    workdir, of_arms = files
    table, written = report_editors(workdir, {BASELINE: of_arms[BASELINE]}, COUNT)
    assert [file.name for file in written] == ["grid.png"]
    assert table.details["curve"] is None
    assert capsys.readouterr().err == ""


def test_table_compares_with_training_without_reward(results, scenes):
    table = table_of(results, scenes)
    best, plain = table.line(FULL, "5"), table.line(BASELINE, "none")
    for name, gain in best.gains.items():
        assert gain.mean == pytest.approx(best.values[name].mean - plain.values[name].mean, abs=1e-6)
    unchanged = [value.mean for value in table.line("source, unchanged").values.values()]
    assert unchanged == pytest.approx((0, 5, 5), abs=0.1)
    (claim,) = (note for note in table.notes if note.startswith(FULL))
    assert "falls with the reward asked for in following" in claim


def test_a_model_without_training_has_one_result(results, scenes):
    table = table_of({"start editor": results[BASELINE][:1], **results}, scenes)
    start = table.line("start editor", "none")
    assert [len(value.per_seed) for value in start.values.values()] == [1, 1, 1]
    assert [len(gain.per_seed) for gain in start.gains.values()] == [2, 2, 2]


def test_scores_asked_for_from_5_to_0(files):
    """On the scenes that all rewards have; the differences are from asking for 5."""
    table, written = report_asked(files[0], {FULL: files[1][FULL]}, COUNT)
    assert [line.asked for line in table.lines] == ["", "5", "4", "3", "2", "1", "0"]
    assert table.line(FULL, "1").values["quality"].mean == pytest.approx(1)
    assert table.line(FULL, "1").over == (FULL, "5")
    assert "5 held-out scenes" in table.to_text()
    assert written[0].name == "grid.png"


def test_the_grid_of_every_arm(results, scenes):
    found = {BASELINE: results[BASELINE], "scores": results[FULL], FULL: results[FULL]}
    every, one = (grid_of(found, scenes, every_arm) for every_arm in (True, False))
    assert every.shape[1] < one.shape[1]  # three columns between source and ideal, in place of four


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
