"""`ps` and `ls`: the containers of each stack as the world shows them now.

Imports nothing heavy: this is the path that people run most often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cli.refs import natural
from orchestrator.errors import UsageError
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health, Observation, Observed, Phase

if TYPE_CHECKING:
    from orchestrator.app import App


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStatus:
    """One container. `address` is its first; `exit` its last end in words, while it does not run. `held`: who stopped it,
    since when. `failure`: why it is not started any more (`gave up ...`)."""

    ref: Ref
    phase: Phase
    health: Health
    pid: int | None
    address: str | None
    restarts: int
    exit: str | None
    held: str | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackStatus:
    """`revision` is None for a stack that is there and was never recorded here. `suspended`: by whom, since when."""

    name: str
    revision: int | None
    containers: tuple[ContainerStatus, ...]
    suspended: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackLine:
    """One stack in numbers of containers."""

    name: str
    revision: int | None
    containers: int
    running: int
    unhealthy: int


def status(app: App, stack: str | None = None) -> tuple[StackStatus, ...]:
    """All stacks, or the one that is named; raises UsageError if there is none of that name."""
    names = app.stacks()
    if stack is not None and stack not in names:
        raise UsageError(
            f"no stack is called {stack!r}", hint=f"there are: {', '.join(sorted(names)) or 'none'}"
        )
    found = _all(app, names if stack is None else [stack])
    return tuple(each for each in found if stack or each.revision or each.containers)


def lines(app: App) -> tuple[StackLine, ...]:
    """One for each stack, also for those that were deleted and whose volumes stay."""
    return tuple(
        StackLine(
            name=each.name,
            revision=each.revision,
            containers=len(each.containers),
            running=sum(row.phase is Phase.RUNNING for row in each.containers),
            unhealthy=sum(row.health is Health.UNHEALTHY for row in each.containers),
        )
        for each in _all(app, app.stacks())
    )


def _all(app: App, names: Iterable[str]) -> list[StackStatus]:
    return [of(app, name, app.observe_containers(name)) for name in sorted(names)]


def of(app: App, name: str, observed: Observed) -> StackStatus:
    """One stack, of observations of any kind; the containers in natural order (web-2 before web-10)."""
    orders = app.orders(name, observed)
    groups = {each.ref.name: each for each in observed if each.ref.kind is Kind.GROUP}
    rows = [
        _status(each, groups, orders.stopped.get(each.ref), app.given_up(each))
        for each in observed
        if each.ref.kind is Kind.CONTAINER
    ]
    return StackStatus(
        name=name,
        revision=app.revision(name),
        containers=tuple(sorted(rows, key=lambda each: natural(each.ref.name))),
        suspended=orders.suspended,
    )


def _status(
    each: Observation, groups: dict[str, Observation], held: str | None, failure: str | None
) -> ContainerStatus:
    group = groups.get(each.ref.name.partition("/")[0])
    addresses = each.addresses or (group.addresses if group else {})
    ended = each.exits[-1] if each.exits and each.phase is not Phase.RUNNING else None
    return ContainerStatus(
        ref=each.ref,
        phase=each.phase,
        health=each.health,
        pid=each.pid,
        address=next(iter(addresses.values()), None),
        restarts=each.restarts,
        exit=str(ended) if ended else None,
        held=held,
        failure=None if held else failure,
    )
