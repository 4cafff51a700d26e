"""Experiments on judged benchmarks: reports with known answers, lost ones included."""

import json

import pytest

from rewardedit_jax.evaluation.experiments.judged_report import report_judged


def saved(file, answers, l1=(), fid=None):
    """The report of a run. `answers`: photograph → scores of its edits, None for a failure. `l1`: of each edit."""
    items = [
        {"key": f"{photo}/{i}", "group": photo,
         "following": {"failed": "refused"} if score is None else {"score": score, "yes": float(score == 5)}}
        for photo, scores in answers.items()
        for i, score in enumerate(scores)
    ]  # fmt: skip
    content = {"title": "Photos", "judge": {"measures": ["following"]}, "items": items}
    for item, value in zip(items, l1, strict=bool(l1)):
        item["metrics"] = {} if value is None else {"l1": value}
    if fid is not None:
        content["metrics"] = {"metrics": {"l1": {"value": 0.5}, "fid": {"value": fid}}, "missing": {"dino": "…"}}
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def results(tmp_path):
    plain = saved(tmp_path / "plain", {"a": [1, 3], "b": [5, None]})
    tuned = [saved(tmp_path / f"{seed}", {"a": [2, 5], "b": [5, 5 - seed]}) for seed in range(2)]
    return {"plain": [plain], "tuned": tuned}


def test_failures_are_no_yes_and_scores_are_of_common_items(results, tmp_path):
    table, _ = report_judged(tmp_path, results, 0, baseline="plain")
    plain, tuned = (table.line(arm) for arm in ("plain", "tuned"))
    assert plain.values["following, % yes"].mean == 25
    assert tuned.values["following, % yes"].per_seed == (75, 50)
    # The failed item of one arm is left out of the scores of all.
    assert (plain.values["following"].mean, tuned.values["following"].mean) == (3, 4)
    assert tuned.gains["following"].mean == 1
    assert tuned.gains["following, % yes"].per_seed == (50, 25)
    assert "3 items that all arms" in table.to_text()
    assert "failed: plain 1, tuned 0" in table.to_text()
    assert "over 2 groups" in table.to_text()


def test_other_items_are_refused(results, tmp_path):
    results["tuned"] = [saved(tmp_path / "other", {"a": [2, 5]})]
    with pytest.raises(ValueError, match="different items"):
        report_judged(tmp_path, results, 0)


def test_metrics_are_of_common_items_and_distances_of_sets_have_no_interval(tmp_path):
    plain = saved(tmp_path / "plain", {"a": [1, 3], "b": [5]}, [0.1, 0.3, None], fid=40)
    tuned = saved(tmp_path / "tuned", {"a": [1, 3], "b": [5]}, [0.2, 0.6, 0.9], fid=30)
    table, _ = report_judged(tmp_path, {"plain": [plain], "tuned": [tuned]}, 0, baseline="plain")
    line = table.line("tuned")
    assert line.values["l1"].mean == pytest.approx(0.4)
    assert line.gains["l1"].mean == pytest.approx(0.2)
    assert (line.values["fid"].mean, line.values["fid"].interval) == (30, None)
    assert line.gains["fid"].mean == -10
    assert "missing: dino" in table.to_text()
