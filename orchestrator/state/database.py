"""The SQLite file of an instance: opened, made, upgraded; one durable transaction at a time. WAL, synchronous=FULL.

In: a path. Out: rows for the rooms beside it (`store`, `words`, `events`, `sources`). Failures of disk or file become
HostError with the path and the next step; on a full disk it can still be read, and a stack be deleted. Must not know
what any table means, but for tombstones.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import HostError
from orchestrator.state import full

SCHEMA = 2
BUSY_SECONDS = 10.0

# One list of statements for each version; a database of version N has had the first N.
VERSIONS = (
    """
CREATE TABLE revisions (
  stack TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL, document TEXT, sources TEXT NOT NULL,
  created REAL NOT NULL, PRIMARY KEY (stack, number)
) WITHOUT ROWID;
CREATE TABLE runs (
  run INTEGER PRIMARY KEY, stack TEXT NOT NULL, revision INTEGER NOT NULL, began REAL NOT NULL, ended REAL NOT NULL,
  outcome TEXT NOT NULL
);
CREATE INDEX runs_of_stack ON runs (stack, run);
CREATE TABLE step_results (
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE, number INTEGER NOT NULL, op TEXT NOT NULL,
  ref TEXT NOT NULL, id TEXT NOT NULL, status TEXT NOT NULL, seconds REAL NOT NULL, error TEXT,
  PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE events (
  event INTEGER PRIMARY KEY, at REAL NOT NULL, stack TEXT NOT NULL, ref TEXT NOT NULL, what TEXT NOT NULL,
  text TEXT NOT NULL
);
CREATE INDEX events_of_stack ON events (stack, event);
""",
    """
ALTER TABLE revisions ADD COLUMN prune_data INTEGER NOT NULL DEFAULT 0;
ALTER TABLE revisions ADD COLUMN author TEXT NOT NULL DEFAULT '';
CREATE TABLE words (
  stack TEXT NOT NULL, ref TEXT NOT NULL, word TEXT NOT NULL, at REAL NOT NULL, since_boot REAL NOT NULL,
  boot TEXT NOT NULL, author TEXT NOT NULL, PRIMARY KEY (stack, ref, word)
) WITHOUT ROWID;
ALTER TABLE events ADD COLUMN key TEXT;
CREATE UNIQUE INDEX events_once ON events (key) WHERE key IS NOT NULL;
CREATE TABLE sources (
  source INTEGER PRIMARY KEY, kind TEXT NOT NULL, settings TEXT NOT NULL, holder TEXT NOT NULL, created REAL NOT NULL,
  state TEXT NOT NULL DEFAULT '{}'
);
""",
)


class Database:
    """Several threads may share it: each call has it alone. `clock`: wall clock, Unix seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        """Opens or makes the database. HostError: it cannot be read, is damaged, or is of a newer version."""
        self.path = path
        self.clock = clock
        self.tombstones = full.Tombstones(path)
        self._refusal: sqlite3.Error | None = None  # why a copy is looked at, not the file
        self._alone = threading.RLock()
        self._place = _place(path)  # of the file that is open
        with self.told():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = self._connect()
            self._place = _place(self.path)

    def close(self) -> None:
        self._db.close()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a SELECT."""
        with self.told():
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction, told of as HostError when it fails."""
        with self.told(), self.transaction() as db:
            yield db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction, which also appends the tombstones for which there was no space before."""
        if self._refusal is not None:
            raise self._refusal
        with _transaction(self._db):
            late = self.tombstones.all()
            for stack, number, prune_data in late:
                found = self.newest(stack)
                if found and found[0] == number:
                    self.bury(stack, *found, prune_data=prune_data)
            yield self._db
        self.tombstones.clear(late)

    def newest(self, stack: str) -> tuple[int, str] | None:
        """(number, digest) of the newest revision in the file."""
        found: tuple[int, str] | None = self._db.execute(
            "SELECT number, digest FROM revisions WHERE stack = ? ORDER BY number DESC LIMIT 1", (stack,)
        ).fetchone()
        return found

    def bury(self, stack: str, last: int, digest: str, *, prune_data: bool, author: str = "") -> int:
        """Within a transaction: the tombstone after revision `last`, or what `prune_data` says for the one that it is (no
        digest). An operator's words on the stack end with it. Its number."""
        if last and not digest:
            if prune_data:
                statement = "UPDATE revisions SET prune_data = 1 WHERE stack = ? AND number = ?"
                self._db.execute(statement, (stack, last))
            return last
        self._db.execute(
            "INSERT INTO revisions (stack, number, digest, document, sources, created, prune_data, author) "
            "VALUES (?, ?, '', NULL, '[]', ?, ?, ?)",
            (stack, last + 1, self.clock(), prune_data, author),
        )
        self._db.execute("DELETE FROM words WHERE stack = ?", (stack,))
        return last + 1

    @contextmanager
    def told(self) -> Iterator[None]:
        """What SQLite and the file system say, as HostError. After a failed write nothing is taken as written."""
        try:
            with self._alone:
                self._renew()
                yield
        except sqlite3.Error as error:
            text = str(error).lower()
            if full.refused(error) and full.full(self.path):
                text = "the disk is full"
            raise HostError(f"{self.path}: {text}", hint=_hint(text)) from error
        except OSError as error:
            raise HostError(f"{self.path}: {(error.strerror or str(error)).lower()}") from error

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._opened(_open(self.path))
        except sqlite3.Error as error:
            copy = full.copied(self.path, timeout=BUSY_SECONDS) if full.refused(error) else None
            if copy is None:
                raise
            self._refusal = error
        return self._opened(copy)

    def _opened(self, db: sqlite3.Connection) -> sqlite3.Connection:
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = _version(db)
        if version > SCHEMA:
            raise HostError(
                f"{self.path} was written by a newer version of this program (schema {version}, known: {SCHEMA})",
                hint="use that version again; nothing was changed",
            )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        if version < SCHEMA:
            with _transaction(db):
                for number in range(_version(db), SCHEMA):  # asked again: somebody may have been faster
                    for statement in VERSIONS[number].split(";"):
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA}")
            if self._refusal is None:
                self.path.chmod(0o600)

    def _renew(self) -> None:
        """From a copy back to the file, as soon as that can be opened; and to the file that is there now, where somebody
        took ours away: what is written to a file without a name is lost."""
        if self._refusal is None and self._place == _place(self.path):
            return
        copy = self._db
        try:
            self._refusal = None
            self._db = self._opened(_open(self.path))
        except sqlite3.Error as error:
            self._refusal = error
        else:
            self._place = _place(self.path)
            copy.close()


def _place(path: Path) -> tuple[int, int] | None:
    """(device, inode); None: there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _version(db: sqlite3.Connection) -> int:
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """IMMEDIATE, so that two writers queue instead of failing half-way."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _hint(text: str) -> str:
    if "full" in text or "i/o" in text:
        return (
            "make space or mend the disk, then run the command again; what runs goes on, and can be deleted"
        )
    if "locked" in text or "busy" in text:
        return "another command writes to it; run this one again"
    if "readonly" in text or "unable to open" in text:
        return "run as root, or name another folder with --root"
    return "move the file away and apply again: what runs is adopted, only history is lost"
