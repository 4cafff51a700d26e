"""The sentence about what answers have used."""

import pytest

from rewardedit_jax.judging.costs import Prices, describe_usage
from rewardedit_jax.judging.store import Usage


@pytest.mark.parametrize(
    ("prices", "cost"),
    [(None, ""), (Prices(2.5, 10.0), ", cost 0.0165")],  # 3,000 · 2.5 / 10⁶ + 900 · 10 / 10⁶
)
def test_a_cost_is_told_with_prices_only(prices, cost):
    usage = Usage(answers=1200, prompt_tokens=3000, completion_tokens=900, uncounted=0)
    told = describe_usage(usage, prices, "a.sqlite")
    assert told == f"1,200 answers in a.sqlite: 3,000 prompt tokens, 900 completion tokens{cost}."


def test_answers_without_a_count_are_told():
    assert "(2 answers without a count)" in describe_usage(Usage(3, 10, 10, 2), None, "a.sqlite")
