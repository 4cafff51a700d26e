import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from rewardedit_jax.data.records import PreferenceLabel, rated_equal
from rewardedit_jax.scoring.objectives import uncertainty
from rewardedit_jax.scoring.pairs import Row, disentangle, kind, one_row_each, strict_only


def _label(preferred, a=None, b=None):
    return PreferenceLabel("key", "make it snow", ("source", "a", "b"), preferred, a, b)


LEFT = _label("a", (4, 3), (2, 3))
RIGHT = _label("b", (1, 4), (3, 3))
CROSSING = _label("tie", (4, 2), (3, 3))
FULL = _label("tie", (4, 2), (4, 2))
UNRATED = _label("tie")
ALL = [LEFT, CROSSING, FULL, RIGHT, UNRATED]


class TestDisentangle:
    def test_by_hand(self):
        assert disentangle(ALL) == [Row(0, "a"), Row(1, "a"), Row(1, "b"), Row(3, "b")]

    def test_full_ties_in_both_orders_when_asked(self):
        both = disentangle(ALL, "both orders")
        assert [row for row in both if row.index in (2, 4)] == [Row(2, "a"), Row(2, "b"), Row(4, "a"), Row(4, "b")]
        assert [row for row in both if row.index not in (2, 4)] == disentangle(ALL)
        assert [row.index for row in both] == sorted(row.index for row in both)

    def test_a_winner_gives_one_row_whatever_the_ratings_cross(self):
        # Overall 5 to 6: the second wins although the first has the better quality.
        assert disentangle([RIGHT]) == [Row(0, "b")]
        assert disentangle([_label("a", (4, 2), (3, 3))]) == [Row(0, "a")]  # a vote against equal sums

    def test_an_unknown_choice_is_refused(self):
        with pytest.raises(ValueError, match=r"full_ties='keep': .*'drop' or 'both orders'"):
            disentangle(ALL, "keep")

    def test_the_two_rows_draw_equal_means_no_further(self):
        def loss(d, log_std):
            a, b = (jnp.stack([x, log_std]) for x in (d, jnp.zeros(())))
            return uncertainty(a, b) + uncertainty(b, a)

        by_mean, by_std = jax.jit(jax.grad(loss, (0, 1)))(0.0, 0.0)
        assert by_mean == 0
        assert by_std > 0
        assert jax.jit(jax.grad(loss))(0.3, 0.0) > 0


class TestOtherRows:
    def test_ties_may_stay_one_row(self):
        assert one_row_each(ALL) == [Row(0, "a"), Row(1, "a", True), Row(2, "a", True), Row(3, "b"), Row(4, "a", True)]

    def test_or_be_left_out(self):
        assert strict_only(ALL) == [Row(0, "a"), Row(3, "b")]


class TestKind:
    def test_by_hand(self):
        assert [kind(label) for label in ALL] == ["strict", "crossing", "full", "strict", "full"]

    def test_a_tie_vote_against_the_ratings_is_no_crossing(self):
        assert kind(_label("tie", (4, 3), (2, 3))) == "full"
        assert kind(_label("tie", (4, 3), (2, 2))) == "full"
        assert kind(_label("tie", (4, 1), (2, 2))) == "crossing"  # 5 to 4, but voted a tie

    def test_equal_sums_cross_or_are_equal_and_nothing_else(self):
        # All ratings that are means of three raters: thirds, 1..4. With d the difference in following, that in
        # quality is -d: both are zero, or their signs differ.
        thirds = range(3, 13)
        seen = Counter()
        for following_a, quality_a, following_b in itertools.product(thirds, repeat=3):
            quality_b = following_a + quality_a - following_b
            if quality_b not in thirds:
                continue
            tie = _label("tie", (following_a / 3, quality_a / 3), (following_b / 3, quality_b / 3))
            assert rated_equal(tie)
            assert (kind(tie) == "full") == (following_a == following_b)
            seen[kind(tie)] += 1
        assert seen == {"full": 100, "crossing": 570}  # 10², and Σ c² - 100 over the 19 sums that c pairs share
