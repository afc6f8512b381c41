"""`plan`: what an apply would do. Reads the world, touches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from orchestrator.diagnostics import Span
from orchestrator.model.desired import Publish, ServiceSpec, Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.plan.changes import Plan, Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A port that other machines reach."""

    ref: Ref
    publish: Publish
    place: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A stack, what would be done, and which changed service other machines can reach. `suspended`: who, since when; until
    that is lifted nothing of it is done."""

    stack: Stack
    plan: Plan
    exposures: tuple[Exposure, ...] = ()
    suspended: str | None = None


def planned(stack: Stack, plan: Plan, suspended: str | None = None) -> Planned:
    return Planned(stack=stack, plan=plan, exposures=tuple(_exposures(stack, plan)), suspended=suspended)


def _exposures(stack: Stack, plan: Plan) -> Iterator[Exposure]:
    for change in plan.changes:
        spec = stack.resources.get(change.ref)
        if (
            change.ref.kind is not Kind.SERVICE
            or change.verb is Verb.DELETE
            or not isinstance(spec, ServiceSpec)
        ):
            continue
        place = stack.places.get((change.ref, "publish")) or stack.places.get((change.ref, ""))
        for publish in spec.publish:
            if not ip_address(publish.address).is_loopback:
                yield Exposure(ref=change.ref, publish=publish, place=place)
