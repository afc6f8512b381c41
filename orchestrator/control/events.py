"""What is told of a stack while it is brought to its wish, and how that ends: values, and JSON for the agent's socket.

In: events of passes (`reconciler`), of probing (`probes`) and of the loop. Out: the same values on the other side. Plans
and steps lose there what only their executor needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.control.outcome import Settled, Stalled, Suspended
from orchestrator.control.probes import HealthChange
from orchestrator.control.reconciler import Planned, Queued, Stepped, Unrecorded
from orchestrator.model import codec
from orchestrator.model.ids import Ref
from orchestrator.plan.changes import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Nothing to do now; `pending` says per ref what it waits for. Told when it changes."""

    pending: Mapping[Ref, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Troubled:
    """A pass could not be made, because of `reason` (a full disk, no supervisor): it is tried again."""

    reason: str


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
    """The end: `cancelled` said so, at a step boundary. The revision stands; `agent`: there is one, which goes on."""

    agent: bool = False


End = Settled | Stalled | Suspended | TimedOut | Superseded | Interrupted
Event = Planned | Queued | Stepped | Unrecorded | HealthChange | Waiting | Troubled | End

_KINDS: Mapping[str, type[Event]] = {
    each.__name__: each
    for each in (
        Planned,
        Queued,
        Stepped,
        Unrecorded,
        HealthChange,
        Waiting,
        Troubled,
        Settled,
        Stalled,
        Suspended,
        TimedOut,
        Superseded,
        Interrupted,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """`revision`: the number that the caller committed; a newer one ends it. `timeout` in seconds (None: for ever).
    `cancelled`: asked at step boundaries and at least twice a second."""

    name: str
    revision: int
    timeout: float | None = None
    policy: Policy = field(default_factory=Policy)
    cancelled: Callable[[], bool] = lambda: False


def to_json(event: Event) -> dict[str, Any]:
    """{"event": kind, ...}"""
    if isinstance(event, Planned):
        event = replace(event, plan=replace(event.plan, steps=()))
    elif isinstance(event, Stepped):
        event = Stepped(result=replace(event.result, step=replace(event.result.step, spec=None, needs=())))
    data = codec.encode(event)
    return {"event": type(event).__name__, **data}


def from_json(data: Mapping[str, Any]) -> Event:
    """The inverse. Raises KeyError, ValueError or TypeError on what `to_json` of this version did not make."""
    return codec.decode(_KINDS[data["event"]], data)
