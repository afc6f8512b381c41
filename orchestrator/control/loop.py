"""Follows one stack in this process until it is settled, stalled, out of time or overtaken: `apply --once`.

In: a reconciler, a prober, whoever announces ends of processes. Out: events, the last of which is an end. Passes are
made when a process ended, health changed or a deadline came; the lock is never held in between.
"""

from __future__ import annotations

import select
from collections.abc import Generator, Iterator, Mapping
from typing import Protocol

from orchestrator.control.events import End, Event, Following, Interrupted, Superseded, TimedOut, Waiting
from orchestrator.control.keeping import Keeping, Look
from orchestrator.control.probes import HealthChange, Prober
from orchestrator.control.reconciler import PassEvent, Reconciler
from orchestrator.errors import OrchestratorError
from orchestrator.model.ids import Ref

WITHOUT_ENDS = 0.25
SLICE = 0.5  # seconds between looks at `cancelled`


class Ends(Protocol):
    """Tells that some process ended: the descriptor `changes()` is readable from then until `drain()`, which tells the
    ids, or None when the descriptor is gone and must be asked for again: then anything may have ended."""

    def changes(self) -> int: ...

    def drain(self) -> frozenset[str] | None: ...


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
        self.keeping = Keeping(reconciler, following.name, prober.watch)
        # Before the first pass: an end between its look at the world and the wait must not be missed.
        self.ends_fd = self._subscribe()
        self.deadline = None if following.timeout is None else self.clock() + following.timeout

    def events(self) -> Iterator[Event]:
        told: Mapping[Ref, str] = {}
        while True:
            if self.following.cancelled():
                yield Interrupted()
                return
            look = yield from self._look()
            end = self._end(look)
            if end:
                yield from self._health()
                self.keeping.chronicle.write()
                yield end
                return
            if look.again:
                continue
            if look.pending != told:
                told = look.pending
                yield Waiting(pending=told)
            yield from self._wait(look)

    def _look(self) -> Generator[PassEvent, None, Look]:
        look = yield from self.keeping.look(self.following.policy, self._stopped, timeout=self._left())
        return look

    def _stopped(self) -> bool:
        return self.following.cancelled() or self._left() == 0.0

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - self.clock())

    def _end(self, look: Look) -> End | None:
        done = look.done
        number = self.reconciler.store.number(self.following.name) if done.superseded else done.revision
        if number != self.following.revision:
            return Superseded(number=number)
        if self.following.cancelled():
            return Interrupted()
        if look.end is None and self._left() == 0.0:
            return TimedOut(reasons=look.pending)
        return look.end

    def _subscribe(self) -> int | None:
        """None while nobody can tell: before the first container there may be no supervisor."""
        try:
            return self.ends.changes() if self.ends else None
        except (OrchestratorError, OSError):
            return None

    def _wait(self, look: Look) -> Iterator[HealthChange]:
        """Until a process ends, health changes, or a deadline comes."""
        until = look.due if self.ends_fd is not None else min(look.due, self.clock() + WITHOUT_ENDS)
        if self.deadline is not None:
            until = min(until, self.deadline)
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
        for change in self.prober.drain():
            if change.old is not change.new:
                self.keeping.chronicle.heard(change)
                yield change
