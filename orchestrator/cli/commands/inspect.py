"""`inspect`: one thing, as it was asked for, where it was written, and as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.cli import refs
from orchestrator.diagnostics import Span
from orchestrator.errors import OrchestratorError
from orchestrator.model.desired import Limits, Spec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """`spec` as the newest revision has it (None: it left the manifest); `limits` read back from the kernel."""

    stack: str
    ref: Ref
    spec: Spec | None
    places: Mapping[str, Span]
    observations: tuple[Observation, ...]
    limits: Limits | None


def inspect(app: App, text: str) -> Inspection:
    """Raises UsageError where `text` names nothing or more than one thing."""
    observed = {name: app.observe(name) for name in app.stacks()}
    wished = {name: app.recorded(name) for name in observed}
    existing = {refs.Named(name, each.ref) for name, found in observed.items() for each in found}
    existing |= {refs.Named(name, ref) for name, stack in wished.items() if stack for ref in stack.resources}
    named = refs.find(text, existing)
    stack = wished[named.stack]
    observations = tuple(each for each in observed[named.stack] if each.ref == named.ref)
    places = stack.places if stack else {}
    return Inspection(
        stack=named.stack,
        ref=named.ref,
        spec=stack.resources.get(named.ref) if stack else None,
        places={field: span for (ref, field), span in places.items() if ref == named.ref},
        observations=observations,
        limits=_limits(app, named.stack, observations),
    )


def _limits(app: App, stack: str, observations: tuple[Observation, ...]) -> Limits | None:
    for each in observations:
        if each.ref.kind is Kind.CONTAINER and each.phase is Phase.RUNNING:
            try:
                return app.runtime.read_limits(Incarnation(stack, each.ref, each.id))
            except OrchestratorError:
                return None  # it ended in between
    return None
