"""`logs`: the lines of one or more containers, in the order in which they were written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.cli import refs
from orchestrator.model.ids import Kind
from orchestrator.supervisor import logs
from orchestrator.supervisor.logs import LogLine

_POLL = 0.1  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`since`: seconds since the epoch; `tail`: lines of each container."""

    refs: tuple[str, ...]
    follow: bool = False
    tail: int | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """`several`: the request names more than one container."""

    source: refs.Named
    line: LogLine
    several: bool


def read(app: App, request: Request) -> Iterator[Line]:
    """The lines; with `follow` it never ends by itself. Raises UsageError for names that mean nothing or too much."""
    existing = _containers(app)
    sources = list(dict.fromkeys(refs.find_container(each, existing) for each in request.refs))
    folders = {each: str(app.layout.logs(each.stack, each.ref)) for each in sources}
    several = len(sources) > 1
    # A cursor before the first read: what comes in between is found by it.
    cursors = {each: logs.Cursor(folder) for each, folder in folders.items()}
    first = [
        (line.time, number, Line(each, line, several))
        for each, cursor in cursors.items()
        for number, line in enumerate(_first(cursor, request))
    ]
    yield from (line for _, _, line in sorted(first, key=lambda each: each[:2]))
    while request.follow:
        time.sleep(_POLL)
        found = [Line(each, line, several) for each, cursor in cursors.items() for line in cursor.poll()]
        yield from sorted(found, key=lambda each: each.line.time)


def _first(cursor: logs.Cursor, request: Request) -> Iterator[LogLine]:
    lines = cursor.poll()
    if not request.follow:
        lines = lines + cursor.rest()
    if request.since is not None:
        lines = [each for each in lines if each.time >= request.since * 1e9]
    yield from lines if request.tail is None else deque(lines, maxlen=request.tail)


def _containers(app: App) -> set[refs.Named]:
    """Those that are there, and those that were asked for: what never started may have left lines too."""
    found = set()
    for name in app.stacks():
        found |= {refs.Named(name, each.ref) for each in app.observe_containers(name)}
        stack = app.recorded(name)
        found |= {refs.Named(name, ref) for ref in (stack.resources if stack else ())}
    return {each for each in found if each.ref.kind is Kind.CONTAINER}
