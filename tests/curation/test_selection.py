"""Rules and the selection, as pure functions of arrays."""

import numpy as np
import pytest

from rewardedit_jax.curation.rules import RULES, Ratings, shown
from rewardedit_jax.curation.selection import Edits, Reason, Settings, apportion, best_first, contradictory, select
from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.scoring.scorer import Scorer


def ratings(overall=((0.0, 1.0),), unchanged=None, judged=None, **more):
    n = len(overall)
    unchanged = np.full((n, 2), np.nan) if unchanged is None else np.array(unchanged, float)
    judged = np.full((n, 3), np.nan) if judged is None else np.array(judged, float)
    return Ratings(np.array(overall, float), unchanged, judged, **more)


def edits(n, **fields):
    """Edits that differ in everything."""
    rng = np.random.default_rng(0)
    made = {
        "keys": [f"k{i}" for i in range(n)],
        "unreadable": np.zeros(n, bool),
        "request": rng.integers(0, 2**64, n, dtype=np.uint64),
        "digests": rng.integers(0, 2**64, (n, 4), dtype=np.uint64),
        "hashes": rng.integers(0, 2**64, (n, 2, 4), dtype=np.uint64),
        "difference": np.full(n, 50.0),
    }
    return Edits(**made | fields)


def settings(rule="mean", keep=0.5, near=6, unchanged=8.0, contradiction=2.0):
    return Settings(rule, keep, near, unchanged, contradiction)


def by_mean(*means, **fields):
    """(edits, ratings) with these means."""
    return edits(len(means), **fields), ratings([(mean, 1.0) for mean in means])


def texts(selection):
    return [Reason(reason).text for reason in selection.reasons]


def chosen(means, keep, groups=None, **fields):
    made = by_mean(*means, **fields)
    return select(*made, settings(keep=keep), groups or [None] * len(means))


def test_rules():
    found = ratings([(2.0, 0.5), (1.0, 0.1)], [(1.0, 1.2), (1.0, 0.1)], [(1, 2, 4.5), (0, 0, 0)], k=2.0)
    assert RULES["mean"](found).tolist() == [2.0, 1.0]
    assert RULES["lcb"](found).tolist() == [1.0, 0.8]
    np.testing.assert_allclose(RULES["improvement"](found), [1 / 1.3, 0])
    assert RULES["labels"](found).tolist() == [2.5, 0.0]


def test_improvement_is_the_probability_of_the_scorer():
    raw = [np.array([1.3, -0.4], np.float32), np.array([0.2, 0.3], np.float32)]
    of = [EditScore(np.zeros((2, 2), np.float32), value) for value in raw]
    found = ratings([of[0].overall], [of[1].overall])
    np.testing.assert_allclose(shown("improvement", RULES["improvement"](found)), Scorer.prefer(*of), rtol=1e-6)


def test_improvement_orders_edits_whose_probability_is_one():
    values = RULES["improvement"](ratings([(20.0, 1.0), (30.0, 1.0)], [(0.0, 1.0)] * 2))
    assert shown("improvement", values).tolist() == [1, 1]
    assert values[0] < values[1]


def test_the_random_rule_follows_from_the_seed():
    first, again, other = (RULES["random"](ratings([(0, 1)] * 9, seed=seed)) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize(("keep", "kept"), [(0.5, 2), (0.1, 1), (0.4, 2), (1.0, 4), (3, 3)])
def test_the_best_are_kept(keep, kept):
    found = chosen([1, 4, 3, 2], keep)
    assert found.kept() == sorted([1, 2, 3, 0][:kept])
    assert found.thresholds == {None: [4, 3, 2, 1][kept - 1]}


def test_equal_values_are_kept_by_key():
    found = chosen([1, 2, 2, 2], 2, keys=["a", "d", "c", "b"])
    assert texts(found) == ["below threshold", "tied at threshold", "kept", "kept"]
    assert best_first(np.array([0.0, np.nan, 0.0]), ["b", "x", "a"]).tolist() == [2, 0, 1]


def test_the_share_is_of_all_edits():
    """So that the random control has as many edits as any rule."""
    made, found = by_mean(5, 4, 3, 2, unreadable=np.array([True, False, False, False]))
    assert select(made, found, settings(keep=0.5), [None] * 4).kept() == [1, 2]
    assert select(made, found, settings("random", keep=0.5), [None] * 4).kept()


def test_an_edit_has_the_first_reason_that_holds():
    hashes = np.zeros((5, 2, 4), np.uint64)
    made, found = by_mean(
        5, 4, np.nan, 3, 2,
        unreadable=np.array([True, False, False, False, False]),
        difference=np.array([0, 1, 50.0, 50, 50]),
        request=np.zeros(5, np.uint64),
        hashes=hashes,
    )  # fmt: skip
    selection = select(made, found, settings(), [None] * 5)
    assert texts(selection) == ["unreadable", "unchanged", "not scored", "kept", "near duplicate"]
    assert selection.duplicate_of.tolist() == [-1, -1, -1, -1, 3]
    assert texts(select(made, found, settings(near=-1, unchanged=0.0, keep=1.0), [None] * 5))[1:] == [
        "kept", "not scored", "kept", "kept",
    ]  # fmt: skip
    assert texts(select(made, found, settings("labels"), [None] * 5))[3] == "not judged"


def test_contradictory_judgements_of_one_edit_drop_all_of_them():
    request, digests = np.array([1, 1, 1, 2, 3], np.uint64), np.zeros((5, 4), np.uint64)
    made = edits(5, request=request, digests=digests)
    judged = np.array([[5, 5, 5], [5, 2.5, 5], [np.nan] * 3, [0, 0, 0], [5, 5, 5]])
    assert contradictory(made, judged, 2.0).tolist() == [True, True, False, False, False]
    assert not contradictory(made, judged, 2.5).any()
    assert not contradictory(made, np.full((5, 3), np.nan), 2.0).any()


def test_a_quota_keeps_the_share_of_each_group():
    found = chosen([9, 8, 7, 6, 1, 2, 3, 4], 0.5, list("aaaabbbb"))
    assert found.kept() == [0, 1, 6, 7]
    assert found.thresholds == {"a": 8, "b": 3}


def test_a_group_with_too_few_candidates_keeps_all_and_gives_nothing_away():
    found = chosen([9, 8, 7, 6, 1, np.nan, np.nan, np.nan], 4, list("aaaabbbb"))
    assert found.kept() == [0, 1, 4]
    assert found.wanted == {"a": 2, "b": 2}


@pytest.mark.parametrize("number", range(12))
def test_apportioned_numbers_sum_up(number):
    sizes = {"a": 5, "b": 3, None: 1, "empty": 0}
    shares = apportion(number, sizes)
    assert sum(shares.values()) == max(min(number, 9), sum(int(number * size / 9) for size in sizes.values()))
    assert all(abs(shares[group] - number * size / 9) < 1 for group, size in sizes.items())


def test_nothing_is_left():
    found = chosen([np.nan, np.nan], 1)
    assert (found.kept(), found.thresholds) == ([], {})
