"""`events`: what happened, from the store; with --follow also what happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.cli import refs
from orchestrator.errors import UsageError
from orchestrator.model.ids import Ref
from orchestrator.state.events import KEPT, Event

PAUSE = 0.2  # seconds between looks for new ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`name`: of a stack, or a REF as other verbs take it; None: everything. `since`: Unix seconds. `count`: at most so
    many of the past."""

    name: str | None
    follow: bool
    since: float | None
    count: int


def read(app: App, request: Request) -> Iterator[Event]:
    """Oldest first; endless with `follow`. UsageError: nothing of that name was ever here."""
    last = app.last_event()
    stack, wanted = _filter(app, request.name)
    past = app.events(stack, since=request.since or 0.0, limit=KEPT)
    past = tuple(each for each in past if wanted(each))
    yield from past[max(0, len(past) - request.count) :]
    last = max([last, *(each.number for each in past)])
    while request.follow:
        time.sleep(PAUSE)
        if app.last_event() <= last:
            continue
        for each in app.events(stack, after=last, limit=KEPT):
            last = max(last, each.number)
            if wanted(each):
                yield each


def _filter(app: App, name: str | None) -> tuple[str | None, Callable[[Event], bool]]:
    """(the stack to read, or None for all; which of its events)."""
    if name is None:
        return None, lambda each: True
    stacks = app.stacks()
    if name in stacks or (":" not in name and app.revisions(name, limit=1)):
        return name, lambda each: True
    stack, _, rest = name.rpartition(":")

    def wanted(each: Event) -> bool:
        return bool(each.ref) and refs.names(rest, Ref.parse(each.ref))

    known = any(refs.names(rest, ref) for each in stacks for ref in app.wished(each))
    if not known and not any(wanted(each) for each in app.events(stack or None, limit=KEPT)):
        raise UsageError(f"nothing is called {name!r}", hint="see `orchestrator events` for all of them")
    return stack or None, wanted
