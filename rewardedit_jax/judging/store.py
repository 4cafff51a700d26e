"""The store of a judge's answers: one SQLite file that a run can be killed over at any moment.

Each answer is a row of its own with its raw text and usage, committed when it arrives. A second answer to one question
about one edit (`--ask-again`) is a further row: nothing that was paid for is overwritten. Failures of transport, which
cost nothing, lie in a table of their own, and an answer removes them. `SELECT * FROM readable` shows everything.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.judging.database import Database
from rewardedit_jax.judging.questions import EditId, Question, edit_of

VERSION = 1  # of the tables
_SCHEMA = """
CREATE TABLE questions (
  id BLOB PRIMARY KEY, judge TEXT, model TEXT, perspective TEXT, rubric TEXT, images TEXT, image_order TEXT,
  repetition INTEGER
) WITHOUT ROWID;
CREATE TABLE answers (
  key BLOB NOT NULL, attempt INTEGER NOT NULL, source TEXT, edited TEXT, instruction TEXT, text TEXT, finish TEXT,
  prompt_tokens INTEGER, completion_tokens INTEGER, served_model TEXT, seconds REAL, answered_at TEXT,
  UNIQUE (key, attempt)
);
CREATE TABLE failures (key BLOB PRIMARY KEY, reason TEXT, detail TEXT, failed_at TEXT) WITHOUT ROWID;
CREATE VIEW readable AS
  SELECT hex(key) AS key, attempt, judge, model, perspective, rubric, images, image_order, repetition, source, edited,
    instruction, text, finish, prompt_tokens, completion_tokens, served_model, seconds, answered_at
  FROM answers JOIN questions ON id = substr(key, 1, 8);
"""
_COLUMNS = "text, finish, prompt_tokens, completion_tokens, served_model, seconds, answered_at"
_PER_QUERY = 1500  # keys; SQLite takes 32,766 values


class Answer(NamedTuple):
    """What a judge answered, as it came."""

    text: str  # content of the message, or its refusal
    finish: str = ""  # finish_reason; "refusal" where the endpoint gave a refusal
    prompt_tokens: int | None = None  # None: the judge does not say
    completion_tokens: int | None = None
    served_model: str = ""  # the endpoint's name of the model that answered
    seconds: float | None = None
    answered_at: str = ""  # UTC, ISO 8601


class Usage(NamedTuple):
    """What answers cost."""

    answers: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int  # answers without usage


class Store(Database):
    """An open store of answers."""

    schema, version = _SCHEMA, VERSION

    def questions(self) -> list[Question]:
        """All questions that have an answer or a failure, in a fixed order."""
        columns = "judge, model, perspective, rubric, images, image_order, repetition"
        with self.errors():
            rows = self.connection.execute(f"SELECT {columns} FROM questions ORDER BY {columns}").fetchall()
        return [Question(*row) for row in rows]

    def answered(self, question: Question) -> set[bytes]:
        """Digests of the edits that have an answer to a question, readable or not."""
        with self.errors():
            # Read from the index alone: a second for a million answers.
            rows = self.connection.execute("SELECT key FROM answers WHERE key >= ? AND key < ?", _range(question))
            return {edit_of(key) for (key,) in rows}

    def replies(self, keys: Sequence[bytes]) -> dict[bytes, Answer | NoVerdict]:
        """The last answer to each key, or else its failure. Keys without either are missing."""
        found: dict[bytes, Answer | NoVerdict] = {}
        for some in (keys[i : i + _PER_QUERY] for i in range(0, len(keys), _PER_QUERY)):
            asked = f"WHERE key IN ({','.join('?' * len(some))})"
            with self.errors():
                failures = self.connection.execute(f"SELECT key, reason, detail FROM failures {asked}", some)
                found |= {key: NoVerdict(*rest) for key, *rest in failures}
                answers = self.connection.execute(f"SELECT key, {_COLUMNS} FROM answers {asked} ORDER BY attempt", some)
                found |= {row[0]: Answer(*row[1:]) for row in answers}
        return found

    def add_questions(self, questions: Sequence[Question]) -> None:
        """Makes questions known, before answers to them are added."""
        with self.writing() as database:
            rows = [(question.id, *astuple(question)) for question in questions]
            database.executemany("INSERT OR IGNORE INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_answer(self, key: bytes, edit: EditId, answer: Answer) -> None:
        """Adds an answer, after earlier ones to the same key, and removes the key's failure."""
        with self.writing() as database:
            database.execute(
                "INSERT INTO answers SELECT ?, coalesce(max(attempt) + 1, 0), ?, ?, ?, ?, ?, ?, ?, ?, ?, ? "
                "FROM answers WHERE key = ?",
                (key, *map(_storable, (*edit, *answer)), key),
            )
            database.execute("DELETE FROM failures WHERE key = ?", (key,))

    def add_failure(self, key: bytes, failure: NoVerdict, failed_at: str = "") -> None:
        """Keeps why an item has no answer, in place of an earlier failure."""
        row = key, failure.reason, _storable(failure.detail), failed_at
        with self.writing() as database:
            database.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", row)

    def usage(self, questions: Sequence[Question]) -> Usage:
        """What all answers to these questions have used, those that were asked again included."""
        query = (
            "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "
            "count(*) - count(prompt_tokens + completion_tokens) FROM answers WHERE key >= ? AND key < ?"
        )
        with self.errors():
            rows = [self.connection.execute(query, _range(question)).fetchone() for question in questions]
        return Usage(*map(sum, zip(*rows, strict=True)))

    def merge(self, part: Path) -> "Merged":
        """Adds what another store has. Of two different answers to one key, the one that is here already is kept.

        A merge that is stopped changes nothing.
        """
        with closing(Store(part)):  # refuses what is no store of this version
            pass
        with self.errors():
            self.connection.execute("ATTACH ? AS part", (str(part),))
        try:
            with self.writing() as database:
                counts = Merged(*(database.execute(query).fetchone()[0] for query in (_NEW, _SAME, _CONFLICTS)))
                for query in _MERGE:
                    database.execute(query)
            return counts
        finally:
            self.connection.execute("DETACH part")


class Merged(NamedTuple):
    """What a merge found in the other store."""

    new: int  # answers that were added
    same: int  # answers that both have
    conflicts: int  # keys with different answers: the other store's are left out


_BOTH = "FROM part.answers AS b JOIN main.answers AS a ON a.key = b.key AND a.attempt = b.attempt"
_NEW = "SELECT count(*) FROM part.answers WHERE key NOT IN (SELECT key FROM main.answers)"
_SAME = f"SELECT count(*) {_BOTH} WHERE a.text = b.text"
_CONFLICTS = f"SELECT count(DISTINCT a.key) {_BOTH} WHERE a.text <> b.text"
_MERGE = (
    "INSERT OR IGNORE INTO main.questions SELECT * FROM part.questions",
    # By key, not by attempt: attempts of two machines on one key are no sequence.
    "INSERT INTO main.answers SELECT * FROM part.answers WHERE key NOT IN (SELECT key FROM main.answers)",
    "INSERT OR IGNORE INTO main.failures SELECT * FROM part.failures",
    "DELETE FROM main.failures WHERE key IN (SELECT key FROM main.answers)",
)


def _range(question: Question) -> tuple[bytes, bytes]:
    """The keys of a question lie from the first to before the second."""
    first = question.id
    # One byte more than any key of the question: b"...\xff" * 16 is below it.
    return first, first + b"\xff" * 17


def _storable(value: object) -> object:
    # A JSON text may contain half a surrogate pair, which UTF-8 cannot express.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
