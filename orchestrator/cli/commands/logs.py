"""`logs`: the lines of one or more containers, in the order in which they were written."""

from __future__ import annotations

import heapq
import time
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
    # Merged as they come: what a ring holds is not held here a second time.
    first = (_first(each, cursor, request, several) for each, cursor in cursors.items())
    yield from heapq.merge(*first, key=_time)
    while request.follow:
        time.sleep(_POLL)
        found = [Line(each, line, several) for each, cursor in cursors.items() for line in cursor.poll()]
        yield from sorted(found, key=_time)


def _first(source: refs.Named, cursor: logs.Cursor, request: Request, several: bool) -> Iterator[Line]:
    lines = cursor.poll() if request.follow else cursor.whole()
    for line in logs.wanted(lines, since=request.since, tail=request.tail):
        yield Line(source, line, several)


def _time(line: Line) -> int:
    return line.line.time


def _containers(app: App) -> set[refs.Named]:
    """Those that are there, and those that were asked for: what never started may have left lines too."""
    found = set()
    for name in app.stacks():
        found |= {refs.Named(name, each.ref) for each in app.observe_containers(name)}
        stack = app.recorded(name)
        found |= {refs.Named(name, ref) for ref in (stack.resources if stack else ())}
    return {each for each in found if each.ref.kind is Kind.CONTAINER}
