"""Probes all containers: http and tcp on one thread with selectors and a heap of deadlines, commands in a small pool.

In: the targets of each stack, replaced as a whole whenever the stack was looked at. Out: published health files, and
changes to be drained, announced on a descriptor. It decides nothing about containers.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import selectors
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from orchestrator.control import health
from orchestrator.control.attempts import Attempt, Verdict
from orchestrator.control.tracking import Target, Track
from orchestrator.model.desired import CommandProbe
from orchestrator.model.ids import Incarnation
from orchestrator.model.observed import Health, Observed
from orchestrator.ports.layout import Layout

COMMANDS_AT_ONCE = 4

RunCommand = Callable[[Target, CommandProbe], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChange:
    incarnation: Incarnation
    old: Health
    new: Health
    output: str


def targets(stack: str, observed: Observed, layout: Layout) -> list[Target]:
    """What is to be probed: running containers that were applied with `health`."""
    groups = {each.ref.name: each.addresses for each in observed if each.ref.kind == "group"}
    found = []
    for each in observed:
        probe = health.wanted(each)
        if probe is None or each.started is None:
            continue
        addresses = each.addresses or groups.get(each.ref.name.partition("/")[0], {})
        found.append(
            Target(
                incarnation=Incarnation(stack, each.ref, each.id),
                probe=probe,
                address=next(iter(addresses.values()), None),
                started=each.started,
                env=each.applied.get("env", {}),
                file=health.path(layout, each.id),
            )
        )
    return found


class Prober:
    """Use as a context manager. `fileno()` is readable while changes wait. `clock`: CLOCK_BOOTTIME seconds."""

    def __init__(self, *, clock: Callable[[], float], run_command: RunCommand) -> None:
        self.clock = clock
        self.run_command = run_command
        self._changes: SimpleQueue[HealthChange] = SimpleQueue()
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()  # run on the probing thread
        self._announce = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poke = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop = _Loop(self)
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._pool = ThreadPoolExecutor(COMMANDS_AT_ONCE, thread_name_prefix="probe")
        self._ending = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._wake()
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        os.close(self._announce)
        os.close(self._poke)

    def watch(self, stack: str, targets: Iterable[Target]) -> None:
        """From now on exactly these of the stack; a target that is watched already keeps its counts."""
        chosen = list(targets)
        self._inbox.put(lambda: self._loop.replace(stack, chosen))
        self._wake()

    def fileno(self) -> int:
        return self._announce

    def drain(self) -> list[HealthChange]:
        """The changes since the last call, oldest first."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._announce)
        found = []
        with contextlib.suppress(Empty):
            while True:
                found.append(self._changes.get_nowait())
        return found

    def _wake(self) -> None:
        os.eventfd_write(self._poke, 1)

    # on the probing thread

    def _run(self) -> None:
        with self._loop.selector as selector:
            selector.register(self._poke, selectors.EVENT_READ)
            while not self._ending:
                self._loop.turn()
                with contextlib.suppress(Empty):
                    while True:
                        self._inbox.get_nowait()()
            self._loop.close()

    def poked(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._poke)

    def changed(self, change: HealthChange) -> None:
        self._changes.put(change)
        os.eventfd_write(self._announce, 1)

    def command(self, track: Track, probe: CommandProbe) -> None:
        """Runs it in the pool; the verdict comes back through the inbox."""

        def work() -> None:
            try:
                verdict = self.run_command(track.target, probe)
            except Exception as error:  # whatever goes wrong there is a failed probe, never a dead prober
                verdict = Verdict(False, str(error))
            if not self._ending:
                self._inbox.put(lambda: self._loop.finish(track, verdict))
                self._wake()

        self._pool.submit(work)


class _Loop:
    """The state that only the probing thread touches."""

    def __init__(self, prober: Prober) -> None:
        self.prober = prober
        self.selector = selectors.DefaultSelector()
        self.tracks: dict[Incarnation, Track] = {}
        self.stacks: dict[str, tuple[Incarnation, ...]] = {}
        self.attempts: dict[Incarnation, Attempt] = {}
        self.heap: list[
            tuple[float, int, Track, Attempt | None]
        ] = []  # an attempt: its timeout; None: a probe is due
        self.numbers = itertools.count()

    def replace(self, stack: str, targets: list[Target]) -> None:
        wanted = {each.incarnation: each for each in targets}
        for incarnation in self.stacks.pop(stack, ()):
            if wanted.get(incarnation) != self.tracks[incarnation].target:
                del self.tracks[incarnation]
                self._close(incarnation)
        if wanted:
            self.stacks[stack] = tuple(wanted)
        for incarnation, target in wanted.items():
            if incarnation not in self.tracks:
                track = Track(target)
                self.tracks[incarnation] = track
                self._adopt(track)
                self._at(self.prober.clock(), track)

    def close(self) -> None:
        """Ends what is under way."""
        for stack in list(self.stacks):
            self.replace(stack, [])

    def _adopt(self, track: Track) -> None:
        """Goes on from what an earlier prober published of the same process."""
        target, found = track.target, health.read(track.target.file)
        if found and abs(found.started - target.started) <= health.SAME_START:
            track.health, track.failures = found.health, found.failures
            track.succeeded = found.health is Health.HEALTHY

    def _at(self, when: float, track: Track, attempt: Attempt | None = None) -> None:
        heapq.heappush(self.heap, (when, next(self.numbers), track, attempt))

    def turn(self) -> None:
        """Waits for the next socket, deadline or poke, and does what it asks for."""
        timeout = max(0.0, self.heap[0][0] - self.prober.clock()) if self.heap else None
        for key, _ in self.selector.select(timeout):
            if key.data is None:
                self.prober.poked()
            else:
                self._advance(key.data)
        now = self.prober.clock()
        while self.heap and self.heap[0][0] <= now:
            _, _, track, attempt = heapq.heappop(self.heap)
            incarnation = track.target.incarnation
            if self.tracks.get(incarnation) is not track:
                continue
            if attempt is None:
                self._begin(track)
            elif self.attempts.get(incarnation) is attempt:
                self.finish(track, Verdict(False, f"no answer in {track.target.probe.timeout:g} s"))

    def _begin(self, track: Track) -> None:
        target = track.target
        probe = target.probe.probe
        if isinstance(probe, CommandProbe):
            self.prober.command(track, probe)
            return
        if target.address is None:
            self.finish(track, Verdict(False, "the group is on no network: there is no address to probe"))
            return
        try:
            attempt = Attempt(probe, target.address)
        except OSError as error:  # out of descriptors
            self.finish(track, Verdict(False, (error.strerror or str(error)).lower()))
            return
        self.attempts[target.incarnation] = attempt
        self.selector.register(attempt.socket, attempt.events, track)
        if attempt.early:
            self.finish(track, attempt.early)
        else:
            self._at(self.prober.clock() + target.probe.timeout, track, attempt)

    def _advance(self, track: Track) -> None:
        attempt = self.attempts.get(track.target.incarnation)
        if attempt is None:
            return
        verdict = attempt.advance()
        if verdict:
            self.finish(track, verdict)
        else:
            self.selector.modify(attempt.socket, attempt.events, track)

    def finish(self, track: Track, verdict: Verdict) -> None:
        """One probe has ended: count it, publish, and plan the next."""
        incarnation = track.target.incarnation
        self._close(incarnation)
        if self.tracks.get(incarnation) is not track:
            return
        now, old = self.prober.clock(), track.health
        changed = track.record(verdict.ok, verdict.output[: health.OUTPUT_LIMIT], now)
        published = health.Published(
            health=track.health,
            at=now,
            started=track.target.started,
            failures=track.failures,
            output=track.output,
        )
        with contextlib.suppress(OSError):  # a full disk must not end probing: readers will see `unknown`
            health.publish(track.target.file, published)
        if (
            changed or not track.announced
        ):  # the first result always: before it, readers may have seen `unknown`
            track.announced = True
            change = HealthChange(incarnation=incarnation, old=old, new=track.health, output=track.output)
            self.prober.changed(change)
        self._at(track.next_probe(now, random.random()), track)

    def _close(self, incarnation: Incarnation) -> None:
        attempt = self.attempts.pop(incarnation, None)
        if attempt:
            self.selector.unregister(attempt.socket)
            attempt.close()
