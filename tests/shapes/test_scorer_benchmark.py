"""The shapes benchmark of scorers: synthetic scores with known accuracies, and calibration in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.shapes.scorer_benchmark import (
    evaluate_scorer,
    held_out_groups,
    least_change,
    preferences,
    scorer_table,
)


@pytest.fixture(scope="module")
def groups():
    return held_out_groups(24)


def scored(groups, means, log_std=-3.0):
    """Scores whose prompts and aggregate all have the given means [n, 4]."""

    def one(mean):
        output = np.array([mean, log_std], np.float32)
        return EditScore(np.stack([output, output]), output)

    return [[one(mean) for mean in row] for row in means]


def values(report):
    return {row.measure: row.value for row in report.rows}


def test_a_perfect_scorer_is_right_everywhere(groups):
    totals = np.stack([group.ratings.sum(1) for group in groups])
    found = values(evaluate_scorer(scored(groups, totals), groups))
    assert all(found[f"scorer, {name}"] == 1 for name in ("pairs", "strict K = 2", "strict K = 3", "strict K = 4"))
    assert 0.5 < found["scorer, pairs by following"] < 1


def test_the_opposite_is_wrong_everywhere(groups):
    totals = np.stack([group.ratings.sum(1) for group in groups])
    found = values(evaluate_scorer(scored(groups, -totals), groups))
    assert found["scorer, pairs"] == found["scorer, strict K = 4"] == 0


def test_equal_scores_are_not_right(groups):
    found = values(evaluate_scorer(scored(groups, np.zeros((24, 4))), groups))
    assert all(found[f"scorer, {name}"] == 0 for name in ("pairs", "strict K = 2", "strict K = 3", "strict K = 4"))


def test_what_does_not_occur_is_undefined(groups):
    """No group here has three different ratings."""
    few = [replace(group, ratings=np.float32([[4, 4], [4, 4], [1, 2], [1, 2]])) for group in groups[:2]]
    report = evaluate_scorer(scored(few, np.ones((2, 4))), few)
    assert np.isnan(values(report)["scorer, strict K = 3"])
    assert "undefined" in report.to_text()
    assert {row["value"] for row in report.to_json()["rows"] if row["measure"] == "scorer, strict K = 3"} == {None}


def test_uncertainty_is_stated(groups):
    totals = np.stack([group.ratings.sum(1) for group in groups])
    sure, unsure = (evaluate_scorer(scored(groups, totals, log_std), groups) for log_std in (-3.0, 4.0))
    assert sure.values["expected_calibration_error"] < 1e-3
    assert unsure.values["expected_calibration_error"] > 0.3  # right in all but ties, and says one half
    assert "calibration error" in sure.to_text()


def test_ties_are_half_right(groups):
    """A scorer with equal scores for equal ratings states one half on ties and certainty elsewhere."""
    totals = np.stack([group.ratings.sum(1) for group in groups])
    stated, true = preferences(scored(groups, totals), totals)
    first, second = np.triu_indices(4, 1)
    tied = (totals[:, first] == totals[:, second]).ravel()
    assert tied.any()
    np.testing.assert_array_equal(true, np.where(tied, 0.5, 1))
    np.testing.assert_allclose(stated[tied], 0.5, atol=1e-6)
    assert stated[~tied].min() > 0.99
    assert evaluate_scorer(scored(groups, totals), groups).values["stated_on_ties"] == pytest.approx(0.5, abs=1e-6)


def test_sure_of_ties_is_wrong(groups):
    """A scorer that is certain of an order in ties is wrong by one half on them."""
    totals = np.stack([group.ratings.sum(1) for group in groups])
    broken = totals + 0.3 * np.arange(4)  # keeps every order that there is
    report = evaluate_scorer(scored(groups, broken, -6.0), groups)
    first, second = np.triu_indices(4, 1)
    tied = (totals[:, first] == totals[:, second]).mean()
    assert report.values["stated_on_ties"] == pytest.approx(1, abs=1e-6)
    assert report.values["expected_calibration_error"] == pytest.approx(tied / 2, abs=1e-6)


def test_the_baseline_prefers_the_source(groups):
    group = groups[0]
    candidates = np.concatenate([group.source[None], group.candidates[:3]])
    assert least_change([replace(group, candidates=candidates)])[0].argmax() == 0


def test_the_table_of_several_scorers(groups):
    """Values are means over seeds; the baseline and chance are the last lines."""
    totals = np.stack([group.ratings.sum(1) for group in groups])
    right, wrong = (evaluate_scorer(scored(groups, sign * totals), groups).to_json() for sign in (1, -1))
    table = scorer_table({"one": [right], "mixed": [right, wrong]})
    assert table.line("one").values["pairs"].per_seed == (100.0,)
    assert table.line("mixed").values["K = 4"].per_seed == (100.0, 0.0)
    assert table.line("mixed").gains["pairs"].mean == -50
    assert table.line("chance").values["K = 3"].mean == pytest.approx(100 / 6)
    text = table.to_text()
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "50.0 ± 70.7" in lines["mixed"]
    assert "calibration error" in lines["arm"]
    assert "Means over 2 training seeds" in text
    assert "24 held-out groups" in text
    assert [line.arm for line in table.lines] == ["least change", "chance", "one", "mixed"]


def test_the_table_agrees_with_the_reports(groups):
    """Its samples and the rows of the report are counted once, in two forms."""
    means = np.random.default_rng(0).normal(size=(24, 4))
    report = evaluate_scorer(scored(groups, means), groups)
    (line,) = [line for line in scorer_table({"one": [report.to_json()]}).lines if line.arm == "one"]
    for column, measure in {"pairs": "pairs", "following": "pairs by following", "K = 3": "strict K = 3"}.items():
        assert line.values[column].mean == pytest.approx(100 * values(report)[f"scorer, {measure}"])
