"""What a pass amounts to: settled, again, or stalled until somebody edits.

In: a plan without work left, and the world it was made from. Out: an Outcome with a reason per ref. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.control import health
from orchestrator.model.desired import Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health, Observation, Observed, Phase
from orchestrator.plan import explain
from orchestrator.plan.changes import Plan

STEADY = 0.5  # seconds that a container without a probe must be up before `settled` is said
LOOK_AGAIN = 1.0  # seconds between looks at what another stack is to bring


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The world is as wished, and healthy. `held`: but for what an operator stopped, and what waits for that."""

    held: Mapping[Ref, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Look again after `after` seconds (None: when something happens). `pending`: what each ref waits for."""

    after: float | None
    pending: Mapping[Ref, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    """Nothing goes on by itself any more; `reasons` per ref are for a user to act on."""

    reasons: Mapping[Ref, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """An operator wants the stack left as it is; `why`: who, since when."""

    why: str


Outcome = Settled | Again | Stalled | Suspended


def judge(stack: Stack | None, plan: Plan, observed: Observed, now: float) -> Outcome:
    """`plan` has no steps. `now`: CLOCK_BOOTTIME seconds."""
    waits, held = _waits(plan)
    unsettled = _unsettled(stack, observed, now)
    active = {ref: text for ref, (text, _) in unsettled.items() if ref not in plan.failures}
    due = [due for _, due in unsettled.values() if due is not None]
    for change in plan.changes:
        if change.not_before is not None and not change.waits:
            active[change.ref] = f"restarts in {max(0.0, change.not_before - now):.0f} s: {change.reason}"
            due.append(change.not_before)
    if any(need.ref.owner for change in plan.changes for need in change.waits):
        active |= waits  # another stack may bring it at any time, and nobody tells of that
        due.append(now + LOOK_AGAIN)
    if active:
        after = max(0.0, min(due) - now) if due else None
        return Again(after=after, pending={**plan.failures, **active, **waits})
    if plan.failures or waits:
        return Stalled(reasons={**waits, **plan.failures})
    return Settled(held={**plan.holds, **held})


def _waits(plan: Plan) -> tuple[dict[Ref, str], dict[Ref, str]]:
    """What waits for something to happen, and what waits for nothing but an operator's word."""
    waits: dict[Ref, str] = {}
    held: dict[Ref, str] = {}
    for change in plan.changes:  # in creation order: what is needed stands before what needs it
        if change.waits:
            ours = all(need.ref in plan.holds or need.ref in held for need in change.waits)
            (held if ours else waits)[change.ref] = explain.waiting(change.waits[0])
    return waits, held


def _unsettled(stack: Stack | None, observed: Observed, now: float) -> dict[Ref, tuple[str, float | None]]:
    """Running containers that have not got where they should be: (why, when to look again)."""
    found = {}
    for each in observed:
        if stack is None or each.ref.kind is not Kind.CONTAINER or each.phase is not Phase.RUNNING:
            continue
        if each.ref in stack.resources:
            why = _why(each, now)
            if why:
                found[each.ref] = why
    return found


def _why(each: Observation, now: float) -> tuple[str, float | None] | None:
    if each.applied.get("job") is not None:
        return "runs, has not completed", None
    if health.wanted(each) is None:
        young = each.started is not None and now - each.started < STEADY
        return ("has just started", (each.started or now) + STEADY) if young else None
    match each.health:
        case Health.HEALTHY:
            return None
        case Health.UNHEALTHY:
            return "is unhealthy", None
        case Health.NONE | Health.STARTING | Health.UNKNOWN:
            return "is not healthy yet", None
