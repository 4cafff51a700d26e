"""Reports about judges: repetitions, swapped images, two models on the same edits."""

import json

import numpy as np
import pytest

from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.evaluation.judge_reports import change, comparison, print_reports, stability
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.questions import EditId, ask_each
from rewardedit_jax.judging.store import Answer, Store

RUBRICS = {"following": "a", "preserving": "b", "quality": "c"}


class Edits(StoredEdits):
    """Four edits without images."""

    def __len__(self):
        return 4

    def encoded(self, index):
        return EncodedEdit(str(index), f"edit {index}", b"a", b"b")

    def keys(self):
        return list("0123")


def judged(path, model, scores, **options):
    """A plan and a store in which the answer of question q about edit i has the score scores[q][i] (None: refused)."""
    plan, store = Plan.make(Edits(), ask_each("openai", model, RUBRICS, **options)), Store(path, create=True)
    store.add_questions(plan.questions)
    for question, row in zip(plan.questions, scores, strict=True):
        for identity, score in zip(plan.data.identities(range(4)), row, strict=True):
            edit = EditId(*identity)
            text = "I'm sorry." if score is None else json.dumps({"score": score, "feedback": "x"})
            store.add_answer(question.id + edit.digest, edit, Answer(text))
    return plan, store


def test_repetitions_are_compared_on_edits_with_all_answers(tmp_path):
    scores = [[5, 4, 3, None], [5, 5, 2, 5], *[[5, 5, 5, 5]] * 4]
    plan, store = judged(tmp_path / "s", "m", scores, repeat=2)
    (table,) = stability(plan, store)
    following, preserving, _ = table.rows
    assert following == ("following", "3", "2", "4.000 4.000", "0.000", "33.3 66.7", "33.3", "33.3 %")
    assert preserving[4:] == ("0.000", "100.0 100.0", "0.0", "100.0 %")


def test_swapped_images_are_compared_with_the_first_order(tmp_path):
    scores = [[5, 4, 3, 2], [4, 4, 5, None], *[[5, 5, 5, 5]] * 4]
    plan, store = judged(tmp_path / "s", "m", scores, swap=True)
    (table,) = stability(plan, store)
    assert table.rows[0][:4] == ("following", "3", "0 + 1", "+0.333")
    assert table.rows[0][5:] == ("0", "1", "1", "1")


def test_a_single_run_has_no_report(tmp_path, capsys):
    plan, store = judged(tmp_path / "s", "m", [[5, 4, 3, 2]] * 3)
    print_reports(plan, store)
    assert capsys.readouterr().out == ""


def test_two_models_are_compared_on_the_same_edits(tmp_path, capsys):
    _, old = judged(tmp_path / "old", "before", [[5, 5, 3, None]] * 3)
    plan, new = judged(tmp_path / "new", "after", [[5, 4, 5, 2]] * 3)
    table = comparison(plan, new, old)
    assert "after" in table.title
    assert "before" in table.title
    assert table.rows[0][:4] == ("following", "3", "1 + 0", "+0.333")
    assert table.rows[0][5:] == ("1", "1", "1", "0")
    old.close()
    print_reports(plan, new, tmp_path / "old", "before")
    assert table.to_text() in capsys.readouterr().out
    with pytest.raises(ValueError, match="before"):
        print_reports(plan, new, tmp_path / "old", "unknown")


def test_the_interval_of_a_change_covers_it():
    rng = np.random.default_rng(0)
    old = rng.integers(0, 6, 400).astype(float)
    new = np.clip(old + rng.integers(-1, 3, 400), 0, 5)
    found = change(new, old)
    low, high = found.interval
    assert low < found.difference < high
    assert high - low == pytest.approx(2 * 1.96 * (new - old).std() / 20, rel=0.2)
    assert sum(found.confusion) == found.compared == 400
    assert change(np.full(2, np.nan), np.ones(2)).compared == 0
