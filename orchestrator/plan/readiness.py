"""Which instances of a service traffic goes to.

In: the wish, what is kept of the world, words of the user, the time. Out: the wish with `ServiceSpec.ready` filled, and for
each instance why. Pure. Health that nobody knows changes nothing: a dead agent must never empty a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.model.desired import ContainerSpec, ServiceSpec, Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health, Observation, Phase
from orchestrator.plan import restarts
from orchestrator.plan.changes import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`why`: instance -> `is unhealthy`, `is healthy`."""

    stack: Stack
    why: Mapping[str, str]


def fill(stack: Stack, kept: Mapping[Ref, Observation], policy: Policy, now: float) -> Readiness:
    """Every service with the instances that are ready, in their order."""
    parts: dict[str, list[tuple[Ref, ContainerSpec]]] = {}
    for ref, spec in stack.resources.items():
        if isinstance(spec, ContainerSpec) and spec.job is None:
            parts.setdefault(ref.name.partition("/")[0], []).append((ref, spec))
    filled, why = {}, {}
    for ref, spec in stack.resources.items():
        if not isinstance(spec, ServiceSpec):
            continue
        found = kept.get(ref)
        known = found.applied.get("ready") if found else None
        ready = []
        for instance in spec.instances:
            stays = known is None or instance in known
            verdicts = [
                _held(Ref(Kind.GROUP, instance), policy)
                or _held(each, policy)
                or _verdict(inner, kept.get(each), now, stays=stays)
                for each, inner in parts.get(instance, ())
            ]
            wrong = next((text for ok, text in verdicts if not ok), None)
            why[instance] = wrong or next((text for _, text in verdicts), "is there")
            if wrong is None:
                ready.append(instance)
        filled[ref] = replace(spec, ready=tuple(ready))
    return Readiness(stack=replace(stack, resources={**stack.resources, **filled}), why=why)


def _held(ref: Ref, policy: Policy) -> tuple[bool, str] | None:
    return (False, "is stopped") if ref in policy.stopped else None


def _verdict(spec: ContainerSpec, found: Observation | None, now: float, *, stays: bool) -> tuple[bool, str]:
    """Whether one container lets its instance in. `stays`: the instance is in now, or nobody knows."""
    if spec.health is None:
        return _unprobed(spec, found, now)
    if found is None or found.phase is not Phase.RUNNING:
        return False, "is not running"
    match found.health:
        case Health.HEALTHY:
            return True, "is healthy"
        case Health.UNHEALTHY:
            return False, "is unhealthy"
        case Health.STARTING:
            return False, "is starting"
        case Health.UNKNOWN | Health.NONE:
            return stays, "has unknown health"


def _unprobed(spec: ContainerSpec, found: Observation | None, now: float) -> tuple[bool, str]:
    """Running is healthy, and so is what is about to run: a bring-up needs no second look."""
    if found is None or found.phase is not Phase.EXITED:
        return True, "runs"
    verdict = restarts.decide(spec, found, now)
    coming = verdict.start and verdict.not_before is None
    return coming, "runs" if coming else "is not running"
