"""What is: observations of incarnations, made by drivers. Read by plan, control and the CLI; never written by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.model.desired import Need
from orchestrator.model.ids import Ref

LOST = "lost"  # in `Observation.actual`: out of reach, so that only a new process gets it back


EDITED = "edited"  # among the fields of an update: what went wrong before it is forgiven, as by an edit


class Phase(StrEnum):
    """How far an incarnation has come. Kinds without processes are `running` when they are in effect."""

    INCOMPLETE = (
        "incomplete"  # its creation was cut off, or its record cannot be read: only good for deletion
    )
    CREATED = "created"  # recorded, not in effect (never started, or this host was rebooted)
    RUNNING = "running"
    EXITED = "exited"


class Health(StrEnum):
    NONE = "none"  # no probe is asked for
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"  # nobody has probed lately


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """One end of one process of a container. Times are seconds of CLOCK_BOOTTIME; 0 where it was in an earlier boot.

    Exactly one of `code` (0-255), `signal` (number) and `error` (it never ran: the failing call) is set, or none of
    them: nobody could read it (`unknown`), which counts as a failure. `stopped`: we asked for this end; `fault`: because
    of this, which the container is to blame for, so it counts as a failure as well.
    """

    started: float
    ended: float
    code: int | None = None
    signal: int | None = None
    oom: bool = False
    stopped: bool = False
    error: str | None = None
    fault: str | None = None

    @property
    def success(self) -> bool:
        return self.code == 0 and self.error is None and self.fault is None

    @property
    def forgiven(self) -> bool:
        """We ended it, and not for anything that it did."""
        return self.stopped and self.fault is None

    @property
    def earlier(self) -> bool:
        """It was in an earlier boot, whose clock means nothing now."""
        return self.ended == 0.0

    def __str__(self) -> str:
        if self.fault is not None:
            return self.fault
        if self.error is not None:
            return self.error
        if self.oom:
            return "killed: out of memory"
        if self.code is not None:
            return f"exit {self.code}"
        return f"signal {self.signal}" if self.signal is not None else "unknown exit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One incarnation as found. `applied` is the encoded spec (`model.codec`) it was made or last updated with; `actual`
    is what the kernel says of live fields, in the same dotted names as the plan's (`limits.memory`), for those read back.
    `needs` are those that it was created with. `exits`: the newest last, at most 16, also of earlier boots; `restarts`
    counts starts after the first. `pid` is the host's view; `started` in CLOCK_BOOTTIME seconds. `edited`: CLOCK_BOOTTIME
    seconds of the last create or update in this boot; exits of runs before it are forgiven. `said`: what the last probe
    found, in words; `since`: CLOCK_BOOTTIME seconds at which the health became what it is.
    `damage`: what of it somebody else changed that is no field, in words (`link`, `hosts file`); any update mends it.
    `broken`: the same, where only a new process mends it (`mounts`).
    """

    ref: Ref
    id: str
    phase: Phase
    applied: Mapping[str, Any]
    health: Health = Health.NONE
    said: str = ""
    since: float | None = None
    actual: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    exits: tuple[Exit, ...] = ()
    restarts: int = 0
    pid: int | None = None
    started: float | None = None
    edited: float | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)  # network -> address
    damage: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


Observed = tuple[Observation, ...]
