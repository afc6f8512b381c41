"""What the probing thread does: deadlines in a heap, sockets in a selector, a verdict at the end of each probe.

In: the targets of each stack. Out: published health files and `HealthChange`s. Its clock counts only while it runs: after
a gap (SIGSTOP, suspend, a machine that is short of time) nothing is held against a container that had no time to answer.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import selectors
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.control import health
from orchestrator.control.attempts import Attempt, Verdict
from orchestrator.control.tracking import Target, Track
from orchestrator.model.desired import CommandProbe
from orchestrator.model.ids import Incarnation
from orchestrator.model.observed import Health

GAP = 1.0  # seconds by which a turn may come late
SOON = 1.0  # seconds over which probes are spread that would all be due at once

MOST = 512  # sockets at once: who does not answer must not use up the descriptors that all else needs

Begin = Callable[[Track, CommandProbe], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChange:
    incarnation: Incarnation
    old: Health
    new: Health
    output: str


class Probing:
    """Touched by one thread alone. `begin_command` starts a command probe, whose end is told to `finish`; `changed` hears
    of every change, and of the first result of each target, before which readers may have seen `unknown`."""

    def __init__(
        self,
        clock: Callable[[], float],
        begin_command: Begin,
        changed: Callable[[HealthChange], None],
    ) -> None:
        self._clock, self._begin_command, self._changed = clock, begin_command, changed
        self._selector = selectors.DefaultSelector()
        self._tracks: dict[Incarnation, Track] = {}
        self._stacks: dict[str, tuple[Incarnation, ...]] = {}
        self._attempts: dict[Incarnation, Attempt] = {}
        # (when, number, track, attempt): the attempt's time is over; None: a probe is due
        self._heap: list[tuple[float, int, Track, Attempt | None]] = []
        self._numbers = itertools.count()
        self._seen = clock()  # when the last turn had waited
        self._late = False

    def watch_poke(self, descriptor: int) -> None:
        """`turn` returns whenever it is readable; the caller reads it."""
        self._selector.register(descriptor, selectors.EVENT_READ)

    def replace(self, stack: str, targets: list[Target]) -> None:
        """From now on exactly these of the stack; a target that is watched already keeps its counts."""
        wanted = {each.incarnation: each for each in targets}
        for incarnation in self._stacks.pop(stack, ()):
            if wanted.get(incarnation) != self._tracks[incarnation].target:
                del self._tracks[incarnation]
                self._close(incarnation)
        if wanted:
            self._stacks[stack] = tuple(wanted)
        for incarnation, target in wanted.items():
            if incarnation not in self._tracks:
                self._tracks[incarnation] = track = Track(target)
                now = self._clock()
                self._at(now + (self._soon(track) if self._adopt(track, now) else 0.0), track)

    def close(self) -> None:
        """Ends what is under way."""
        for stack in list(self._stacks):
            self.replace(stack, [])
        self._selector.close()

    def turn(self) -> None:
        """Waits for the next socket, deadline or poke, and does what it asks for."""
        wait = max(0.0, self._heap[0][0] - self._clock()) if self._heap else None
        events = self._selector.select(wait)
        now, was_late = self._clock(), self._late
        self._late = wait is not None and now - self._seen - wait > GAP
        self._seen = now
        for key, _ in events:
            if key.data is not None:
                self._advance(key.data)
        while self._heap and self._heap[0][0] <= now:
            _, _, track, attempt = heapq.heappop(self._heap)
            if self._tracks.get(track.target.incarnation) is not track:
                continue
            if attempt is not None:
                if self._attempts.get(track.target.incarnation) is attempt:
                    self.finish(track, Verdict(False, f"no answer in {track.target.probe.timeout:g} s"))
            elif self._late and not was_late:  # all that should have been probed meanwhile is due
                self._at(now + self._soon(track), track)
            else:
                self._begin(track)

    def finish(self, track: Track, verdict: Verdict | None) -> None:
        """One probe has ended: count it, publish, and plan the next. None: it says nothing of the container."""
        incarnation, now, old = track.target.incarnation, self._clock(), track.health
        self._close(incarnation)
        if self._tracks.get(incarnation) is not track:
            return
        if verdict is None or (self._late and not verdict.ok):
            self._at(now + self._soon(track), track)
            return
        changed = track.record(verdict.ok, verdict.output[: health.OUTPUT_LIMIT], now)
        if track.to_publish(now):
            self._publish(track, now)
        if changed or not track.announced:
            track.announced = True
            self._changed(
                HealthChange(incarnation=incarnation, old=old, new=track.health, output=track.output)
            )
        self._at(track.next_probe(now, random.random()), track)

    def _adopt(self, track: Track, now: float) -> bool:
        """Goes on from what an earlier prober published of the same process; True while that still holds."""
        target, found = track.target, health.read(track.target.file)
        if found is None or abs(found.started - target.started) > health.SAME_START:
            return False
        track.health, track.failures, track.since = found.health, found.failures, found.since
        track.succeeded = found.health is Health.HEALTHY
        return health.judge(found, now=now, wanted=target.probe, started=target.started) is found

    def _at(self, when: float, track: Track, attempt: Attempt | None = None) -> None:
        heapq.heappush(self._heap, (when, next(self._numbers), track, attempt))

    @staticmethod
    def _soon(track: Track) -> float:
        return min(SOON, track.target.probe.interval) * random.random()

    def _begin(self, track: Track) -> None:
        target, probe = track.target, track.target.probe.probe
        if isinstance(probe, CommandProbe):
            self._begin_command(track, probe)
            return
        if target.address is None:
            self.finish(track, Verdict(False, "the group is on no network: there is no address to probe"))
            return
        if len(self._attempts) >= MOST:
            self._at(self._clock() + self._soon(track), track)
            return
        try:
            attempt = Attempt(probe, target.address, target.netns)
        except OSError:  # out of descriptors or ports, or the group is being taken down
            self.finish(track, None)
            return
        verdict = attempt.advance()
        if verdict:
            attempt.close()
            self.finish(track, verdict)
            return
        self._attempts[target.incarnation] = attempt
        self._selector.register(attempt.socket, attempt.events, track)
        self._at(self._clock() + target.probe.timeout, track, attempt)

    def _advance(self, track: Track) -> None:
        attempt = self._attempts.get(track.target.incarnation)
        if attempt is None:
            return
        before = attempt.events
        verdict = attempt.advance()
        if verdict:
            self.finish(track, verdict)
        elif attempt.events != before:
            self._selector.modify(attempt.socket, attempt.events, track)

    def _publish(self, track: Track, now: float) -> None:
        published = health.Published(
            health=track.health,
            at=now,
            started=track.target.started,
            since=track.since,
            failures=track.failures,
            output=track.output,
        )
        with contextlib.suppress(OSError):  # a full disk must not end probing: readers will see `unknown`
            health.publish(track.target.file, published)

    def _close(self, incarnation: Incarnation) -> None:
        attempt = self._attempts.pop(incarnation, None)
        if attempt:
            self._selector.unregister(attempt.socket)
            attempt.close()
