"""`events` and `history`: lines and tables for people, JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.cli.commands.history import Counts, Line
from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.model.ids import Kind
from orchestrator.state.events import Event

_STYLES = {
    "healthy": "good",
    "settled": "good",
    "started": "good",
    "oom": "bad",
    "exited": "warn",
    "failed": "bad",
    "gave-up": "bad",
    "held": "warn",
    "mended": "warn",
    "restarting": "warn",
    "stalled": "bad",
    "suspended": "warn",
    "unhealthy": "bad",
}


def show(terminal: Terminal, events: Iterable[Event], form: str) -> None:
    """Line by line, as they come."""
    for each in events:
        terminal.out(
            json.dumps(document(each), ensure_ascii=False) if form == "json" else _line(terminal, each)
        )


def document(each: Event) -> dict[str, Any]:
    """One event, version 1 of it: `at` in UTC (RFC 3339); `ref` null: the whole stack."""
    return {
        "version": 1,
        "number": each.number,
        "at": moment(each.at),
        "stack": each.stack,
        "ref": each.ref or None,
        "what": each.what,
        "text": each.text,
    }


def history_document(stack: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Version 1: {"version", "stack", "revisions": [{"number", "created", "author", "result", "current", "changes"}]}."""
    return {
        "version": 1,
        "stack": stack,
        "revisions": [
            {
                "number": each.mark.number,
                "created": moment(each.mark.created),
                "author": each.mark.author or None,
                "result": each.result,
                "current": each.current,
                "changes": {kind.value: _counts(found) for kind, found in each.changes.items()},
            }
            for each in lines
        ],
    }


def show_history(terminal: Terminal, lines: Sequence[Line]) -> None:
    rows = [
        (
            f"{'*' if each.current else ' '} {each.mark.number}",
            _local(each.mark.created),
            text.printable(each.mark.author or "-"),
            each.result,
            _changes(each.changes),
        )
        for each in lines
    ]
    terminal.out(text.table(("  REVISION", "WHEN", "AUTHOR", "RESULT", "CHANGES"), rows))


def moment(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, tz=UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _local(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _line(terminal: Terminal, each: Event) -> str:
    what = terminal.paint(f"{each.what:<10}", _STYLES.get(each.what, "plain"))
    name = f"{each.stack}:{each.ref}" if each.ref else each.stack
    return f"{_local(each.at)}  {name:<34}  {what}  {text.printable(each.text)}".rstrip()


def _changes(changes: Mapping[Kind, Counts]) -> str:
    """`container +2 ~1, network -1`."""
    parts = []
    for kind, found in changes.items():
        signs = (("+", found.added), ("-", found.removed), ("~", found.changed))
        parts.append(" ".join([kind.value, *(f"{sign}{count}" for sign, count in signs if count)]))
    return ", ".join(parts) or "-"


def _counts(found: Counts) -> dict[str, int]:
    return {"added": found.added, "removed": found.removed, "changed": found.changed}
