"""Follows one stack until it is settled, stalled, out of time or overtaken: what `apply` and `delete` run in-process.

In: a reconciler, a prober, whoever announces ends of processes. Out: events, the last of which is an end. Passes are
made when a process ended, health changed or a deadline came; the lock is never held in between.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator.control.outcome import Again, Settled, Stalled
from orchestrator.control.probes import HealthChange, Prober, targets
from orchestrator.control.reconciler import Pass, Planned, Reconciler, Stepped, Unrecorded
from orchestrator.control.retries import Attempts
from orchestrator.errors import OrchestratorError
from orchestrator.model.ids import Kind, Ref
from orchestrator.plan.changes import Policy, Verb

LOOK_ANYWAY = 5.0  # seconds: drift of which nobody tells
WITHOUT_ENDS = 0.25
SLICE = 0.5  # seconds between looks at `cancelled`
SAME_CHANGES = 3


class Ends(Protocol):
    """Tells that some process ended: the descriptor `changes()` is readable from then until `drain()`, which tells the
    ids, or None when the descriptor is gone and must be asked for again: then anything may have ended."""

    def changes(self) -> int: ...

    def drain(self) -> frozenset[str] | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Nothing to do now; `pending` says per ref what it waits for. Told when it changes."""

    pending: Mapping[Ref, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The end: not settled within the time given. What was begun stays as it is."""

    reasons: Mapping[Ref, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """The end: somebody committed a newer revision, `number`."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The end: `cancelled` said so, at a step boundary. The revision stands."""


End = Settled | Stalled | TimedOut | Superseded | Interrupted
Event = Planned | Stepped | Unrecorded | HealthChange | Waiting | End


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """`revision`: the number that the caller committed; a newer one ends it. `timeout` in seconds (None: for ever).
    `cancelled`: asked at step boundaries and at least twice a second."""

    name: str
    revision: int
    timeout: float | None = None
    policy: Policy = field(default_factory=Policy)
    cancelled: Callable[[], bool] = lambda: False


def follow(
    reconciler: Reconciler, following: Following, *, prober: Prober, ends: Ends | None
) -> Iterator[Event]:
    """Passes until an End, which is the last event. ConflictError: somebody else held the stack all the time."""
    yield from _Follower(reconciler, following, prober, ends).events()


class _Follower:
    def __init__(
        self, reconciler: Reconciler, following: Following, prober: Prober, ends: Ends | None
    ) -> None:
        self.reconciler, self.following, self.prober, self.ends = reconciler, following, prober, ends
        self.clock = reconciler.clock
        # Before the first pass: an end between its look at the world and the wait must not be missed.
        self.ends_fd = self._subscribe()
        self.deadline = None if following.timeout is None else self.clock() + following.timeout
        self.policy = following.policy
        self.attempts = Attempts()
        self.pending: Mapping[Ref, str] = {}
        self.same: tuple[object, int] = ((), 0)

    def events(self) -> Iterator[Event]:
        while True:
            if self.following.cancelled():
                yield Interrupted()
                return
            done = yield from self._pass()
            self._remember(done)
            end = self._end(done)
            if end:
                yield from self._health()
                yield end
                return
            if done.plan.steps and done.finished:
                continue
            pending = self._pending(done)
            if pending != self.pending:
                self.pending = pending
                yield Waiting(pending=pending)
            yield from self._wait(done)

    def _pass(self) -> Generator[Planned | Stepped | Unrecorded, None, Pass]:
        policy = replace(self.policy, held=self.attempts.held(self.clock()))
        following = self.following
        done = yield from self.reconciler.one_pass(
            following.name, policy, self._stopped, timeout=self._left()
        )
        self.prober.watch(following.name, targets(following.name, done.observed, self.reconciler.layout))
        return done

    def _stopped(self) -> bool:
        return self.following.cancelled() or self._left() == 0.0

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - self.clock())

    def _remember(self, done: Pass) -> None:
        self.attempts.failed(done.failed, self.clock())
        for ref in done.finished:
            self.attempts.succeeded(ref)
        self.policy = replace(self.policy, force=self.policy.force - done.finished)
        wants = tuple((each.ref, each.reason) for each in done.plan.changes)
        # A container's starts have a law of their own (`plan.restarts`); all else must hold once it is done.
        settling = bool(done.plan.steps) and all(
            each.verb is Verb.UPDATE or each.ref.kind is not Kind.CONTAINER for each in done.plan.changes
        )
        again = self.same[1] + 1 if settling and self.same[0] == wants else 1
        self.same = (wants, again) if settling else ((), 0)

    def _end(self, done: Pass) -> End | None:
        number = self.reconciler.store.number(self.following.name) if done.superseded else done.revision
        if number != self.following.revision:
            return Superseded(number=number)
        if self.following.cancelled():
            return Interrupted()
        if self.same[1] >= SAME_CHANGES:
            return Stalled(
                reasons={each.ref: f"does not settle: {each.reason}" for each in done.plan.changes}
            )
        if isinstance(done.outcome, Settled):
            return done.outcome
        to_try = self.attempts.next_due(self.clock()) is not None
        if isinstance(done.outcome, Stalled) and not to_try:
            return done.outcome
        if done.failed and not done.finished and not to_try:
            return Stalled(reasons=self._pending(done))
        if self._left() == 0.0:
            return TimedOut(reasons=self._pending(done))
        return None

    def _pending(self, done: Pass) -> Mapping[Ref, str]:
        match done.outcome:
            case Again():
                return {**done.outcome.pending, **self.attempts.said}
            case Stalled():
                return done.outcome.reasons
            case Settled():
                return {}

    def _subscribe(self) -> int | None:
        """None while nobody can tell: before the first container there may be no supervisor."""
        try:
            return self.ends.changes() if self.ends else None
        except (OrchestratorError, OSError):
            return None

    def _wait(self, done: Pass) -> Iterator[HealthChange]:
        """Until a process ends, health changes, or a deadline comes."""
        after = done.outcome.after if isinstance(done.outcome, Again) and not done.failed else None
        bounds = [
            WITHOUT_ENDS if self.ends_fd is None else LOOK_ANYWAY,
            after,
            self.attempts.next_due(self.clock()),
            self._left(),
        ]
        until = self.clock() + min(bound for bound in bounds if bound is not None)
        if self.ends and self.ends_fd is None:
            self.ends_fd = self._subscribe()
            if self.ends_fd is not None:
                return  # look once more: something may have ended before anybody listened
        poll = select.poll()
        poll.register(self.prober.fileno(), select.POLLIN)
        if self.ends_fd is not None:
            poll.register(self.ends_fd, select.POLLIN)
        while not self.following.cancelled():
            left = until - self.clock()
            ready = poll.poll(max(0.0, min(left, SLICE)) * 1000)
            if self.ends and any(fd == self.ends_fd for fd, _ in ready) and self.ends.drain() is None:
                self.ends_fd = None
            yield from self._health()
            if ready or left <= 0:
                return

    def _health(self) -> Iterator[HealthChange]:
        yield from (change for change in self.prober.drain() if change.old is not change.new)
