"""Where stacks are read from again whenever they change: watched paths (and later git), kept for the agent.

In: a kind and its settings. Out: sources. `holder` names the process on whose behalf it is watched (`PID TICKS BOOT`),
empty for a permanent one. `state` is what the agent last found out about it (an error), for people to see.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.state.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    number: int
    kind: str
    settings: Mapping[str, Any]
    holder: str = ""
    created: float = 0.0
    state: Mapping[str, Any] = field(default_factory=dict)


class Sources:
    """The sources in the store of an instance."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, kind: str, settings: Mapping[str, Any], *, holder: str = "") -> int:
        """Its number."""
        with self._database.writing() as db:
            cursor = db.execute(
                "INSERT INTO sources (kind, settings, holder, created) VALUES (?, ?, ?, ?)",
                (kind, json.dumps(settings), holder, self._database.clock()),
            )
            return cursor.lastrowid or 0

    def remove(self, number: int) -> bool:
        """Whether it was there."""
        with self._database.writing() as db:
            return db.execute("DELETE FROM sources WHERE source = ?", (number,)).rowcount > 0

    def note(self, number: int, state: Mapping[str, Any]) -> None:
        """What the agent found out."""
        with self._database.writing() as db:
            db.execute("UPDATE sources SET state = ? WHERE source = ?", (json.dumps(state), number))

    def all(self) -> tuple[Source, ...]:
        rows = self._database.rows(
            "SELECT source, kind, settings, holder, created, state FROM sources ORDER BY source"
        )
        return tuple(
            Source(
                number=number,
                kind=kind,
                settings=json.loads(settings),
                holder=holder,
                created=created,
                state=json.loads(state),
            )
            for number, kind, settings, holder, created, state in rows
        )
