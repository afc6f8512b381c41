"""`status` and `wait`: how a stack stands, and waiting until it, or a part of it, has come so far.

In: names. Out: conditions with the reason of each ref that is not as wished, from the world as it is now and, where one
runs, from the agent, which alone knows of failed attempts. Needs no agent, and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.app import App, Outlook
from orchestrator.cli import refs
from orchestrator.control import chronicle
from orchestrator.control.outcome import Again, Settled, Stalled, Suspended
from orchestrator.errors import UsageError
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health, Observation, Phase
from orchestrator.plan import restarts
from orchestrator.state.events import KEPT

PAUSE = 0.25  # seconds between looks


class Standing(StrEnum):
    SETTLED = "settled"  # as wished, and healthy
    HELD = "held"  # the same, but for what an operator stopped
    PROGRESSING = "progressing"  # on its way there, for the first time with this revision
    DEGRADED = "degraded"  # it was there, and something is wrong now
    STALLED = "stalled"  # nothing goes on until somebody acts
    SUSPENDED = "suspended"
    DELETED = "deleted"  # nothing is wished of it; reasons say what is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`reasons`: refs that are not as wished, and why; `held`: because somebody stopped them. `suspended`: by whom.
    `agent`: one keeps it so."""

    stack: str
    revision: int | None
    standing: Standing
    agent: bool
    reasons: Mapping[Ref, str] = field(default_factory=dict)
    held: Mapping[Ref, str] = field(default_factory=dict)
    suspended: str | None = None


def status(app: App, name: str | None) -> tuple[Condition, ...]:
    """Of all stacks that are wished for, or of one."""
    known = sorted(app.stacks())
    if name is not None and name not in known:
        raise UsageError(f"no stack is called {name!r}", hint=f"there are: {', '.join(known) or 'none'}")
    names = [name] if name is not None else [each for each in known if app.revision(each) is not None]
    agent = app.agent_status()
    return tuple(_condition(app, each, agent) for each in names)


def _condition(app: App, name: str, agent: Mapping[str, Any] | None) -> Condition:
    wish, revision = app.recorded(name), app.revision(name)
    if wish is None or revision is None:
        left = {each.ref: "is left" for each in app.observe(name) if each.ref.kind is not Kind.VOLUME}
        return Condition(
            stack=name, revision=None, standing=Standing.DELETED, agent=agent is not None, reasons=left
        )
    suspended = app.orders(name, ()).suspended
    told = agent["stacks"].get(name, {}) if agent else {}
    pending = told.get("pending", {}) if told.get("revision") == revision else {}
    standing, reasons = _judged(app.outlook(wish), {Ref.parse(ref): text for ref, text in pending.items()})
    if standing is Standing.PROGRESSING and pending and told["standing"] == "stalled":
        standing = Standing.STALLED
    if standing is Standing.PROGRESSING and _was_settled(app, name, revision):
        standing = Standing.DEGRADED
    held = reasons if standing is Standing.HELD else {}
    return Condition(
        stack=name,
        revision=revision,
        standing=Standing.SUSPENDED if suspended else standing,
        agent=agent is not None,
        reasons={} if held else reasons,
        held=held,
        suspended=suspended,
    )


def _judged(outlook: Outlook, pending: Mapping[Ref, str]) -> tuple[Standing, Mapping[Ref, str]]:
    """`pending`: what the agent says of refs; of what is to be done, it knows what went wrong."""
    plan = outlook.plan
    if plan.steps:
        acting = {step.ref for step in plan.steps}
        work = {each.ref: each.reason for each in plan.changes if each.ref in acting}
        return Standing.PROGRESSING, {**work, **plan.failures, **pending}
    match outlook.outcome:
        case Settled(held=held):
            return (Standing.HELD, held) if held else (Standing.SETTLED, {})
        case Stalled(reasons=reasons):
            return Standing.STALLED, reasons
        case Again(pending=waits):
            return Standing.PROGRESSING, waits
        case Suspended():
            raise AssertionError("an outlook asks no operator")


def _was_settled(app: App, name: str, revision: int) -> bool:
    return revision in {
        number
        for each in app.events(name, limit=KEPT)
        for number, what in chronicle.result_of([each]).items()
        if what == "settled"
    }


# waiting


class Goal(StrEnum):
    SETTLED = "settled"
    HEALTHY = "healthy"
    RUNNING = "running"
    EXITED = "exited"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look: `missing` says of what has not come so far why; `never`: of what never will by itself."""

    missing: Mapping[str, str]
    never: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """What is waited for: whole stacks, or containers by stack."""

    goal: Goal
    look: Callable[[], Look]


def awaited(app: App, texts: Sequence[str], goal: Goal | None) -> list[Awaited]:
    """`goal` None: settled for a stack, healthy for containers."""
    stacks = {name for name in app.stacks() if app.revision(name) is not None}
    found = []
    for text in texts:
        if text in stacks:
            if goal not in (None, Goal.SETTLED):
                raise UsageError(f"{text!r} is a stack: it can only be settled", hint="name its containers")
            found.append(Awaited(goal=Goal.SETTLED, look=_stack(app, text)))
            continue
        if goal is Goal.SETTLED:
            raise UsageError(
                f"no stack is called {text!r}", hint=f"there are: {', '.join(sorted(stacks)) or 'none'}"
            )
        existing = [refs.Named(name, ref) for name in stacks for ref in app.wished(name)]
        chosen = refs.select(text, existing)
        wanted = goal or Goal.HEALTHY
        found.append(
            Awaited(
                goal=wanted, look=_containers(app, chosen[0].stack, [each.ref for each in chosen], wanted)
            )
        )
    return found


def wait(what: Awaited, deadline: float) -> Iterator[Look]:
    """Looks until it is reached (nothing is missing), can never be, or it is `deadline` by the monotonic clock; the last
    one tells which."""
    while True:
        look = what.look()
        yield look
        left = deadline - time.monotonic()
        if not look.missing or look.never or left <= 0:
            return
        time.sleep(min(PAUSE, left))


def _stack(app: App, name: str) -> Callable[[], Look]:
    def look() -> Look:
        found = _condition(app, name, app.agent_status())
        if found.standing in (Standing.SETTLED, Standing.HELD):
            return Look(missing={})
        why = {str(ref): text for ref, text in found.reasons.items()} or {name: found.standing.value}
        if found.suspended:
            return Look(missing=why, never={name: found.suspended})
        gone = found.standing in (Standing.STALLED, Standing.DELETED)
        return Look(missing=why, never=why if gone else {})

    return look


def _containers(app: App, stack: str, targets: Sequence[Ref], goal: Goal) -> Callable[[], Look]:
    def look() -> Look:
        wish = app.recorded(stack)
        if wish is None:
            return Look(missing={stack: "is deleted"}, never={stack: "is deleted"})
        outlook, suspended = app.outlook(wish), app.orders(stack, ()).suspended
        seen = {each.ref: each for each in outlook.observed}
        missing, never = {}, {}
        for ref in targets:
            why = _why_not(goal, seen.get(ref))
            if why is None:
                continue
            missing[str(ref)] = why
            reason = _hopeless(goal, ref, seen.get(ref), outlook) if suspended is None else suspended
            if reason is not None and not _rising(goal, seen.get(ref)):
                never[str(ref)] = reason
        return Look(missing=missing, never=never)

    return look


def _why_not(goal: Goal, each: Observation | None) -> str | None:
    """Why it is not there yet; None: it is."""
    if each is None:
        return "is not there yet"
    running = each.phase is Phase.RUNNING
    match goal:
        case Goal.HEALTHY if running and each.applied.get("health") is not None:
            return None if each.health is Health.HEALTHY else f"is {each.health}"
        case Goal.HEALTHY | Goal.RUNNING:
            return None if running else _ended(each)
        case Goal.EXITED:
            return None if each.phase is Phase.EXITED else "runs" if running else "was not started yet"
        case Goal.COMPLETED:
            return None if restarts.completed(each) else "runs" if running else _ended(each)
        case Goal.SETTLED:
            raise AssertionError("a container is not settled")


def _ended(each: Observation) -> str:
    return f"has ended ({each.exits[-1]})" if each.exits else "was not started yet"


def _rising(goal: Goal, each: Observation | None) -> bool:
    """It runs, and what is missing may come by itself."""
    return goal is not Goal.EXITED and each is not None and each.phase is Phase.RUNNING


def _hopeless(goal: Goal, ref: Ref, each: Observation | None, outlook: Outlook) -> str | None:
    """Why it will not come so far by itself; None: it may."""
    plan = outlook.plan
    if goal is Goal.EXITED:
        return None
    if ref in plan.holds or ref in plan.failures:
        return plan.holds.get(ref) or plan.failures[ref]
    coming = ref in {change.ref for change in plan.changes}
    return None if coming or each is None else f"{_ended(each)}, and is not started again"
