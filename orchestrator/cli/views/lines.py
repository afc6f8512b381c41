"""Log lines as they were written: stdout's and stderr's to our stdout, with their source where there are several."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime

from orchestrator.cli.commands.logs import Line
from orchestrator.cli.views.terminal import Terminal


def show(terminal: Terminal, lines: Iterable[Line], *, timestamps: bool) -> None:
    """Bytes go through unchanged: a log is data, and what it is piped into decides what it means."""
    out = sys.stdout.buffer
    for each in lines:
        prefix = ""
        if each.several:
            prefix += terminal.paint(f"{each.source.ref.name} | ", "soft")
        if timestamps:
            prefix += terminal.paint(f"{_moment(each.line.time)} ", "soft")
        out.write(prefix.encode() + each.line.text + b"\n")
        out.flush()


def _moment(nanoseconds: int) -> str:
    """RFC 3339 in UTC, milliseconds."""
    when = datetime.fromtimestamp(nanoseconds / 1e9, tz=UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
