"""One SQLite file with a version, a lock against a second writer, and errors in one sentence."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from absl import logging

# Answers are small: this is room for those of all requests under way, and for the log of SQLite to grow.
_ROOM = 2**21
_CACHE_KIB = 128 * 1024  # of the file's pages, for lookups all over a store of a gigabyte
_FREE_SPACE = "Free some space and run the same command again; all answers so far are stored."


class StoreError(ValueError):
    """A store cannot be read or written; the message names the file and the remedy."""


class Database:
    """An open file. Not for several threads; a second process that would write is refused."""

    schema: ClassVar[str]  # SQL that creates the tables
    version: ClassVar[int]  # of the tables, kept in `PRAGMA user_version`

    def __init__(self, path: str | Path, *, create: bool = False, wait: bool = False):
        """Opens the file, for reading unless `create`: then also for writing, and a missing file is created.

        Args:
          wait: for another run that uses the file, instead of an error.
        Raises:
          StoreError: it is missing, of another program or version, in use, or cannot be read. It is not changed.
        """
        self.path, self._writes, self.connection = Path(path), create, None
        if not create and not self.path.is_file():
            raise StoreError(f"no store {path}: launch/label.py --store writes it.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked(wait) if create else None
        try:
            with self.errors():
                location = self.path if create else self._uri
                self.connection = sqlite3.connect(location, uri=not create, isolation_level=None)
                self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, and lets another run write to it."""
        if self.connection is not None:
            self.connection.close()
        if self._lock is not None:
            os.close(self._lock)
        self.connection = self._lock = None

    def check_room(self) -> None:
        """Raises `StoreError` if the disk is so full that answers under way might not be stored."""
        if shutil.disk_usage(self.path.parent).free < _ROOM:
            raise StoreError(f"{self.path}: less than {_ROOM >> 20} MiB are free there. {_FREE_SPACE}")

    @property
    def _uri(self) -> str:
        # In a folder without write permission SQLite cannot open its shared memory: the file is then read as it is.
        log = self.path.with_name(f"{self.path.name}-wal")
        frozen = not os.access(self.path.parent, os.W_OK) and not log.exists()
        return f"{self.path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if frozen else "")

    def _locked(self, wait: bool) -> int:
        """The descriptor of a lock that ends with this process. Two runs over one store would pay twice."""
        # A file beside the store: closing a descriptor of the store itself would drop SQLite's own locks.
        descriptor = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                os.close(descriptor)
                raise StoreError(f"{self.path} is in use by another run: wait for it, or give another store.") from None
            logging.info("%s is in use by another run: waiting for it", self.path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def _prepare(self) -> None:
        self._check_version()
        self.connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if self._writes:
            # With a write-ahead log a commit is one append. It survives a kill; without a sync for each commit, a power
            # failure may lose the last answers, never the file.
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")

    def _check_version(self) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        tables = self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables and not version and self._writes:
            # One transaction: a kill leaves an empty file, which the next run takes for a new one.
            self.connection.executescript(f"BEGIN; {self.schema} PRAGMA user_version = {self.version}; COMMIT;")
        elif version != self.version:
            other = "is a database of another program" if tables else "is empty"
            found = f"has version {version} of the tables" if version else other
            raise StoreError(
                f"{self.path} {found}; this program reads version {self.version}: give another store, or use the "
                "version of rewardedit_jax that wrote it. It was not changed."
            )

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self.errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                # SQLite itself has rolled back after some errors, such as a full disk.
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raises `StoreError`, naming the file, for errors of SQLite in the block."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {_reason(error)}") from error


def _reason(error: sqlite3.Error) -> str:
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and ("full" in text or "I/O" in text):
        return f"it cannot be written ({text}). {_FREE_SPACE}"
    if "not a database" in text or "malformed" in text:
        return f"it is no store ({text}): give another file."
    return f"{text}."
