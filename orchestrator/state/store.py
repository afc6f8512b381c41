"""The database of one instance: revisions of stacks, runs with their step results, events. SQLite, WAL, synchronous=FULL.

In: values to append. Out: values read. A revision is durable when `commit_revision` returns. Deleting a stack appends a
tombstone: history stays. Failures of disk or file become HostError with the path and the next step; on a full disk it
can still be read, and a stack be deleted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import HostError
from orchestrator.state import full

SCHEMA = 1
RUNS_KEPT = 100
BUSY_SECONDS = 10.0

TABLES = """
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
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """`document`: `state.document` data. `sources`: the files it was read from. `created`: wall clock, Unix seconds."""

    stack: str
    number: int
    digest: str
    document: Mapping[str, Any]
    sources: tuple[str, ...]
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step's end. `status`: done, failed or skipped."""

    number: int
    op: str
    ref: str
    id: str
    status: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass that had steps. Times: wall clock, Unix seconds. `revision` 0: there was none."""

    stack: str
    revision: int
    began: float
    ended: float
    outcome: str
    steps: tuple[StepRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something worth telling later. `ref` may be empty (the whole stack)."""

    at: float
    stack: str
    ref: str
    what: str
    text: str


class Store:
    """Open for one thread; use as a context manager or call `close`. `clock`: wall clock, Unix seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        """Opens or makes the database. HostError: it cannot be read, is damaged, or is of a newer version."""
        self.path = path
        self.clock = clock
        self._tombstones = full.Tombstones(path)
        self._refusal: sqlite3.Error | None = None  # why a copy is looked at, not the file
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._opened(sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None))
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
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise HostError(
                f"{self.path} was written by a newer version of this program (schema {version}, known: {SCHEMA})",
                hint="use that version again; nothing was changed",
            )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        if version == 0:
            with _transaction(db):
                if not db.execute("PRAGMA user_version").fetchone()[0]:  # nobody was faster
                    for statement in TABLES.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version={SCHEMA}")
            if self._refusal is None:
                self.path.chmod(0o600)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # revisions

    def commit_revision(
        self, stack: str, document: Mapping[str, Any], digest: str, *, sources: Sequence[str] = ()
    ) -> int:
        """The number of the stack's newest revision, which holds `document`; a new one unless the digest is the same.

        With the same digest the places of the document are renewed: lines may have moved.
        """
        text = json.dumps(document, separators=(",", ":"))
        written = json.dumps(list(sources))
        with self._told(), self._writing():
            last = self._last(stack)
            if last and last[1] == digest:
                self._db.execute(
                    "UPDATE revisions SET document = ?, sources = ? WHERE stack = ? AND number = ?",
                    (text, written, stack, last[0]),
                )
                return int(last[0])
            number = last[0] + 1 if last else 1
            self._db.execute(
                "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?)",
                (stack, number, digest, text, written, self.clock()),
            )
        return int(number)

    def forget(self, stack: str) -> int:
        """Nothing is wished of the stack any more: appends a tombstone, returns its number (0: it was never there).

        Works on a full disk too, where deleting is what makes space: the next write that succeeds appends it.
        """
        with self._told():
            last = self._last(stack)
            if last is None or last[1] == "":
                return int(last[0]) if last else 0
            try:
                with self._writing():
                    return self._bury(stack)
            except sqlite3.Error as error:
                if not full.refused(error):
                    raise
            self._tombstones.mark(stack, last[0])
        return last[0] + 1

    def _bury(self, stack: str) -> int:
        last = self._last(stack)
        if last is None or last[1] == "":  # somebody was faster
            return last[0] if last else 0
        self._db.execute(
            "INSERT INTO revisions VALUES (?, ?, '', NULL, '[]', ?)", (stack, last[0] + 1, self.clock())
        )
        return last[0] + 1

    def latest(self, stack: str) -> Revision | None:
        """The newest revision; None when there is none or the stack was deleted."""
        with self._told():
            row = self._db.execute(
                "SELECT number, digest, document, sources, created FROM revisions WHERE stack = ? "
                "ORDER BY number DESC LIMIT 1",
                (stack,),
            ).fetchone()
        if row is None or row[2] is None or self._tombstones.marked(stack, row[0]):
            return None
        return Revision(
            stack=stack,
            number=row[0],
            digest=row[1],
            document=json.loads(row[2]),
            sources=tuple(json.loads(row[3])),
            created=row[4],
        )

    def number(self, stack: str) -> int:
        """The newest revision's number, tombstones too; 0 when there is none. Cheap: asked between steps."""
        with self._told():
            last = self._last(stack)
        return int(last[0]) if last else 0

    def stacks(self) -> tuple[str, ...]:
        """The stacks that are wished for, by name."""
        with self._told():
            rows = self._db.execute(
                "SELECT stack, max(number), document IS NULL FROM revisions GROUP BY stack ORDER BY stack"
            ).fetchall()
        return tuple(
            stack
            for stack, number, deleted in rows
            if not deleted and not self._tombstones.marked(stack, number)
        )

    def _last(self, stack: str) -> tuple[int, str] | None:
        """(number, digest) of the newest revision; a tombstone's digest is empty."""
        found = self._newest(stack)
        return (found[0] + 1, "") if found and self._tombstones.marked(stack, found[0]) else found

    def _newest(self, stack: str) -> tuple[int, str] | None:
        found: tuple[int, str] | None = self._db.execute(
            "SELECT number, digest FROM revisions WHERE stack = ? ORDER BY number DESC LIMIT 1", (stack,)
        ).fetchone()
        return found

    # history

    def record_run(self, run: Run) -> int:
        """Appends one pass and all its step results in one transaction; keeps the last hundred of each stack."""
        with self._told(), self._writing():
            cursor = self._db.execute(
                "INSERT INTO runs (stack, revision, began, ended, outcome) VALUES (?, ?, ?, ?, ?)",
                (run.stack, run.revision, run.began, run.ended, run.outcome),
            )
            number = cursor.lastrowid or 0
            self._db.executemany(
                "INSERT INTO step_results VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(number, s.number, s.op, s.ref, s.id, s.status, s.seconds, s.error) for s in run.steps],
            )
            self._db.execute(
                "DELETE FROM runs WHERE stack = ? AND run <= "
                "(SELECT run FROM runs WHERE stack = ? ORDER BY run DESC LIMIT 1 OFFSET ?)",
                (run.stack, run.stack, RUNS_KEPT),
            )
        return number

    def runs(self, stack: str, *, limit: int = 10) -> tuple[Run, ...]:
        """The last passes, newest first."""
        with self._told():
            rows = self._db.execute(
                "SELECT run, revision, began, ended, outcome FROM runs WHERE stack = ? ORDER BY run DESC LIMIT ?",
                (stack, limit),
            ).fetchall()
            return tuple(
                Run(
                    stack=stack,
                    revision=row[1],
                    began=row[2],
                    ended=row[3],
                    outcome=row[4],
                    steps=self._steps(row[0]),
                )
                for row in rows
            )

    def _steps(self, run: int) -> tuple[StepRow, ...]:
        rows = self._db.execute(
            "SELECT number, op, ref, id, status, seconds, error FROM step_results WHERE run = ? ORDER BY number",
            (run,),
        )
        return tuple(
            StepRow(number=n, op=op, ref=ref, id=id, status=status, seconds=seconds, error=error)
            for n, op, ref, id, status, seconds, error in rows
        )

    def append_events(self, events: Sequence[Event]) -> None:
        with self._told(), self._writing():
            self._db.executemany(
                "INSERT INTO events (at, stack, ref, what, text) VALUES (?, ?, ?, ?, ?)",
                [(e.at, e.stack, e.ref, e.what, e.text) for e in events],
            )

    def events(self, stack: str, *, limit: int = 100) -> tuple[Event, ...]:
        """The last events, oldest first."""
        with self._told():
            rows = self._db.execute(
                "SELECT at, ref, what, text FROM events WHERE stack = ? ORDER BY event DESC LIMIT ?",
                (stack, limit),
            ).fetchall()
        return tuple(
            Event(at=at, stack=stack, ref=ref, what=what, text=text) for at, ref, what, text in rows[::-1]
        )

    # inside

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One durable transaction, which also appends the tombstones for which there was no space before."""
        if self._refusal is not None:
            raise self._refusal
        with _transaction(self._db):
            late = self._tombstones.all()
            for stack, number in late:
                found = self._newest(stack)
                if found and found[0] == number:
                    self._db.execute(
                        "INSERT INTO revisions VALUES (?, ?, '', NULL, '[]', ?)",
                        (stack, number + 1, self.clock()),
                    )
            yield
        self._tombstones.clear(late)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite and the file system say, as HostError. After a failed write nothing is taken as written."""
        try:
            self._renew()
            yield
        except sqlite3.Error as error:
            text = str(error).lower()
            if full.refused(error) and full.full(self.path):
                text = "the disk is full"
            raise HostError(f"{self.path}: {text}", hint=_hint(text)) from error
        except OSError as error:
            raise HostError(f"{self.path}: {(error.strerror or str(error)).lower()}") from error

    def _renew(self) -> None:
        """From a copy back to the file, as soon as that can be opened."""
        if self._refusal is None:
            return
        copy = self._db
        try:
            self._refusal = None
            self._db = self._opened(sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None))
        except sqlite3.Error as error:
            self._refusal = error
        else:
            copy.close()


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
