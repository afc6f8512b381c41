"""The agent: keeps every stack of an instance as its newest revision says, for as long as it lives.

In: the store's revisions, ends of processes, health, deadlines, requests on `agent.sock`. Out: passes; events for those who
follow. Workers take names from the queue and make passes; the main thread only listens. It may be killed between any two
lines: what it knows beyond the store and the world is attempts and who follows.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from orchestrator.control import neighbours
from orchestrator.control.audience import Audience
from orchestrator.control.events import Event, Troubled, Waiting
from orchestrator.control.keeping import Keeping, Look
from orchestrator.control.loop import Ends
from orchestrator.control.outcome import Settled
from orchestrator.control.probes import Prober
from orchestrator.control.queue import Queue
from orchestrator.control.reconciler import Queued, Reconciler
from orchestrator.errors import ConflictError, OrchestratorError
from orchestrator.model.ids import Ref
from orchestrator.plan.changes import Policy
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import facts
from orchestrator.supervisor.loop import Loop

log = logging.getLogger(__name__)

WORKERS = 4
HELD_PAUSE = 0.2  # seconds until a stack that somebody else holds is asked for again
TROUBLE = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds after failed passes in a row
NEW_STACKS = 8.0  # seconds between looks for stacks of which nobody told
RESUBSCRIBE = 0.2


@contextmanager
def sole(layout: Layout) -> Iterator[None]:
    """Be the agent of the instance; ConflictError where there is one."""
    layout.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = os.fspath(layout.agent_lock)
    for _ in range(20):  # the keeper holds it for an instant when it looks whether there is one
        lock = facts.sole(path)
        if lock is not None:
            break
        time.sleep(0.02)
    else:
        pid = layout.agent_lock.read_text(errors="replace").strip()
        raise ConflictError(
            f"an agent keeps this instance already (pid {pid or 'unknown'})",
            hint="`orchestrator agent --stop` ends it; containers go on",
        )
    try:
        yield
    finally:
        os.close(lock)


class Watched(Protocol):
    """Sources of manifests (`control.sources`): `sync` takes in what the store says of them now."""

    def sync(self) -> None: ...


@dataclass(slots=True)
class _Kept:
    """One stack in the agent's memory. `ids`: of its incarnations, as last seen; `owners`: stacks of whose things it has,
    or waits for, some."""

    keeping: Keeping
    troubles: int = 0
    told: dict[Ref, str] = field(default_factory=dict)
    standing: str = "not looked at yet"
    looked: float | None = None
    revision: int = 0
    fresh: bool = False
    ids: frozenset[str] = frozenset()
    owners: frozenset[str] = frozenset()


class Agent:
    """`stacks()`: the names of all stacks that are wished for or of which anything is there.
    `about`: what it says of itself. Use `run`, from one thread."""

    def __init__(
        self,
        reconciler: Reconciler,
        *,
        prober: Prober,
        ends: Ends | None,
        stacks: Callable[[], Iterable[str]],
        about: dict[str, Any],
    ) -> None:
        self._reconciler = reconciler
        self._prober = prober
        self._ends = ends
        self._stacks = stacks
        self._clock = reconciler.clock
        self._queue = Queue(reconciler.clock)
        self._kept: dict[str, _Kept] = {}
        self._loop = Loop()
        self._posted: SimpleQueue[Callable[[], object]] = SimpleQueue()  # for the main thread
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = threading.Event()
        self._subscribed: int | None = None
        self._sources: Watched | None = None
        self.audience = Audience(
            self._loop, reconciler.layout.agent_socket, self, {**about, "pid": os.getpid()}, self._clock
        )

    def attend(self, sources: Watched) -> None:
        """Have these sources told whenever anybody says that something changed."""
        self._sources = sources

    def run(self) -> None:
        """Until `stop`: keep everything."""
        loop = self._loop
        loop.watch(self._wake, self._posted_to)
        loop.watch(self._prober.fileno(), self._health)
        self.audience.open()
        workers = [threading.Thread(target=self._work, name=f"pass-{n}", daemon=True) for n in range(WORKERS)]
        for each in workers:
            each.start()
        self._subscribe()
        self._look_around()
        try:
            loop.run()
        finally:
            self._stopping.set()
            self._queue.close()
            for each in workers:
                each.join()
            self.audience.close()  # `_wake` stays open: a thread that still asks somebody may write to it

    def stop(self) -> None:
        """End at the next step boundary; containers go on. From any thread, or a signal handler."""
        self._stopping.set()
        self._loop.stopped = True
        os.eventfd_write(self._wake, 1)

    # what others ask for; on the main thread

    def nudge(self, name: str | None) -> None:
        """Look at the stack now, and try again what failed; None: at all of them, and at the sources."""
        for each in self._names() if name is None else (name,):
            kept = self._kept.get(each)
            if kept is not None:
                kept.fresh = True
            self._queue.add(each)
        if name is None and self._sources is not None:
            self._sources.sync()

    def pending(self, name: str) -> dict[Ref, str]:
        kept = self._kept.get(name)
        return dict(kept.told) if kept else {}

    def standings(self) -> dict[str, Any]:
        """What is known of each stack, for `agent --status`."""
        return {
            name: {
                "standing": kept.standing,
                "revision": kept.revision,
                "looked": None if kept.looked is None else self._clock() - kept.looked,
                "pending": {str(ref): text for ref, text in kept.told.items()},
            }
            for name, kept in sorted(self._kept.items())
        }

    # what wakes it

    def _look_around(self) -> None:
        for name in self._names() - self._queue.names():
            self._queue.add(name)
        if self._sources is not None:
            self._sources.sync()
        self._loop.later(NEW_STACKS, self._look_around)

    def _names(self) -> frozenset[str]:
        try:
            return frozenset(self._stacks())
        except OrchestratorError as error:
            log.error("cannot list stacks: %s", error.message)
            return frozenset(self._kept)

    def _health(self) -> None:
        for change in self._prober.drain():
            stack = change.incarnation.stack
            if change.old is not change.new:
                self.audience.tell(stack, change)
                if stack in self._kept:
                    self._kept[stack].keeping.chronicle.heard(change)
            self._queue.add(stack)

    def _subscribe(self) -> None:
        """Hear of ends; on a thread of its own, for it may start keeper and supervisor again and wait for them."""
        if self._ends is None:
            return
        ends = self._ends

        def ask() -> None:
            try:
                fd = ends.changes()
            except (OrchestratorError, OSError) as error:
                log.error("nobody tells of ended processes: %s", error)
                self.post(lambda: self._loop.later(5.0, self._subscribe))
            else:
                self.post(lambda: self._listen(fd))

        threading.Thread(target=ask, name="subscribe", daemon=True).start()

    def _listen(self, fd: int) -> None:
        self._subscribed = fd
        self._loop.watch(fd, self._ended)
        for name in tuple(self._kept):  # something may have ended before anybody listened
            self._queue.add(name)

    def _ended(self) -> None:
        assert self._ends is not None and self._subscribed is not None
        fd = self._subscribed
        self._loop.unwatch(fd)  # before `drain`, which closes it where the supervisor is gone
        ids = self._ends.drain()
        if ids is not None:
            self._loop.watch(fd, self._ended)
        else:
            self._subscribed = None
            self._loop.later(RESUBSCRIBE, self._subscribe)
            ids = frozenset()
        known = dict(self._kept)
        owners = {name for name, kept in known.items() if not ids.isdisjoint(kept.ids)}
        # An end of what was not seen yet, of a start that is on its way: anybody's.
        strange = not ids <= frozenset().union(*(kept.ids for kept in known.values()))
        for name in known if strange or not ids else owners:
            self._queue.add(name)

    def post(self, action: Callable[[], object]) -> None:
        """Have the main thread do it."""
        self._posted.put(action)
        os.eventfd_write(self._wake, 1)

    def _posted_to(self) -> None:
        os.eventfd_read(self._wake)
        while True:
            try:
                action = self._posted.get_nowait()
            except Empty:
                return
            action()

    # passes; on the workers

    def _work(self) -> None:
        while (name := self._queue.take()) is not None:
            kept = self._kept.get(name)
            if kept is None:
                kept = self._kept[name] = _Kept(Keeping(self._reconciler, name, self._prober.watch))
            try:
                self._pass(name, kept)
            except Exception as error:  # whatever is wrong with one stack, the others are kept
                if not isinstance(error, OrchestratorError):
                    log.exception("a pass over stack %s failed", name)
                self._trouble(name, kept, getattr(error, "message", f"{type(error).__name__}: {error}"))
            finally:
                self._queue.done(name)

    def _pass(self, name: str, kept: _Kept) -> None:
        if kept.fresh:
            kept.fresh = False
            kept.keeping.fresh()
        began = self._clock()
        look: Look | None = None
        events = kept.keeping.look(Policy(), self._stopping.is_set, timeout=0.0)
        try:
            while look is None:
                try:
                    self._tell(name, next(events))
                except StopIteration as end:
                    look = end.value
        except ConflictError as error:
            kept.standing = error.message
            self._tell(name, Queued(holder=error.message))
            self._queue.add_at(name, self._clock() + HELD_PAUSE)
            return
        self._remember(name, kept, look)
        if any(ref.kind in neighbours.LENT for ref in look.done.finished):
            for each in [other for other, borrower in dict(self._kept).items() if name in borrower.owners]:
                self._queue.add(each)
        if look.again:
            self._queue.add(name)
            return
        if look.pending != kept.told:
            kept.told = dict(look.pending)
            self._tell(name, Waiting(pending=kept.told))
        self.post(lambda: self.audience.looked(name, look, began))
        if isinstance(look.end, Settled) and not look.done.observed:
            self._forget(name)
        else:
            self._queue.add_at(name, look.due)

    def _remember(self, name: str, kept: _Kept, look: Look) -> None:
        kept.troubles = 0
        kept.looked, kept.revision = self._clock(), look.done.revision
        kept.standing = type(look.end).__name__.lower() if look.end else "progressing"
        kept.ids = frozenset(each.id for each in look.done.observed)
        waiting = neighbours.owners(each.ref for each in look.done.plan.changes)
        kept.owners = waiting | neighbours.owners(each.ref for each in look.done.observed)

    def _trouble(self, name: str, kept: _Kept, reason: str) -> None:
        pause = TROUBLE[min(kept.troubles, len(TROUBLE) - 1)]
        kept.troubles += 1
        kept.standing = f"troubled: {reason}"
        log.error("stack %s: %s", name, reason)
        self._tell(name, Troubled(reason=reason))
        self._queue.add_at(name, self._clock() + pause)

    def _forget(self, name: str) -> None:
        """Nothing is wished of it, and nothing is left of it."""
        self._kept.pop(name, None)
        self._prober.watch(name, [])

    def _tell(self, name: str, event: Event) -> None:
        self.post(lambda: self.audience.tell(name, event))
