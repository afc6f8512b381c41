"""`top`: what running containers use, sample after sample; rates are of the time between two samples.

In: a stack, a ref or nothing. Out: tables. Between looks for new containers only counters are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.app import App
from orchestrator.cli import refs
from orchestrator.errors import UsageError
from orchestrator.model.ids import Incarnation, Kind
from orchestrator.model.observed import Phase
from orchestrator.ports.driver import Usage

_FIRST = 0.5  # seconds between the first two samples
_SLICE = 0.1  # seconds between looks at `cancelled`
_LOOK = 5.0  # seconds between looks for what was started meanwhile


class Order(StrEnum):
    CPU = "cpu"
    MEMORY = "memory"
    NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One container. `cpu`: percent of one processor; rates in bytes a second; None: not counted on this host."""

    target: Incarnation
    now: Usage
    cpu: float
    received: float | None
    sent: float | None
    read: float | None
    written: float | None


Table = tuple[Row, ...]
_Sample = tuple[float, dict[Incarnation, Usage]]


def tables(
    app: App, text: str | None, order: Order, interval: float, cancelled: Callable[[], bool] = lambda: False
) -> Iterator[Table]:
    """One table each `interval` seconds, until `cancelled`. Raises UsageError for a name that means nothing."""
    targets, looked = _targets(app, text), time.monotonic()
    if text is not None and not targets:
        raise UsageError(f"nothing of {text} is running", hint="see `orchestrator ps`")
    before = _sample(app, targets)
    pause = min(_FIRST, interval)
    while True:
        due = time.monotonic() + pause
        while (left := due - time.monotonic()) > 0 and not cancelled():
            time.sleep(min(left, _SLICE))
        if cancelled():
            return
        now = _sample(app, targets)
        yield tuple(sorted(_rows(before, now), key=lambda row: _key(row, order)))
        before, pause = now, interval
        if time.monotonic() - looked >= _LOOK or len(now[1]) < len(targets):
            targets, looked = _targets(app, text), time.monotonic()


def _targets(app: App, text: str | None) -> list[Incarnation]:
    stacks = app.stacks()
    head = text.partition(":")[0] if text else None
    found = {
        refs.Named(name, each.ref): each
        for name in ([head] if head in stacks else stacks)
        for each in app.observe_containers(name)
        if each.ref.kind in (Kind.CONTAINER, Kind.GROUP)
    }
    if text is not None and text not in stacks:
        named = refs.find(text, found)
        prefix = f"{named.ref.name}/" if named.ref.kind is Kind.GROUP else None
        found = {
            each: seen
            for each, seen in found.items()
            if each.stack == named.stack
            and (each.ref.name.startswith(prefix) if prefix else each.ref == named.ref)
        }
    return [
        Incarnation(each.stack, each.ref, seen.id)
        for each, seen in found.items()
        if each.ref.kind is Kind.CONTAINER and seen.phase is Phase.RUNNING
    ]


def _sample(app: App, targets: list[Incarnation]) -> _Sample:
    found = {each: used for each in targets if (used := app.runtime.usage(each)) is not None}
    return time.monotonic(), found


def _rows(before: _Sample, now: _Sample) -> Iterator[Row]:
    seconds = max(now[0] - before[0], 1e-3)
    for target, used in now[1].items():
        was = before[1].get(target, used)
        yield Row(
            target=target,
            now=used,
            cpu=max(0.0, used.cpu - was.cpu) * 100 / seconds,
            received=_rate(was.received, used.received, seconds),
            sent=_rate(was.sent, used.sent, seconds),
            read=_rate(was.read, used.read, seconds),
            written=_rate(was.written, used.written, seconds),
        )


def _rate(before: int | None, now: int | None, seconds: float) -> float | None:
    """A counter that went backwards was one of an earlier start."""
    return None if before is None or now is None else max(0, now - before) / seconds


def _key(row: Row, order: Order) -> tuple[float, str, str]:
    match order:
        case Order.CPU:
            first = -row.cpu
        case Order.MEMORY:
            first = -float(row.now.memory or 0)
        case Order.NAME:
            first = 0.0
    return first, row.target.stack, row.target.ref.name
