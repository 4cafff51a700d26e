"""The store of a judge's answers: one SQLite file that a run can be killed over at any moment.

Each answer is a row of its own with its raw text and usage, committed when it arrives. A second answer to one question
about one edit (`--ask-again`) is a further row: nothing that was paid for is overwritten. Failures of transport, which
cost nothing, lie in a table of their own, and an answer removes them. `SELECT * FROM readable` shows everything.
"""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.judging.questions import EditId, Question, edit_of

VERSION = 1  # of the tables, in `PRAGMA user_version`
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
# Answers are small: this is room for those of all requests under way, and for the log of SQLite to grow.
_ROOM = 2**21
_CACHE_KIB = 128 * 1024  # of the file's pages, for lookups all over a store of a gigabyte


class Answer(NamedTuple):
    """What a judge answered, as it came."""

    text: str  # content of the message, or its refusal
    finish: str = ""  # finish_reason; "refusal" where the endpoint gave a refusal
    prompt_tokens: int | None = None  # None: the judge does not say
    completion_tokens: int | None = None
    served_model: str = ""  # the endpoint's name of the model that answered
    seconds: float | None = None
    answered_at: str = ""  # UTC, ISO 8601


class StoreError(ValueError):
    """A store cannot be read or written; the message names the file and the remedy."""


class Usage(NamedTuple):
    """What answers cost."""

    answers: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int  # answers without usage


class Store:
    """An open store. Not for several threads; a second process that would write is refused."""

    def __init__(self, path: str | Path, *, create: bool = False):
        """Opens the file, for reading unless `create`: then also for writing, and a missing file is created.

        Raises:
          StoreError: it is missing, of another program or version, in use, or cannot be read. It is not changed.
        """
        self.path, self._writes, self._database = Path(path), create, None
        if not create and not self.path.is_file():
            raise StoreError(f"no store {path}: launch/label.py --store writes it.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked() if create else None
        try:
            with self._errors():
                location = self.path if create else self._uri
                self._database = sqlite3.connect(location, uri=not create, isolation_level=None)
                self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, and lets another run write to it."""
        if self._database is not None:
            self._database.close()
        if self._lock is not None:
            os.close(self._lock)
        self._database = self._lock = None

    def questions(self) -> list[Question]:
        """All questions that have an answer or a failure, in a fixed order."""
        columns = "judge, model, perspective, rubric, images, image_order, repetition"
        with self._errors():
            rows = self._database.execute(f"SELECT {columns} FROM questions ORDER BY {columns}").fetchall()
        return [Question(*row) for row in rows]

    def answered(self, question: Question) -> set[bytes]:
        """Digests of the edits that have an answer to a question, readable or not."""
        with self._errors():
            # Read from the index alone: a second for a million answers.
            rows = self._database.execute("SELECT key FROM answers WHERE key >= ? AND key < ?", _range(question))
            return {edit_of(key) for (key,) in rows}

    def replies(self, keys: Sequence[bytes]) -> dict[bytes, Answer | NoVerdict]:
        """The last answer to each key, or else its failure. Keys without either are missing."""
        found: dict[bytes, Answer | NoVerdict] = {}
        for some in (keys[i : i + _PER_QUERY] for i in range(0, len(keys), _PER_QUERY)):
            asked = f"WHERE key IN ({','.join('?' * len(some))})"
            with self._errors():
                failures = self._database.execute(f"SELECT key, reason, detail FROM failures {asked}", some)
                found |= {key: NoVerdict(*rest) for key, *rest in failures}
                answers = self._database.execute(f"SELECT key, {_COLUMNS} FROM answers {asked} ORDER BY attempt", some)
                found |= {row[0]: Answer(*row[1:]) for row in answers}
        return found

    def add_questions(self, questions: Sequence[Question]) -> None:
        """Makes questions known, before answers to them are added."""
        with self._writing() as database:
            rows = [(question.id, *astuple(question)) for question in questions]
            database.executemany("INSERT OR IGNORE INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_answer(self, key: bytes, edit: EditId, answer: Answer) -> None:
        """Adds an answer, after earlier ones to the same key, and removes the key's failure."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO answers SELECT ?, coalesce(max(attempt) + 1, 0), ?, ?, ?, ?, ?, ?, ?, ?, ?, ? "
                "FROM answers WHERE key = ?",
                (key, *map(_storable, (*edit, *answer)), key),
            )
            database.execute("DELETE FROM failures WHERE key = ?", (key,))

    def add_failure(self, key: bytes, failure: NoVerdict, failed_at: str = "") -> None:
        """Keeps why an item has no answer, in place of an earlier failure."""
        row = key, failure.reason, _storable(failure.detail), failed_at
        with self._writing() as database:
            database.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", row)

    def usage(self, questions: Sequence[Question]) -> Usage:
        """What all answers to these questions have used, those that were asked again included."""
        query = (
            "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "
            "count(*) - count(prompt_tokens + completion_tokens) FROM answers WHERE key >= ? AND key < ?"
        )
        with self._errors():
            rows = [self._database.execute(query, _range(question)).fetchone() for question in questions]
        return Usage(*map(sum, zip(*rows, strict=True)))

    def check_room(self) -> None:
        """Raises `StoreError` if the disk is so full that answers under way might not be stored."""
        if shutil.disk_usage(self.path.parent).free < _ROOM:
            raise StoreError(f"{self.path}: less than {_ROOM >> 20} MiB are free there. {_FREE_SPACE}")

    def merge(self, part: Path) -> "Merged":
        """Adds what another store has. Of two different answers to one key, the one that is here already is kept.

        A merge that is stopped changes nothing.
        """
        with closing(Store(part)):  # refuses what is no store of this version
            pass
        with self._errors():
            self._database.execute("ATTACH ? AS part", (str(part),))
        try:
            with self._writing() as database:
                counts = Merged(*(database.execute(query).fetchone()[0] for query in (_NEW, _SAME, _CONFLICTS)))
                for query in _MERGE:
                    database.execute(query)
            return counts
        finally:
            self._database.execute("DETACH part")

    @property
    def _uri(self) -> str:
        # In a folder without write permission SQLite cannot open its shared memory: the file is then read as it is.
        log = self.path.with_name(f"{self.path.name}-wal")
        frozen = not os.access(self.path.parent, os.W_OK) and not log.exists()
        return f"{self.path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if frozen else "")

    def _locked(self) -> int:
        """The descriptor of a lock that ends with this process. Two runs over one store would pay twice."""
        # A file beside the store: closing a descriptor of the store itself would drop SQLite's own locks.
        descriptor = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreError(f"{self.path} is in use by another run: wait for it, or give another store.") from None
        return descriptor

    def _prepare(self) -> None:
        self._check_version()
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if self._writes:
            # With a write-ahead log a commit is one append. It survives a kill; without a sync for each commit, a power
            # failure may lose the last answers, never the file.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")

    def _check_version(self) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables and not version and self._writes:
            # One transaction: a kill leaves an empty file, which the next run takes for a new one.
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            found = f"has version {version} of the tables" if version else "is a database of another program"
            raise StoreError(
                f"{self.path} {found}; this program reads version {VERSION}: give another store, or use the version "
                "of rewardedit_jax that wrote it. It was not changed."
            )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                # SQLite itself has rolled back after some errors, such as a full disk.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises `StoreError`, naming the file, for errors of SQLite in the block."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {_reason(error)}") from error


class Merged(NamedTuple):
    """What a merge found in the other store."""

    new: int  # answers that were added
    same: int  # answers that both have
    conflicts: int  # keys with different answers: the other store's are left out


_FREE_SPACE = "Free some space and run the same command again; all answers so far are stored."
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


def _reason(error: sqlite3.Error) -> str:
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and ("full" in text or "I/O" in text):
        return f"it cannot be written ({text}). {_FREE_SPACE}"
    if "not a database" in text or "malformed" in text:
        return f"it is no store ({text}): give another file."
    return f"{text}."
