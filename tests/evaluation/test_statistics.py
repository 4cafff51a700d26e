"""Statistics: worked examples of the published protocol, scipy as the oracle, and properties."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from rewardedit_jax.evaluation.statistics import (
    NO_TIES,
    bootstrap_interval,
    correct,
    correct_without_ties,
    cross_validated,
    expected_calibration_error,
    fisher_mean,
    mean_interval,
    per_prompt_spearman,
    published_accuracy_with_ties,
    published_mean,
    published_threshold,
    reliability_bins,
    spearman,
    z_scored_spearman,
)

HUMAN = np.array([1, -1, 0] * 3)
MARGIN = np.array([0.8, 0.1, -0.4, 0.3, -0.3, -0.1, 0.3, -0.1, -0.1])


def test_worked_example_of_the_published_file():
    assert published_accuracy_with_ties(HUMAN, MARGIN) == pytest.approx(0.6667, abs=5e-5)
    assert correct_without_ties(HUMAN, MARGIN).mean() == pytest.approx(0.8333, abs=5e-5)


@pytest.mark.parametrize(("human", "expected"), [([1, 0], 0.5), ([0, 1], 1.0)])
def test_published_accuracy_depends_on_the_order_of_items(human, expected):
    """No threshold reaches 1: both margins are equal, so both are ties or none is."""
    margin = np.array([0.5, 0.5])
    assert published_accuracy_with_ties(np.array(human), margin) == expected
    assert max(correct(np.array(human), margin, t).mean() for t in (NO_TIES, 0.5)) == 0.5


def test_published_accuracy_always_calls_one_tie():
    assert published_accuracy_with_ties(np.array([1, -1, 1, 1]), np.array([1.0, -2.0, 3.0, 4.0])) == 0.75


def step_by_step(human, margin):
    """The published scan, recomputed at each step: the first items by |margin| are ties, the others are not."""
    items = sorted(zip(human, margin, strict=True), key=lambda item: abs(item[1]))
    return max(
        (sum(h == 0 for h, _ in items[:k]) + sum(h * m > 0 for h, m in items[k:])) / len(items)
        for k in range(1, len(items) + 1)
    )


def test_published_accuracy_is_that_of_the_scan():
    rng = np.random.default_rng(0)
    for _ in range(200):
        human, margin = rng.integers(-1, 2, 7), rng.integers(-3, 4, 7) / 4
        assert published_accuracy_with_ties(human, margin) == pytest.approx(step_by_step(human, margin))


def test_margin_of_zero_prefers_nobody():
    human, margin = np.array([1, -1, 0]), np.zeros(3)
    assert correct(human, margin, NO_TIES).tolist() == [False, False, True]
    assert correct_without_ties(human, margin).tolist() == [False, False]


def test_no_accuracy_without_ties_where_all_are():
    with pytest.raises(ValueError, match="all 2 human"):
        correct_without_ties(np.zeros(2, int), np.ones(2))


def test_published_threshold_is_the_first_best_and_tries_zero():
    assert published_threshold(np.array([1, 1]), np.array([0.5, 0.7])) == 0.0
    assert published_threshold(np.array([0, 1]), np.array([0.5, 0.7])) == 0.5


def test_cross_validation_gains_nothing_from_noise():
    """Random scores: a threshold tuned on the items looks better than guessing, a held-out one does not."""
    rng = np.random.default_rng(1)
    tuned, held_out = [], []
    for seed in range(30):
        human, margin = rng.integers(-1, 2, 60), rng.normal(size=60)
        tuned.append(published_accuracy_with_ties(human, margin))
        held_out.append(cross_validated(human, margin, seed).mean())
    assert np.mean(tuned) > 0.4
    assert np.mean(held_out) == pytest.approx(1 / 3, abs=0.03)


def test_cross_validation_may_call_no_ties():
    human = np.array([1, -1] * 10)
    assert cross_validated(human, human * np.linspace(0.1, 1, 20), seed=0).all()


def test_cross_validation_finds_a_clear_threshold():
    human = np.array([1, 0, -1] * 10)
    measured = cross_validated(human, human + 0.1 * np.sin(np.arange(30.0)), seed=3)
    assert measured.all()
    assert (measured == cross_validated(human, human + 0.1 * np.sin(np.arange(30.0)), seed=3)).all()


def test_one_item_cannot_be_split():
    with pytest.raises(ValueError, match="1 judged"):
        cross_validated(np.array([1]), np.array([0.5]), seed=0)


def test_spearman_is_scipys():
    rng = np.random.default_rng(2)
    for levels in (3, 10, 1000):
        a, b = rng.integers(0, levels, 50), rng.integers(0, levels, 50) / 7
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_of_a_constant_is_not_defined():
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_spearman_of_missing_values():
    """They have the mean rank: the others are ordered right, and still the correlation is below 1."""
    # Centred ranks: -1, 0, 1 and 0 against -1.5, -0.5, 0.5 and 1.5.
    assert spearman(np.array([1, 2, 3, np.nan]), np.array([1.0, 2, 3, 4])) == pytest.approx(2 / np.sqrt(2 * 5))
    assert np.isnan(spearman(np.full(3, np.nan), np.arange(3.0)))


def test_missing_margins_are_wrong_as_published():
    human, margin = np.array([1, -1, 0, 1]), np.array([1.0, -1, 0.1, np.nan])
    assert published_accuracy_with_ties(human, margin) == 3 / 4
    assert published_accuracy_with_ties(human, np.full(4, np.nan)) == 0
    assert published_threshold(human, margin) == 0.1
    assert correct(human, margin, 0.5).tolist() == [True, True, True, False]


def test_means_of_correlations():
    assert published_mean([0.3, 0.5]) == pytest.approx(np.tanh(0.4))
    assert published_mean([0.4]) == pytest.approx(0.380, abs=5e-4)  # a mean of 0.40 is printed as 0.38
    assert np.isnan(published_mean([0.3, float("nan")]))
    assert fisher_mean([0.4]) == pytest.approx(0.4)
    assert fisher_mean([0.4, float("nan")]) == pytest.approx(np.tanh(np.arctanh(0.4) / 2))
    assert fisher_mean([1.0, 1.0]) == pytest.approx(1, abs=1e-5)


def test_correlations_within_prompts():
    """Prompt a is in the right order, b in reverse, c has one edit, d constant scores: the mean is over a and b."""
    prompts = list("aaabbbcdd")
    human = np.array([1.0, 2, 3, 1, 2, 3, 9, 1, 2])
    scores = np.array([10.0, 20, 30, 7, 6, 5, 0, 4, 4])
    assert per_prompt_spearman(human, scores, prompts) == pytest.approx(0)
    z = 1.5**0.5
    known = spearmanr([-z, 0, z, z, 0, -z, 0, 0], [1, 2, 3, 1, 2, 3, 1, 2]).statistic
    assert z_scored_spearman(human, scores, prompts) == pytest.approx(known)


def test_interval_is_that_of_a_proportion():
    """Half of 400 items are right: 0.5 ± 1.96 · 0.025."""
    items = np.arange(400) % 2
    low, high = bootstrap_interval(lambda at: items[at].mean(), 400, seed=0)
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.006)
    assert (low, high) == bootstrap_interval(lambda at: items[at].mean(), 400, seed=0)


def test_interval_is_the_quantiles_of_resampled_statistics():
    """Quantiles of one thousand means; for a single item, all resamples are equal."""
    values = np.random.default_rng(3).normal(size=57)
    rng = np.random.default_rng(5)
    resampled = [values[rng.integers(0, 57, 57)].mean() for _ in range(1000)]
    expected = tuple(np.quantile(resampled, [0.025, 0.975]))
    assert bootstrap_interval(lambda at: values[at].mean(), 57, seed=5) == pytest.approx(expected, rel=1e-14)
    assert bootstrap_interval(lambda at: values[at].mean(), 1, seed=5) == (values[0], values[0])


def test_calibration_in_closed_form():
    stated, observed = np.array([0.55, 0.55, 0.95, 0.95]), np.array([1.0, 0.0, 1.0, 1.0])
    assert reliability_bins(stated, observed) == [(pytest.approx(0.55), 0.5, 2), (pytest.approx(0.95), 1.0, 2)]
    assert expected_calibration_error(stated, observed) == pytest.approx(0.05)
    assert expected_calibration_error(stated, np.array([0.5, 0.6, 1.0, 0.9])) == pytest.approx(0)


def test_calibration_of_no_numbers():
    nan = np.array([0.5, np.nan])
    assert [bin.count for bin in reliability_bins(nan, np.ones(2))] == [1]
    assert np.isnan(expected_calibration_error(nan, np.ones(2)))
    assert np.isnan(expected_calibration_error(np.array([]), np.array([])))


def test_bins_from_zero():
    """Probabilities of any event, not of the preferred one of two."""
    assert reliability_bins(np.array([0.0, 0.04, 1.0]), np.array([0.0, 1.0, 1.0]), low=0.0) == [
        (pytest.approx(0.02), 0.5, 2),
        (1.0, 1.0, 1),
    ]


def test_the_interval_of_a_mean_resamples_whole_groups():
    """Copies of an item in one group add no information; in groups of their own they would narrow the interval."""
    values = np.random.default_rng(0).normal(size=40)
    single = mean_interval(values, list(range(40)))
    assert mean_interval(np.repeat(values, 5), [i for i in range(40) for _ in range(5)]) == pytest.approx(single)
    low, high = mean_interval(np.repeat(values, 5), list(range(200)))
    assert high - low < 0.6 * (single[1] - single[0])
    # As the normal approximation says.
    assert single[1] - single[0] == pytest.approx(2 * 1.96 * values.std() / np.sqrt(40), rel=0.15)


def test_the_interval_of_a_mean_leaves_out_what_is_missing():
    values, groups = np.asarray([1.0, np.nan, 3.0, np.nan]), ["a", "b", "c", "c"]
    assert mean_interval(values, groups) == mean_interval(np.asarray([1.0, 3.0]), ["a", "c"])
    assert mean_interval(np.full(3, np.nan), ["a", "b", "c"]) is None
    assert mean_interval(np.asarray([2.0, 2.0]), ["a", "a"]) == (2.0, 2.0)


def test_the_interval_of_a_mean_of_means():
    """A kind with many items weighs as much as one with few."""
    values = np.asarray([1.0] * 90 + [5.0] * 10)
    kinds = ["many"] * 90 + ["few"] * 10
    assert mean_interval(values, list(range(100)), kinds) == (3.0, 3.0)
    low, high = mean_interval(values, list(range(100)))
    assert low < 1.4 < high < 3
