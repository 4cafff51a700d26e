"""Numbers of a benchmark from its outcomes: one denominator, reasons, means over types, intervals over photographs."""

import numpy as np
import pytest

from rewardedit_jax.data.encoded import RequestLabel
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Item
from rewardedit_jax.evaluation.editing_benchmarks.counts import Result, count, tables
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome
from rewardedit_jax.evaluation.editing_benchmarks.real_edit import REAL_EDIT
from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.reward import PERSPECTIVES

REASONS = ("refused", "timeout", "missing image", "not asked")


def result(number, outcomes, edit_type="add", group=None):
    label = RequestLabel(str(number), f"edit {number}", edit_type)
    return Result(Item(label, number, f"{number}.png", str(group or number)), dict.fromkeys(PERSPECTIVES) | outcomes)


def drawn(rng):
    if rng.random() < 0.3:
        return Outcome(failure=NoVerdict(str(rng.choice(REASONS))))
    score = float(rng.integers(0, 6))
    return Outcome(score, float(score >= 4), bool(rng.random() < 0.5))


@pytest.mark.parametrize("seed", range(5))
def test_every_item_is_counted_once_in_every_measure(seed):
    """Whatever the outcomes: answers and reasons add up to the total, by type and as a whole."""
    rng = np.random.default_rng(seed)
    results = [
        result(i, {m: drawn(rng) for m in PERSPECTIVES}, str(rng.choice(["a", "b", "c"])), i // 7) for i in range(70)
    ]
    numbers = count(REAL_EDIT, results)
    for measure in PERSPECTIVES:
        found, outcomes = numbers[measure], [r.outcomes[measure] for r in results]
        scores = [o.score for o in outcomes if o.failure is None]
        assert found["total"] == 70 == found["answered"] + found["failed"]
        assert sum(found["reasons"].values()) == found["failed"]
        assert found["accuracy"] == pytest.approx(sum(score >= 4 for score in scores) / 70)
        assert found["score"] == pytest.approx(np.mean(scores))
        assert found["derived"] == sum(o.derived for o in outcomes)
        by_type = [some[measure] for some in numbers["types"].values()]
        for name in ("total", "answered", "failed", "derived"):
            assert sum(some[name] for some in by_type) == found[name]
        assert found["macro_score"] == pytest.approx(np.mean([some["score"] for some in by_type]))
        for value, interval in (("accuracy", "accuracy_interval"), ("score", "score_interval")):
            low, high = found[interval]
            assert low <= found[value] <= high


def test_a_measure_without_an_answer_has_no_number_in_the_table():
    failed = Outcome(failure=NoVerdict("not judged"))
    answered = Outcome(4.0, 1.0, True)
    outcomes = {"following": answered, "preserving": failed, "quality": failed}
    numbers = count(REAL_EDIT, [result(i, outcomes) for i in range(3)])
    assert numbers["preserving"]["accuracy"] == 0
    assert numbers["preserving"]["accuracy_answered"] is numbers["preserving"]["score"] is None
    (table,) = tables(REAL_EDIT, numbers)
    assert table.rows[-1] == ["all", "3", "100.0", "4.00", "–", "–", "–", "–", "0 + 3 + 3"]
    assert table.notes[0] == (
        "following: 100.0 % yes [100.0, 100.0], score 4.00 [4.00, 4.00] of 3 answers; yes follows from the score in 3."
    )
    assert table.notes[1] == "preserving: no answer; failed: 3 not judged."
