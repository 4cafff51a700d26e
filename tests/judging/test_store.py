"""The store: answers and failures by key, other versions and programs, merging, two writers."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.judging.database import StoreError
from rewardedit_jax.judging.questions import EditId, ask_each
from rewardedit_jax.judging.store import Answer, Store, Usage

QUESTIONS = ask_each("openai", "m", {"following": "a", "preserving": "b", "quality": "c"})
FIRST = QUESTIONS[0]
EDITS = [EditId("0" * 64, "1" * 64, f"edit {i}") for i in range(4)]
KEYS = [FIRST.id + edit.digest for edit in EDITS]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.add_questions(QUESTIONS)
        yield store


def test_an_answer_comes_back(store, tmp_path):
    answer = Answer("text", "stop", 10, 5, "served", 1.5, "2026-01-01T00:00:00+00:00")
    store.add_answer(KEYS[0], EDITS[0], answer)
    store.add_failure(KEYS[1], NoVerdict("timeout", "no response"))
    assert store.replies(KEYS) == {KEYS[0]: answer, KEYS[1]: NoVerdict("timeout", "no response")}
    assert store.answered(FIRST) == {EDITS[0].digest}
    assert store.answered(QUESTIONS[1]) == set()
    assert sorted(store.questions(), key=QUESTIONS.index) == QUESTIONS


def test_an_answer_ends_a_failure_and_keeps_earlier_answers(store):
    for outcome in (
        NoVerdict("timeout"),
        Answer("one", "", 10, 1),
        NoVerdict("timeout"),
        Answer("two", "", None, None),
    ):
        if isinstance(outcome, Answer):
            store.add_answer(KEYS[0], EDITS[0], outcome)
        else:
            store.add_failure(KEYS[0], outcome)
    assert store.replies(KEYS)[KEYS[0]].text == "two"
    assert store.usage(QUESTIONS) == Usage(2, 10, 1, 1)


@pytest.mark.parametrize(
    "change", [{"judge": "x"}, {"model": "x"}, {"perspective": "quality"}, {"rubric": "x"}, {"images": "x"},
               {"order": "edited first"}, {"repetition": 1}]
)  # fmt: skip
def test_each_part_of_a_question_is_part_of_the_key(change):
    assert replace(FIRST, **change).id != FIRST.id


def test_each_part_of_an_edit_is_part_of_the_key():
    edit = EDITS[0]
    others = [edit._replace(source="2" * 64), edit._replace(edited="2" * 64), edit._replace(instruction="x")]
    others.append(EditId(edit.edited, edit.source, edit.instruction))
    assert len({other.digest for other in [edit, *others]}) == 5


def test_texts_that_utf8_cannot_express_are_stored(store):
    store.add_answer(KEYS[0], EDITS[0]._replace(instruction="\ud800"), Answer("a\udfffb\0c"))
    assert store.replies(KEYS)[KEYS[0]].text == "a?b\0c"


def test_the_view_shows_everything(store):
    store.add_answer(KEYS[0], EDITS[0], Answer("text", "stop", 10, 5))
    with sqlite3.connect(store.path) as database:
        database.row_factory = sqlite3.Row
        (row,) = map(dict, database.execute("SELECT * FROM readable"))
    expected = {"model": "m", "perspective": "following", "instruction": "edit 0", "text": "text", "attempt": 0}
    assert row.items() >= expected.items()
    assert bytes.fromhex(row["key"]) == KEYS[0]


def test_a_second_writer_is_refused(store):
    with pytest.raises(StoreError, match="in use"):
        Store(store.path, create=True)
    with Store(store.path) as reader:
        assert reader.questions()


def test_a_second_writer_may_wait(store):
    """In a thread of its own, which holds until the first writer has closed the store."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: Store(store.path, create=True, wait=True).close())
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        store.close()
        waiting.result(10)


@pytest.mark.parametrize("create", [True, False])
def test_other_files_are_refused_and_not_changed(tmp_path, create):
    text, other, newer = (tmp_path / name for name in ("text", "other", "newer"))
    text.write_text("no database " * 100)
    for file, version in ((other, 0), (newer, 99)):
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE answers (x)")
            database.execute(f"PRAGMA user_version = {version}")
    for file, named in ((text, "no store"), (other, "another program"), (newer, "version 99")):
        before = file.read_bytes()
        with pytest.raises(StoreError, match=named) as refused:
            Store(file, create=create)
        assert str(file) in str(refused.value)
        assert file.read_bytes() == before
        with pytest.raises(StoreError, match=named):  # the lock of the first try is gone
            Store(file, create=create)


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        Store(tmp_path / "nowhere")


def test_merging_keeps_the_first_of_two_answers(store, tmp_path):
    store.add_answer(KEYS[0], EDITS[0], Answer("same"))
    store.add_answer(KEYS[1], EDITS[1], Answer("mine"))
    store.add_failure(KEYS[2], NoVerdict("timeout"))
    with Store(tmp_path / "part", create=True) as part:
        part.add_questions(
            [*QUESTIONS, *ask_each("openai", "n", dict.fromkeys(("following", "preserving", "quality"), ""))]
        )
        for n, text in enumerate(("same", "theirs", "new")):
            part.add_answer(KEYS[n], EDITS[n], Answer(text))
        part.add_failure(KEYS[3], NoVerdict("timeout"))
    assert store.merge(tmp_path / "part") == (1, 1, 1)
    assert [getattr(reply, "text", reply.__class__) for reply in map(store.replies(KEYS).get, KEYS)] == [
        "same", "mine", "new", NoVerdict,
    ]  # fmt: skip
    assert len(store.questions()) == 6
    assert store.merge(tmp_path / "part") == (0, 2, 1)
    with pytest.raises(StoreError, match="nowhere"):
        store.merge(tmp_path / "nowhere")


def test_many_keys_are_looked_up_in_parts(store, monkeypatch):
    monkeypatch.setattr("rewardedit_jax.judging.store._PER_QUERY", 2)
    for key, edit in zip(KEYS, EDITS, strict=True):
        store.add_answer(key, edit, Answer(edit.instruction))
    assert [store.replies(KEYS)[key].text for key in KEYS] == [edit.instruction for edit in EDITS]
