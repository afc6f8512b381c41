"""From what a pass does and sees to events that people read later: one stack's, in one transaction for each pass.

In: events of passes and probes, the world that a pass saw, how it stands. Out: events in the store, each fact once. What
`Event.what` may be: revision, held, released, restart, suspended, resumed (operators), started, stopped, exited, oom,
healthy, unhealthy, restarting, gave-up, failed, mended (what somebody changed behind our back), created, updated, deleted,
restored (with counts, but for containers), settled, stalled. Never holds what a secret holds.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from orchestrator.control.outcome import Settled, Stalled, Suspended
from orchestrator.control.probes import HealthChange
from orchestrator.control.reconciler import Pass, PassEvent, Planned, Stepped
from orchestrator.errors import HostError
from orchestrator.execute.executor import Status, StepResult
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Exit, Health, Observation
from orchestrator.plan import explain
from orchestrator.plan.changes import Change, FieldChange, Op, Verb
from orchestrator.state.events import Event
from orchestrator.state.store import Store

log = logging.getLogger(__name__)

OPERATORS = frozenset({"revision", "held", "released", "restart", "suspended", "resumed"})
LONGEST = 500  # characters of a text
UNWRITTEN = 2000  # events kept for a disk that refuses them
SLACK = 60.0  # seconds by which the end of a process may be older than what was told last


class Chronicle:
    """`wall`: Unix time, `clock`: CLOCK_BOOTTIME, both in seconds. `heard` may be called from any thread."""

    def __init__(
        self, store: Store, stack: str, *, wall: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._stack = stack
        self._wall = wall
        self._clock = clock
        self._batch: deque[Event] = deque(maxlen=UNWRITTEN)
        self._why: Mapping[Ref, Change] = {}
        self._counts: Counter[tuple[str, Kind]] = Counter()
        self._said: dict[Ref, str] = {}  # the last complaint of each
        self._ends: dict[str, float] = {}  # id -> start of the last run whose end was told
        self._since: float | None = None  # ends before it are old news
        self._standing: tuple[str, str] | None = None
        self._refused = False

    def heard(self, event: PassEvent | HealthChange) -> None:
        """Something happened."""
        if self._since is None:
            self._remember()
        match event:
            case Planned():
                self._why = {change.ref: change for change in event.plan.changes}
            case Stepped():
                self._step(event.result)
            case HealthChange(new=Health.HEALTHY):
                self._add("healthy", "", event.incarnation.ref)
            case HealthChange(new=Health.UNHEALTHY):
                self._add("unhealthy", event.output, event.incarnation.ref)
            case _:
                pass

    def looked(self, done: Pass, end: Settled | Stalled | Suspended | None, *, again: bool) -> None:
        """A pass has ended so; everything up to here is written. `again`: the next one follows at once, and sees the ends
        of the processes that this one stopped, which come first."""
        if self._since is None:
            self._remember()
        for what in sorted({what for what, _ in self._counts}):
            many = [f"{self._counts[what, kind]} {kind}" for kind in Kind if self._counts[what, kind]]
            self._add(what, ", ".join(many))
        self._counts.clear()
        for each in done.observed:
            if each.ref.kind is Kind.CONTAINER:
                self._exits(each)
        self._complaints(done)
        self._stands(done.revision, end)
        if not again:
            self.write()

    def write(self) -> None:
        """Write what was heard. What cannot be written now is kept, up to a bound, and tried again."""
        many = [self._batch.popleft() for _ in range(len(self._batch))]
        many.sort(key=lambda each: each.at)  # a process ends before a pass sees it
        try:
            self._store.events.append(many)
            self._refused = False
        except HostError as error:
            self._batch.extendleft(reversed(many))
            if not self._refused:
                log.error("events of stack %s cannot be kept: %s", self._stack, error.message)
            self._refused = True

    # steps

    def _step(self, result: StepResult) -> None:
        step, change = result.step, self._why.get(result.step.ref)
        if result.status is Status.FAILED:
            self._complain(step.ref, "failed", f"{step.op}: {result.error}", said=result.error or "")
        if result.status is not Status.DONE or change is None:
            return
        self._said.pop(step.ref, None)
        drifted = explain.DRIFTED in change.reason
        container = step.ref.kind is Kind.CONTAINER
        match step.op:
            case Op.START if drifted:
                self._add("mended", _mended(change), step.ref)
            case Op.START if container:
                self._add("started", change.reason, step.ref)
            case Op.START if change.verb is Verb.START:
                self._counts["restored", step.ref.kind] += 1
            case Op.UPDATE if change.verb is Verb.UPDATE and drifted:
                self._add("mended", _mended(change), step.ref)
            case Op.UPDATE if change.verb is Verb.UPDATE and container:
                self._add("updated", change.reason, step.ref)
            case Op.UPDATE if change.verb is Verb.UPDATE and step.fields != (explain.READY,):
                self._counts["updated", step.ref.kind] += 1
            case Op.DELETE if change.verb is Verb.DELETE and container:
                self._add("deleted", change.reason, step.ref)
            case Op.DELETE if change.verb is Verb.DELETE:
                self._counts["deleted", step.ref.kind] += 1
            case Op.CREATE if not container and change.verb is Verb.CREATE:
                self._counts["created", step.ref.kind] += 1
            case Op.START | Op.UPDATE | Op.DELETE | Op.CREATE | Op.STOP:
                pass  # told by another step, or by the end of its process

    # what was seen

    def _remember(self) -> None:
        """What an earlier process has told: ends since then are news, how the stack stood is none."""
        told = self._store.events.read(self._stack, limit=100)
        ours = [each for each in told if each.what not in OPERATORS]
        newest = ours[-1] if ours else told[0] if told else None
        self._since = self._wall() if newest is None else newest.at - SLACK
        if ours and ours[-1].what in ("settled", "stalled"):
            self._standing = (ours[-1].what, ours[-1].text)

    def _exits(self, each: Observation) -> None:
        assert self._since is not None
        told = self._ends.get(each.id, 0.0)
        if not each.exits or each.exits[-1].started <= told:
            return
        for end in each.exits:
            at = self._wall() - (self._clock() - end.ended)
            if not end.earlier and end.started > told and at >= self._since:
                what = "oom" if end.oom else "stopped" if end.stopped else "exited"
                self._add(what, _lasted(end), each.ref, key=f"exit:{each.id}:{end.started:.3f}", at=at)
        self._ends[each.id] = each.exits[-1].started

    def _complaints(self, done: Pass) -> None:
        """What is given up, and what waits to be started again."""
        last = {each.ref: each for each in done.observed}
        for ref, text in done.plan.failures.items():
            found = last.get(ref)
            began = found.exits[-1].started if found and found.exits else 0.0
            key = f"gave-up:{found.id}:{began:.3f}" if found else None
            self._complain(ref, "gave-up", text, said=text, key=key)
        for ref in self._said.keys() - done.plan.failures.keys() - done.failed.keys():
            del self._said[ref]
        for change in done.plan.changes:
            if change.not_before is not None and not change.waits:
                wait = max(0.0, change.not_before - self._clock())
                key = f"restarting:{change.id}:{change.not_before:.1f}"
                self._add("restarting", f"in {wait:.0f} s: {change.reason}", change.ref, key=key)

    def _complain(self, ref: Ref, what: str, text: str, *, said: str, key: str | None = None) -> None:
        if self._said.get(ref) != said:
            self._said[ref] = said
            self._add(what, text, ref, key=key)

    def _stands(self, revision: int, end: Settled | Stalled | Suspended | None) -> None:
        match end:
            case Settled():
                held = f", {len(end.held)} held" if end.held else ""
                standing = ("settled", f"revision {revision}{held}")
            case Stalled():
                standing = ("stalled", f"revision {revision}: {_listed(end.reasons)}")
            case Suspended() | None:
                self._standing = None
                return
        if standing != self._standing:
            self._standing = standing
            self._add(*standing, key=f"{standing[0]}:{self._stack}:{revision}:{self._wall():.6f}")

    def _add(
        self, what: str, text: str, ref: Ref | None = None, *, key: str | None = None, at: float | None = None
    ) -> None:
        self._batch.append(
            Event(
                at=self._wall() if at is None else at,
                stack=self._stack,
                ref=str(ref or ""),
                what=what,
                text=text[:LONGEST],
                key=key,
            )
        )


def result_of(events: Sequence[Event]) -> dict[int, str]:
    """Revision -> settled or stalled, as last told."""
    return dict(_results(events))


def _results(events: Sequence[Event]) -> Iterator[tuple[int, str]]:
    for each in events:
        if each.what in ("settled", "stalled") and each.key:
            yield int(each.key.split(":")[2]), each.what


def _mended(change: Change) -> str:
    """With old and new values, but for contents."""
    shown = [each for each in change.fields if not each.name.startswith("contents.")]
    values = ", ".join(_values(each) for each in shown)
    return f"{change.reason} ({values})" if values else change.reason


def _values(field: FieldChange) -> str:
    return f"{field.name} {field.old} -> {field.new}"


def _lasted(end: Exit) -> str:
    return f"{end} after {end.ended - end.started:.1f} s"


def _listed(reasons: Mapping[Ref, str]) -> str:
    many = [f"{ref} {text}" for ref, text in reasons.items()]
    return "; ".join(many[:3]) + (f" and {len(many) - 3} more" if len(many) > 3 else "")
