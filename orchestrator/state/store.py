"""Revisions of stacks and runs with their step results; the door to words, events and sources in the same file.

In: values to append. Out: values read. A revision is durable when `commit_revision` returns. Deleting a stack appends a
tombstone: history stays.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.state import full
from orchestrator.state.database import Database
from orchestrator.state.events import Events
from orchestrator.state.sources import Sources
from orchestrator.state.words import Words

RUNS_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """`document`: `state.document` data. `sources`: the files it was read from. `created`: wall clock, Unix seconds.
    `prune_data`: volumes that are not in it are deleted, with their data. `author`: who committed it, by which command."""

    stack: str
    number: int
    digest: str
    document: Mapping[str, Any]
    sources: tuple[str, ...]
    created: float
    prune_data: bool = False
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A revision without its document; `deleted`: it is a tombstone."""

    number: int
    digest: str
    created: float
    prune_data: bool
    author: str
    deleted: bool


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


class Store:
    """Use as a context manager or call `close`; threads may share it. `clock`: wall clock, Unix seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        """Opens or makes the database. HostError: it cannot be read, is damaged, or is of a newer version."""
        self.path = path
        self.clock = clock
        self._database = Database(path, clock=clock)
        self.words = Words(self._database)
        self.events = Events(self._database)
        self.sources = Sources(self._database)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # revisions

    def commit_revision(
        self,
        stack: str,
        document: Mapping[str, Any],
        digest: str,
        *,
        sources: Sequence[str] = (),
        prune_data: bool = False,
        author: str = "",
    ) -> int:
        """The number of the stack's newest revision, which holds `document`; a new one unless the digest is the same.

        With the same digest the places of the document are renewed (lines may have moved), and what may be pruned.
        """
        text = json.dumps(document, separators=(",", ":"))
        written = json.dumps(list(sources))
        for number, *known in self._database.rows(
            f"{_CONTENT} WHERE stack = ? ORDER BY number DESC LIMIT 1", (stack,)
        ):
            late = self._database.tombstones.marked(stack, number)
            if known == [text, written, int(prune_data)] and not late:
                return int(number)  # an unchanged apply waits for no disk
        with self._database.writing() as db:
            last = self._last(stack)
            if last and last[1] == digest:
                db.execute(
                    "UPDATE revisions SET document = ?, sources = ?, prune_data = ? WHERE stack = ? AND number = ?",
                    (text, written, prune_data, stack, last[0]),
                )
                return int(last[0])
            number = last[0] + 1 if last else 1
            db.execute(
                "INSERT INTO revisions (stack, number, digest, document, sources, created, prune_data, author) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (stack, number, digest, text, written, self.clock(), prune_data, author),
            )
        return int(number)

    def forget(
        self, stack: str, *, prune_data: bool = False, author: str = "", unrecorded: bool = False
    ) -> int:
        """Nothing is wished of the stack any more: appends a tombstone, returns its number (0: it was never there).
        `unrecorded`: also for a stack that no revision is about (its history was lost), which becomes the first.

        Works on a full disk too, where deleting is what makes space: the next write that succeeds appends it.
        """
        database = self._database
        with database.told():
            last = self._last(stack)
            if last is None and unrecorded:
                with database.transaction():
                    return database.bury(stack, 0, "", prune_data=prune_data, author=author)
            if last is None or (last[1] == "" and not prune_data):
                return last[0] if last else 0
            try:
                with database.transaction():
                    last = self._last(stack) or last  # somebody may have been faster
                    return database.bury(stack, *last, prune_data=prune_data, author=author)
            except sqlite3.Error as error:
                if not full.refused(error):
                    raise
            newest = database.newest(stack) or last
            database.tombstones.mark(stack, newest[0], prune_data=prune_data)
            return self.number(stack)

    def latest(self, stack: str) -> Revision | None:
        """The newest revision; None when there is none or the stack was deleted."""
        rows = self._database.rows(f"{_REVISION} WHERE stack = ? ORDER BY number DESC LIMIT 1", (stack,))
        if not rows or rows[0][2] is None or self._database.tombstones.marked(stack, rows[0][0]):
            return None
        return _revision(stack, rows[0])

    def revision(self, stack: str, number: int) -> Revision | None:
        """One revision; None: there is none of that number, or it is a tombstone."""
        rows = self._database.rows(f"{_REVISION} WHERE stack = ? AND number = ?", (stack, number))
        return _revision(stack, rows[0]) if rows and rows[0][2] is not None else None

    def mark(self, stack: str) -> Mark | None:
        """The newest revision without its document: cheap."""
        return next(iter(self.history(stack, limit=1)), None)

    def history(self, stack: str, *, limit: int = 1000) -> tuple[Mark, ...]:
        """The revisions, newest first, tombstones too."""
        rows = self._database.rows(
            "SELECT number, digest, created, prune_data, author, document IS NULL FROM revisions WHERE stack = ? "
            "ORDER BY number DESC LIMIT ?",
            (stack, limit),
        )
        found = [
            Mark(
                number=number,
                digest=digest,
                created=created,
                prune_data=bool(prune),
                author=author,
                deleted=bool(deleted),
            )
            for number, digest, created, prune, author, deleted in rows
        ]
        return tuple(self._with_late(stack, found)[:limit])

    def _with_late(self, stack: str, found: list[Mark]) -> list[Mark]:
        """With a deletion that is still only a mark beside the database."""
        if not found or not self._database.tombstones.marked(stack, found[0].number):
            return found
        last, prune_data = found[0], self._database.tombstones.prunes(stack, found[0].number)
        if last.deleted:
            return [replace(last, prune_data=prune_data), *found[1:]]
        late = replace(
            last, number=last.number + 1, digest="", prune_data=prune_data, author="", deleted=True
        )
        return [late, *found]

    def number(self, stack: str) -> int:
        """The newest revision's number, tombstones too; 0 when there is none. Cheap: asked between steps."""
        with self._database.told():
            last = self._last(stack)
        return int(last[0]) if last else 0

    def stacks(self) -> tuple[str, ...]:
        """The stacks that are wished for, by name."""
        rows = self._database.rows(
            "SELECT stack, max(number), document IS NULL FROM revisions GROUP BY stack ORDER BY stack"
        )
        marked = self._database.tombstones.marked
        return tuple(stack for stack, number, deleted in rows if not deleted and not marked(stack, number))

    def _last(self, stack: str) -> tuple[int, str] | None:
        """(number, digest) of the newest revision; a tombstone's digest is empty."""
        found = self._database.newest(stack)
        if found is None or not found[1] or not self._database.tombstones.marked(stack, found[0]):
            return found
        return found[0] + 1, ""

    # history

    def record_run(self, run: Run) -> int:
        """Appends one pass and all its step results in one transaction; keeps the last hundred of each stack."""
        with self._database.writing() as db:
            cursor = db.execute(
                "INSERT INTO runs (stack, revision, began, ended, outcome) VALUES (?, ?, ?, ?, ?)",
                (run.stack, run.revision, run.began, run.ended, run.outcome),
            )
            number = cursor.lastrowid or 0
            db.executemany(
                "INSERT INTO step_results VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(number, s.number, s.op, s.ref, s.id, s.status, s.seconds, s.error) for s in run.steps],
            )
            db.execute(
                "DELETE FROM runs WHERE stack = ? AND run <= "
                "(SELECT run FROM runs WHERE stack = ? ORDER BY run DESC LIMIT 1 OFFSET ?)",
                (run.stack, run.stack, RUNS_KEPT),
            )
        return number

    def runs(self, stack: str, *, limit: int = 10) -> tuple[Run, ...]:
        """The last passes, newest first."""
        rows = self._database.rows(
            "SELECT run, revision, began, ended, outcome FROM runs WHERE stack = ? ORDER BY run DESC LIMIT ?",
            (stack, limit),
        )
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
        rows = self._database.rows(
            "SELECT number, op, ref, id, status, seconds, error FROM step_results WHERE run = ? ORDER BY number",
            (run,),
        )
        return tuple(
            StepRow(number=n, op=op, ref=ref, id=id, status=status, seconds=seconds, error=error)
            for n, op, ref, id, status, seconds, error in rows
        )


_CONTENT = "SELECT number, document, sources, prune_data FROM revisions"
_REVISION = "SELECT number, digest, document, sources, created, prune_data, author FROM revisions"


def _revision(stack: str, row: tuple[Any, ...]) -> Revision:
    number, digest, document, sources, created, prune_data, author = row
    return Revision(
        stack=stack,
        number=number,
        digest=digest,
        document=json.loads(document),
        sources=tuple(json.loads(sources)),
        created=created,
        prune_data=bool(prune_data),
        author=author,
    )
