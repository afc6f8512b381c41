"""What containers use: a table, on a terminal redrawn in place, or a document."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from orchestrator.cli.commands.top import Row, Table
from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal

_WAITS = {"cpu": "CPU-WAIT%", "memory": "MEM-WAIT%", "io": "IO-WAIT%"}
_HEADER = (
    "REF",
    "CPU%",
    "MEMORY",
    "LIMIT",
    "PIDS",
    "RECV/s",
    "SENT/s",
    "READ/s",
    "WRITE/s",
    *_WAITS.values(),
)
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen without a cursor, and back


def show(terminal: Terminal, table: Table) -> None:
    """One table."""
    if not table:
        terminal.out("no container is running")
        return
    head, *rows = _lines(table)
    terminal.out("\n".join([terminal.paint(head, "soft"), *rows]))


def follow(terminal: Terminal, tables: Iterable[Table]) -> None:
    """Redraw until Ctrl-C; the screen is as before afterwards."""
    terminal.out(_ENTER, newline=False)
    try:
        for table in tables:
            columns, height = os.get_terminal_size()
            lines = _lines(table) if table else ["no container is running"]
            cut = [line[:columns] for line in lines[: height - 1]]
            if len(lines) > height - 1:
                cut[-1] = f"and {len(lines) - height + 2} more"[:columns]
            terminal.out("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in cut) + "\x1b[J", newline=False)
    finally:
        terminal.out(_LEAVE, newline=False)


def document(table: Table) -> dict[str, Any]:
    """Version 1: {"version", "containers": [{"stack", "ref", "cpu_percent", "memory", "memory_limit", "pids", rates in
    bytes a second, "pressure": {"cpu", "memory", "io"}}]}; null where this host does not count."""
    return {"version": 1, "containers": [_container(row) for row in table]}


def _container(row: Row) -> dict[str, Any]:
    return {
        "stack": row.target.stack,
        "ref": str(row.target.ref),
        "cpu_percent": round(row.cpu, 2),
        "memory": row.now.memory,
        "memory_limit": row.now.memory_limit,
        "pids": row.now.pids,
        "received_per_second": _rounded(row.received),
        "sent_per_second": _rounded(row.sent),
        "read_per_second": _rounded(row.read),
        "written_per_second": _rounded(row.written),
        "pressure": {kind: row.now.pressure.get(kind) for kind in _WAITS},
    }


def _lines(table: Table) -> list[str]:
    several = len({row.target.stack for row in table}) > 1
    rows = [
        (
            f"{row.target.stack}:{row.target.ref.name}" if several else row.target.ref.name,
            f"{row.cpu:.1f}",
            _size(row.now.memory),
            _size(row.now.memory_limit),
            str(row.now.pids),
            _size(row.received),
            _size(row.sent),
            _size(row.read),
            _size(row.written),
            *(_percent(row.now.pressure.get(kind)) for kind in _WAITS),
        )
        for row in table
    ]
    return text.table(_HEADER, rows).split("\n")


def _size(count: float | None) -> str:
    return "-" if count is None else text.rough_size(count)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
