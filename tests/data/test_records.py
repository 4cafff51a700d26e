"""Labels that contradict each other, and the message about bad records."""

import logging

import pytest

from rewardedit_jax.data.records import BadRecords, PreferenceLabel, against_ratings, contradictions, raise_or_log


class TestRaiseOrLog:
    def test_an_error_lists_the_faults_and_the_remedy(self):
        with pytest.raises(
            BadRecords, match=r"(?s)a\.json: 2 bad records\n.*entry 0: x\n.*entry 3: y\n.*skip_bad=True"
        ):
            raise_or_log(["entry 0: x", "entry 3: y"], "a.json", skip_bad=False)

    def test_the_log_has_them_where_they_are_left_out(self, caplog):
        with caplog.at_level(logging.WARNING):
            raise_or_log(["entry 0: x"], "a.json", skip_bad=True)
        assert "a.json: 1 bad record\n  entry 0: x" in caplog.text

    def test_of_many_the_first_are_listed(self):
        with pytest.raises(BadRecords) as raised:
            raise_or_log([f"entry {i}." for i in range(100)], "a.json", skip_bad=False)
        assert [f"entry {i}." in str(raised.value) for i in range(100)] == [True] * 40 + [False] * 60
        assert "60 more" in str(raised.value)

    def test_no_faults_are_no_error(self, caplog):
        raise_or_log([], "a.json", skip_bad=False)
        raise_or_log([], "a.json", skip_bad=True)
        assert not caplog.records


class TestContradictions:
    def _judged(self, key, preferred="a", names=("s", "1", "2"), a=None, b=None, instruction="snow"):
        return PreferenceLabel(key, instruction, names, preferred, a, b)

    def test_opposite_winners_of_one_pair_have_their_keys_listed(self):
        labels = [
            self._judged("x"),
            self._judged("y", preferred="b"),
            self._judged("same pair, sides changed", preferred="b", names=("s", "2", "1")),
            self._judged("other"),
        ]
        assert contradictions(labels) == [("x", "y", "same pair, sides changed", "other")]
        assert contradictions([labels[0], labels[2]]) == []

    def test_sides_changed_is_the_same_pair(self):
        assert contradictions([self._judged("x"), self._judged("y", names=("s", "2", "1"))]) == [("x", "y")]

    @pytest.mark.parametrize(
        "other",
        [
            {"names": ("s2", "1", "2")},
            {"names": ("s", "1", "3")},
            {"instruction": "rain"},
        ],
    )
    def test_other_images_or_words_are_another_pair(self, other):
        assert contradictions([self._judged("x"), self._judged("y", preferred="b", **other)]) == []

    def test_a_tie_contradicts_a_preference(self):
        tie, turned = (self._judged("y", "tie", names) for names in (("s", "1", "2"), ("s", "2", "1")))
        assert contradictions([self._judged("x"), turned]) == [("x", "y")]
        assert contradictions([tie, turned]) == []

    def test_a_disentangled_tie_is_a_tie(self):
        rated = {"a": (4.0, 2.0), "b": (3.0, 3.0)}
        rows = [self._judged("x", **rated), self._judged("y", preferred="b", **rated)]
        assert contradictions([*rows, self._judged("z", preferred="tie")]) == []
        assert contradictions([*rows, self._judged("z")]) == [("x", "y", "z")]

    def test_one_winner_is_no_contradiction_however_rated(self):
        assert contradictions([self._judged("x", a=(4.0, 2.0), b=(3.0, 3.0)), self._judged("y")]) == []


def test_preferences_against_their_ratings_are_listed():
    high, low = (4.0, 3.0), (2.0, 3.0)
    rated = [
        ("a", high, low),
        ("a", low, high),
        ("b", high, low),
        ("tie", high, low),
        ("b", low, high),
        ("a", None, None),
    ]
    labels = [PreferenceLabel(str(i), "snow", ("s", "1", "2"), *rest) for i, rest in enumerate(rated)]
    assert against_ratings(labels) == ["1", "2"]
