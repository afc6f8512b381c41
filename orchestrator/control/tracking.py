"""From probe results to health: the counting rules, apart from sockets and clocks.

In: results with their times. Out: health and the time of the next probe. Rules are Docker's: failures before the end of
`start_period` do not count, the first success makes healthy, `retries` failures in a row make unhealthy. Beyond them: the
first probe comes at once and then at 0.05 s doubling to 0.5 s (never slower than `interval`) until the first success or
verdict, so that a stack comes up quickly; of these early failures at most one an interval counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.model import desired
from orchestrator.model.ids import Incarnation
from orchestrator.model.observed import Health

FIRST_DELAY = 0.05
EARLY_DELAY = 0.5
JITTER = 0.1
TICK = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One process to be probed. `address` None: the group is on no network. `netns`: the pinned network namespace to
    connect from; None: the host's. `file`: where its health is published."""

    incarnation: Incarnation
    probe: desired.Health
    address: str | None
    netns: str | None = None
    started: float
    env: Mapping[str, str]
    file: Path


@dataclass(slots=True)
class Track:
    """The health of one target so far. Times: CLOCK_BOOTTIME seconds."""

    target: Target
    health: Health = Health.STARTING
    failures: int = 0
    output: str = ""
    since: float = 0.0
    succeeded: bool = False
    announced: bool = False
    _delay: float = FIRST_DELAY
    _spread: bool = False
    _told: tuple[Health, int, str] | None = None
    _told_at: float = 0.0
    _counts_from: float = field(init=False)

    def __post_init__(self) -> None:
        probe = self.target.probe
        self._counts_from = self.target.started + max(probe.start_period, probe.interval)
        self.since = self.target.started

    def record(self, ok: bool, output: str, now: float) -> bool:
        """One result; True when the health changed."""
        before = self.health
        self.output = output
        if ok:
            self.succeeded, self.failures, self.health = True, 0, Health.HEALTHY
        elif self.succeeded or now >= self._counts_from:
            self.failures += 1
            self._counts_from = now + self.target.probe.interval
            if self.failures >= self.target.probe.retries:
                self.health = Health.UNHEALTHY
        if self.health is before:
            return False
        self.since = now
        return True

    def next_probe(self, now: float, chance: float) -> float:
        """`chance` in [0, 1) spreads probes, so that a thousand containers are not probed in one instant; but those that
        are near each other come together, which costs a third (1.2 instead of 3.4 % of a core at 100 probes a second)."""
        interval = self.target.probe.interval
        if self.health is Health.STARTING:
            delay = min(self._delay, EARLY_DELAY, interval)
            self._delay *= 2
            return now + delay
        if not self._spread:  # what came up together goes separate ways from here
            self._spread = True
            due = now + interval * (0.5 + 0.5 * chance)
        else:
            due = now + interval * (1 + JITTER * (chance - 0.5))
        tick = min(TICK, interval / 10)
        return math.ceil(due / tick) * tick

    def to_publish(self, now: float) -> bool:
        """Whether readers must be told: of news, or before what they know counts as stale (`health.judge`)."""
        news = self.health, self.failures, self.output
        if news == self._told and now - self._told_at < 1.9 * self.target.probe.interval:
            return False
        self._told, self._told_at = news, now
        return True
