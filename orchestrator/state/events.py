"""What happened, for people to read later: appended, bounded, read from a number on.

In: events, some with a key that makes them once-only (an exit that two passes see). Out: events, numbered, oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.state.database import Database

KEPT = 20_000  # of the whole instance
_TRIM_EVERY = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something worth telling later. `ref` may be empty (the whole stack), `stack` too (the instance). `at`: wall clock,
    Unix seconds. `key`: no second event of the same key is ever appended. `number`: the store's; later ones are higher."""

    at: float
    stack: str
    ref: str
    what: str
    text: str
    key: str | None = None
    number: int = 0


class Events:
    """The events in the store of an instance."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, events: Sequence[Event]) -> None:
        if not events:
            return
        with self._database.writing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO events (at, stack, ref, what, text, key) VALUES (?, ?, ?, ?, ?, ?)",
                [(e.at, e.stack, e.ref, e.what, e.text, e.key) for e in events],
            )
            newest = db.execute("SELECT max(event) FROM events").fetchone()[0] or 0
            if newest % _TRIM_EVERY < len(events):
                db.execute("DELETE FROM events WHERE event <= ?", (newest - KEPT,))

    def last(self) -> int:
        """The number of the newest event; 0: there is none."""
        return int(self._database.rows("SELECT coalesce(max(event), 0) FROM events")[0][0])

    def read(
        self, stack: str | None = None, *, after: int = 0, since: float = 0.0, limit: int = 100
    ) -> tuple[Event, ...]:
        """The last `limit` events after number `after` and since the time `since`, oldest first; None: of all stacks."""
        rows = self._database.rows(
            "SELECT event, at, stack, ref, what, text, key FROM events "
            "WHERE event > ? AND at >= ? AND (? IS NULL OR stack = ?) ORDER BY event DESC LIMIT ?",
            (after, since, stack, stack, limit),
        )
        return tuple(
            Event(number=number, at=at, stack=name, ref=ref, what=what, text=text, key=key)
            for number, at, name, ref, what, text, key in rows[::-1]
        )
