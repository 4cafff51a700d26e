"""Tables of editors: their arithmetic against numbers worked out by hand."""

import json

import numpy as np
import pytest

from rewardedit_jax.shapes import EDIT_TYPES
from rewardedit_jax.shapes.editor_report import make_table, make_type_table, means

BASE = ("plain", "none")


def scores(*of_seeds):
    """[seeds, scenes, 3] from the following scores; preserving is one less, quality always 4."""
    following = np.asarray(of_seeds, np.float32)
    return np.stack([following, following - 1, np.full_like(following, 4)], axis=-1)


def test_one_seed_has_an_error_over_scenes_and_no_spread():
    found = means(scores([1, 2, 3, 4]))
    assert found.mean == pytest.approx((2.5, 1.5, 4))
    # Deviations ±1.5, ±0.5: variance 5/3 with n - 1, divided by four scenes.
    assert found.error == pytest.approx(((5 / 3 / 4) ** 0.5, (5 / 3 / 4) ** 0.5, 0))
    assert found.spread is None


def test_several_seeds_have_the_spread_of_their_means():
    found = means(scores([1, 3], [3, 5], [2, 4]))
    assert found.mean == pytest.approx((3, 2, 4))
    assert found.spread == pytest.approx((1, 1, 0))  # of 2, 4, 3
    assert found.error == pytest.approx((1, 1, 0))  # scenes' means 2 and 4: deviation √2, over √2


def test_gains_are_paired():
    """Scenes differ much but all have the same gain: its error is zero although the errors of the means overlap."""
    table = make_table({BASE: scores([0, 4, 1, 3]), ("reward", "5"): scores([0.5, 4.5, 1.5, 3.5])}, BASE)
    plain, rewarded = table.rows
    assert plain.gain is None
    assert rewarded.gain.mean == pytest.approx((0.5, 0.5, 0))
    assert rewarded.gain.error == pytest.approx((0, 0, 0), abs=1e-12)
    assert rewarded.scores.error[0] > 0.5


def test_gain_over_seeds_pairs_seeds_too():
    table = make_table({BASE: scores([1, 1], [3, 3]), ("reward", "5"): scores([2, 2], [5, 5])}, BASE)
    assert table.rows[1].gain.mean[0] == pytest.approx(1.5)
    assert table.rows[1].gain.spread[0] == pytest.approx(0.5**0.5)  # of gains 1 and 2


def test_claims_name_the_perspectives_that_hold():
    """Preserving rises from 3 to 0; quality is constant."""
    at_3 = scores([2, 2])
    at_0 = np.concatenate([scores([1, 1])[..., :1], scores([4, 4])[..., 1:]], axis=-1)
    arms = {BASE: scores([2, 2]), ("reward", "5"): scores([3, 3]), ("reward", "3"): at_3, ("reward", "0"): at_0}
    (claim,) = make_table(arms, BASE).claims
    assert (claim.arm, claim.above, claim.falls) == ("reward", ("following", "preserving"), ("following",))


def test_claims_do_not_depend_on_the_order_of_rows():
    arms = {("reward", "0"): scores([1, 1]), ("reward", "5"): scores([3, 3]), ("reward", "3"): scores([2, 2])}
    assert make_table(arms).claims[0].falls == ("following", "preserving")


def test_three_forms_say_the_same():
    reference = {"source": scores([0, 2])[0]}
    table = make_table({BASE: scores([1, 3], [2, 4]), ("reward", "5"): scores([2, 4], [4, 6])}, BASE, reference)
    text, markdown, found = table.to_text(), table.to_markdown(), json.loads(json.dumps(table.to_json()))
    for form in (text, markdown):
        assert "4.00 ± 1.41" in form  # spread of 3 and 5
        assert "+1.50 ± 0.71" in form
        assert "2 held-out scenes and 2 training seed" in form
    assert found["rows"][2]["scores"]["mean"] == [4.0, 3.0, 4.0]
    assert found["rows"][2]["gain"]["mean"] == [1.5, 1.5, 0.0]
    assert found["rows"][0]["arm"] == "source"
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1


def test_columns_of_the_text_are_aligned():
    heading, _, plain, rewarded, *_ = (
        make_table({BASE: scores([1, 3]), ("with reward", "5"): scores([2, 4])}, BASE).to_text().splitlines()
    )
    assert heading.index("following") == plain.index("2.00") == rewarded.index("3.00")


def test_without_baseline_there_are_no_gains():
    table = make_table({("reward", "5"): scores([1, 3])}, BASE)
    assert table.baseline is None
    assert "Δ" not in table.to_text()


def test_unequal_scenes_cannot_be_paired():
    with pytest.raises(ValueError, match="unequal"):
        make_table({BASE: scores([1, 2]), ("reward", "5"): scores([1, 2, 3])}, BASE)


def test_means_by_edit_type():
    """Over the scenes of the type and over seeds, with as many scenes as there are."""
    found = make_type_table({BASE: scores([1, 2, 4], [3, 2, 5])}, ["add", "style", "add"])
    assert found.rows[BASE] == {"add": pytest.approx((3.25, 2.25, 4)), "style": pytest.approx((2, 1, 4))}
    assert {kind: count for kind, count in found.counts.items() if count} == {"add": 2, "style": 1}
    assert list(found.counts) == list(EDIT_TYPES)


def test_forms_of_the_table_by_edit_type():
    table = make_type_table({BASE: scores([1, 2]), ("reward", "5"): scores([3, 4])}, ["add", "local"])
    heading, _, plain, rewarded, *notes = table.table().to_text().splitlines()
    assert heading.split("  ")[0] == "arm"
    assert heading.index("local (1)") == plain.index("2.0/1.0/4.0") == rewarded.index("4.0/3.0/4.0")
    assert plain.count("–") == rewarded.count("–") == len(EDIT_TYPES) - 2
    assert "following/preserving/quality" in notes[-1]
    entry = json.loads(json.dumps(table.to_json()))
    assert entry["scenes"]["remove"] == 0
    assert entry["rows"][1] == {"arm": "reward", "asked": "5", "means": {"add": [3, 2, 4], "local": [4, 3, 4]}}
