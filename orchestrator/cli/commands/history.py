"""`history`: the revisions of a stack, with what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.control import chronicle
from orchestrator.errors import UsageError
from orchestrator.model import codec
from orchestrator.model.desired import Stack
from orchestrator.model.ids import Kind
from orchestrator.plan import diff
from orchestrator.state.events import KEPT
from orchestrator.state.store import Mark

SHOWN = (Kind.ROOTFS, Kind.NETWORK, Kind.VOLUME, Kind.SERVICE, Kind.CONTAINER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    added: int = 0
    removed: int = 0
    changed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One revision. `result`: settled, failed, deleted, superseded (before it was either), or progressing (the current
    one). `changes`: against the one before it, by kind: a group is its service and its
    containers."""

    mark: Mark
    current: bool
    result: str
    changes: Mapping[Kind, Counts]


def history(app: App, stack: str, limit: int) -> tuple[Line, ...]:
    """The newest first. UsageError: there was never a stack of that name."""
    marks = app.revisions(stack, limit=limit + 1)
    if not marks:
        names = ", ".join(sorted(app.stacks()))
        raise UsageError(f"no stack is called {stack!r}", hint=f"there are: {names or 'none'}")
    results = chronicle.result_of(app.events(stack, limit=KEPT))
    wishes = {each.number: app.revised(stack, each.number) for each in marks}
    lines = []
    for place, mark in enumerate(marks[:limit]):
        before = marks[place + 1] if place + 1 < len(marks) else None
        older = wishes[before.number] if before else None
        current = place == 0
        lines.append(
            Line(
                mark=mark,
                current=current,
                result=_result(mark, results.get(mark.number), current=current),
                changes=_changes(older, wishes[mark.number]),
            )
        )
    return tuple(lines)


def _result(mark: Mark, told: str | None, *, current: bool) -> str:
    if told == "settled":
        return "deleted" if mark.deleted else "settled"
    if told == "stalled":
        return "failed"
    return "progressing" if current else "superseded"


def _changes(before: Stack | None, after: Stack | None) -> Mapping[Kind, Counts]:
    old, new = getattr(before, "resources", {}), getattr(after, "resources", {})
    added = Counter(ref.kind for ref in new.keys() - old.keys())
    removed = Counter(ref.kind for ref in old.keys() - new.keys())
    changed = Counter(
        ref.kind for ref in new.keys() & old.keys() if diff.compare(ref, new[ref], codec.encode(old[ref]), {})
    )
    return {
        kind: Counts(added=added[kind], removed=removed[kind], changed=changed[kind])
        for kind in SHOWN
        if added[kind] or removed[kind] or changed[kind]
    }
