"""Tables of editors: their arithmetic against numbers worked out by hand."""

import json

import numpy as np
import pytest

from rewardedit_jax.shapes import EDIT_TYPES
from rewardedit_jax.shapes.editor_report import make_table, make_type_table

BASE = ("plain", "none")


def scores(*of_seeds):
    """[seeds, scenes, 3] from the following scores; preserving is one less, quality always 4."""
    following = np.asarray(of_seeds, np.float32)
    return np.stack([following, following - 1, np.full_like(following, 4)], axis=-1)


def test_claims_name_the_perspectives_that_hold():
    """Preserving rises from 3 to 0; quality is constant."""
    at_3 = scores([2, 2])
    at_0 = np.concatenate([scores([1, 1])[..., :1], scores([4, 4])[..., 1:]], axis=-1)
    arms = {BASE: scores([2, 2]), ("reward", "5"): scores([3, 3]), ("reward", "3"): at_3, ("reward", "0"): at_0}
    (claim,) = make_table(arms, BASE).notes[1:]
    assert claim == (
        'reward: above "plain" in following, preserving; falls with the reward asked for in following.'
    )  # fmt: skip


def test_claims_do_not_depend_on_the_order_of_rows():
    arms = {("reward", "0"): scores([1, 1]), ("reward", "5"): scores([3, 3]), ("reward", "3"): scores([2, 2])}
    assert make_table(arms).notes[1].endswith("asked for in following, preserving.")


def test_references_come_first_and_have_no_gains():
    reference = {"source": scores([0, 2])[0]}
    table = make_table({BASE: scores([1, 3], [2, 4]), ("reward", "5"): scores([2, 4], [4, 6])}, BASE, reference)
    assert [line.arm for line in table.lines] == ["source", "plain", "reward"]
    assert [bool(line.gains) for line in table.lines] == [False, False, True]
    assert table.line("reward", "5").gains["following"].mean == pytest.approx(1.5)
    assert "2 held-out scenes" in table.to_text()


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
