"""Judges without an endpoint: stored answers, the shipped scorer, the oracle of the shapes world."""

import json

import numpy as np
import pytest
from judged_edits import write_edits

from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.judging.answers import NoVerdict, Verdict
from rewardedit_jax.judging.judges import ScorerJudge, stored_questions
from rewardedit_jax.judging.labelling import ask, write_labels
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.questions import EditId, ask_each
from rewardedit_jax.judging.store import Answer, Store
from rewardedit_jax.shapes import prepare_shapes
from rewardedit_jax.shapes.examples import ShapesSource
from rewardedit_jax.shapes.oracle_judge import OracleJudge

RUBRICS = {"following": "a", "preserving": "b", "quality": "c"}


def store_with(path, *sets):
    store = Store(path, create=True)
    for questions in sets:
        store.add_questions(questions)
    return store


def test_a_replay_takes_the_only_set_of_answers(tmp_path):
    questions = ask_each("openai", "m", RUBRICS, "jpeg", repeat=2, swap=True)
    with store_with(tmp_path / "s", list(reversed(questions))) as store:
        assert stored_questions(store) == questions
        assert stored_questions(store, repeat=1) == ask_each("openai", "m", RUBRICS, "jpeg", swap=True)


def test_a_replay_asks_which_of_several_sets(tmp_path):
    old, new = ({**RUBRICS, "quality": digest} for digest in ("c", "d"))
    sets = ask_each("openai", "m", old), ask_each("openai", "m", new), ask_each("openai", "n", old)
    with store_with(tmp_path / "s", *sets) as store:
        with pytest.raises(ValueError, match=r"several.*--model"):
            stored_questions(store)
        with pytest.raises(ValueError, match=r"several.*--rubrics"):
            stored_questions(store, "m")
        assert stored_questions(store, "m", list(new.values())) == sets[1]
        assert stored_questions(store, "n") == sets[2]
        with pytest.raises(ValueError, match="model n"):
            stored_questions(store, "o")


def test_the_mean_of_repetitions_is_the_label(tmp_path):
    """The feedback is that of the answer nearest to the mean; failures take no part and are listed."""
    data = open_edits(write_edits(tmp_path / "data", 1))
    plan = Plan.make(data, ask_each("openai", "m", RUBRICS, repeat=3))
    edit = EditId(*next(data.identities([0])))
    texts = iter(
        [*(json.dumps({"score": s, "feedback": f"f{s}"}) for s in (0, 4, 5)), "no", "", '{"score": 2, "feedback": "x"}']
    )
    with Store(tmp_path / "s", create=True) as store:
        store.add_questions(plan.questions)
        for question in plan.questions[:6]:
            store.add_answer(question.id + edit.digest, edit, Answer(next(texts), "stop"))
        summary = write_labels(plan, store, tmp_path / "labels.jsonl")
    line = json.loads((tmp_path / "labels.jsonl").read_text())
    assert line["scores"] == [3.0, 2.0, None]
    assert line["feedback"] == ["f4", "x", None]
    found = [(f["perspective"], f["reason"], f["repetition"]) for f in line["failures"]]
    assert found == [
        ("preserving", "not JSON", 0),
        ("preserving", "empty", 1),
        *(("quality", "not asked", i) for i in range(3)),
    ]
    assert (summary.answered, summary.failed) == (4, 5)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return prepare_shapes(tmp_path_factory.mktemp("shapes"), train=4, test=1)


def test_a_prepared_data_set_knows_its_digests(shapes):
    data = open_edits(shapes)
    assert list(data.identities([2, 0])) == list(StoredEdits.identities(data, [2, 0]))


def labels_of(tmp_path, data, judge):
    plan = Plan.make(data, judge.questions(repeat=3, swap=True))
    with Store(tmp_path / "s", create=True) as store:
        ask(plan, judge, store)
        return [outcomes for _, outcomes in plan.outcomes(store)]


def test_the_oracle_gives_the_rewards_of_the_data_set(tmp_path, shapes):
    found = labels_of(tmp_path, open_edits(shapes), OracleJudge(shapes))
    examples = ShapesSource(shapes, "train")
    for i, verdicts in enumerate(found):
        assert [verdict.score for verdict in verdicts] == examples[i].scores.tolist()
        assert tuple(verdict.feedback for verdict in verdicts) == examples[i].feedback


@pytest.mark.slow
def test_the_scorer_judges_by_its_calibration(tmp_path, shapes):
    data = open_edits(shapes)
    judge = ScorerJudge.load("shapes_scorer")
    for i, (following, preserving, quality) in enumerate(labels_of(tmp_path, data, judge)):
        record = data[i]
        score = judge.scorer.score(record.source, record.edited, record.instruction)
        assert preserving == NoVerdict("not judged", "the scorer has no prompt for preserving")
        for verdict, raw in ((following, score.raw[0]), (quality, score.raw[1])):
            assert isinstance(verdict, Verdict)
            assert verdict.score == pytest.approx(5 * judge.scorer.calibration.shares(raw[None])[0], abs=1e-4)
            assert verdict.feedback == ""
        assert np.isfinite(score.calibrated)
