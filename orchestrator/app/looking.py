"""One instance of the orchestrator, looked at: texts, revisions, events, observations, plans. Changes nothing.

In: names and paths. Out: values of the layers below. Imports are made where they are needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.app.world import World
from orchestrator.model.ids import Kind, Ref
from orchestrator.ports.layout import Layout

if TYPE_CHECKING:
    from orchestrator.control.orders import Orders
    from orchestrator.control.outcome import Outcome
    from orchestrator.diagnostics import Diagnostic
    from orchestrator.drivers.secrets import SecretKey
    from orchestrator.manifest.load import Loaded, Manifest
    from orchestrator.model.desired import Stack
    from orchestrator.model.observed import Observation, Observed
    from orchestrator.plan.changes import Plan, Policy
    from orchestrator.ports.driver import Driver, Problem, Runtime
    from orchestrator.ports.images import Watch
    from orchestrator.resolve.roots import Pins
    from orchestrator.state import events as state_events
    from orchestrator.state.store import Mark, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A look at a stack: what is there, what would be done now, and, where that is nothing, what it amounts to."""

    observed: Observed
    plan: Plan
    outcome: Outcome


class Looking:
    """One instance of the orchestrator, opened. Holds no state of its own but connections."""

    def __init__(self, layout: Layout, world: Callable[[Layout], World], clock: Callable[[], float]) -> None:
        self.layout = layout
        self._make_world = world
        self._clock = clock
        self._looked_into: Store | None = None
        self._documented: tuple[Stack, tuple[Mapping[str, Any], str]] | None = None

    # text

    def load(
        self, paths: Sequence[str], env_files: Sequence[str], environ: Mapping[str, str], stdin: str | None
    ) -> Loaded:
        """The manifests in `paths`. `environ` wins over `env_files`, a later one over an earlier."""
        from orchestrator.manifest.envfile import read_env
        from orchestrator.manifest.load import load

        variables: dict[str, str] = {}
        for each in env_files:
            variables |= read_env(each)
        return load(paths, {**variables, **environ}, stdin=stdin)

    def resolve(
        self, manifest: Manifest, pins: Pins | None = None
    ) -> tuple[Stack | None, Sequence[Diagnostic]]:
        from orchestrator.resolve.resolver import resolve

        return resolve(manifest, self._secret_key.digest, pins)

    def pins(self, manifest: Manifest, *, fetch: Watch | None) -> tuple[Pins, Sequence[Diagnostic]]:
        """What its images, recipes and archives come down to; `fetch`: and have them here."""
        from orchestrator.app.pinning import pins_of
        from orchestrator.errors import HostError
        from orchestrator.resolve.locked import locked_roots, refusals
        from orchestrator.resolve.roots import wanted_of

        wanted = tuple(wanted_of(manifest))
        if not wanted:
            return {}, ()
        images = self.world.images
        if images is None:
            raise HostError("there is no store of images here")
        if manifest.lock is None:
            return pins_of(images, manifest, wanted, locked=lambda each: None, fetch=fetch)
        if refused := refusals(manifest, wanted):
            return {}, refused
        if fetch is not None:  # before anything comes that nothing else names
            images.hold(manifest.lock_file, manifest.lock.digests)
        roots = locked_roots(manifest)
        return pins_of(images, manifest, wanted, locked=lambda each: roots[each.name].digest, fetch=fetch)

    def cycles(self, stack: Stack) -> Sequence[Diagnostic]:
        from orchestrator.graph.dependency import cycles

        return cycles(stack)

    def schema(self) -> str:
        """The JSON Schema of stack files, as the repository keeps it."""
        from orchestrator.manifest.jsonschema import text

        return text()

    # looking

    @cached_property
    def world(self) -> World:
        return self._make_world(self.layout)

    @property
    def runtime(self) -> Runtime:
        return self.world.runtime

    @property
    def drivers(self) -> tuple[Driver, ...]:
        """Each driver once."""
        return tuple({id(each): each for each in self.world.drivers.values()}.values())

    def stacks(self) -> frozenset[str]:
        """The stacks that are wished for, and those of which anything is there."""
        wished = self._store.stacks() if self._store else ()
        return frozenset(wished).union(*(each.stacks() for each in self.drivers))

    def revision(self, stack: str) -> int | None:
        """The number of the newest revision; None: it was deleted or never applied here."""
        found = self._store.mark(stack) if self._store else None
        return found.number if found and not found.deleted else None

    def recorded(self, stack: str) -> Stack | None:
        """What the newest revision wishes."""
        from orchestrator.state import document

        found = self._store.latest(stack) if self._store else None
        return document.decode(found.document) if found else None

    def recorded_as(self, stack: Stack) -> bool:
        """Whether the newest revision wishes just this."""
        mark = self._store.mark(stack.name) if self._store else None
        return mark is not None and mark.digest == self._document(stack)[1]

    def wished(self, stack: str) -> tuple[Ref, ...]:
        """The containers of the newest revision."""
        found = self.recorded(stack)
        return tuple(ref for ref in found.resources if ref.kind is Kind.CONTAINER) if found else ()

    def revisions(self, stack: str, *, limit: int) -> tuple[Mark, ...]:
        """The newest ones, newest first, deletions too."""
        return self._store.history(stack, limit=limit) if self._store else ()

    def revised(self, stack: str, number: int) -> Stack | None:
        """What one revision wishes; None: nothing."""
        from orchestrator.state import document

        found = self._store.revision(stack, number) if self._store else None
        return document.decode(found.document) if found else None

    def events(
        self, stack: str | None = None, *, after: int = 0, since: float = 0.0, limit: int = 100
    ) -> tuple[state_events.Event, ...]:
        """The last ones after that number and that time, oldest first; None: of all stacks."""
        found = self._store
        return found.events.read(stack, after=after, since=since, limit=limit) if found else ()

    def last_event(self) -> int:
        """The number of the newest one; cheap."""
        return self._store.events.last() if self._store else 0

    def observe(self, stack: str) -> Observed:
        """Everything of the stack."""
        return self._with_health(self.drivers, stack)

    def observe_containers(self, stack: str) -> Observed:
        """Its groups and containers, without looking whether anything of them was changed behind our back."""
        from orchestrator.control import health

        return health.merge(tuple(self.runtime.glance(stack)), self.layout, self._clock())

    def volumes(self, stack: str) -> tuple[Ref, ...]:
        """Those of which there is data."""
        return tuple(
            sorted(
                {
                    each.ref
                    for each in self.world.drivers[Kind.VOLUME].observe(stack)
                    if each.ref.kind is Kind.VOLUME
                }
            )
        )

    def _with_health(self, drivers: Sequence[Driver], stack: str) -> Observed:
        from orchestrator.control import health

        found = tuple(observation for each in drivers for observation in each.observe(stack))
        return health.merge(found, self.layout, self._clock())

    def given_up(self, container: Observation) -> str | None:
        """Why a container that has ended is not started any more, in words; None: it runs, is well, or will be started."""
        from orchestrator.model import codec
        from orchestrator.model.desired import ContainerSpec
        from orchestrator.model.observed import Phase
        from orchestrator.plan import restarts

        last = container.exits[-1] if container.exits else None
        if container.phase is not Phase.EXITED or last is None or last.success or last.forgiven:
            return None
        spec = codec.decode(ContainerSpec, container.applied)
        return restarts.decide(spec, container, self._clock()).failure

    def check(self, stack: Stack) -> tuple[Problem, ...]:
        """What this host cannot do of the stack."""
        return tuple(problem for each in self.drivers for problem in each.check(stack))

    def plan(self, stack: Stack, policy: Policy) -> Plan:
        """What an apply would do now, were the stack not suspended."""
        return self._plan(stack, self.observe(stack.name), policy)

    def outlook(self, stack: Stack) -> Outlook:
        """How the stack stands, if this is what is wished."""
        from orchestrator.control.outcome import judge
        from orchestrator.plan.changes import Policy

        observed = self.observe(stack.name)
        plan = self._plan(stack, observed, Policy())
        return Outlook(observed=observed, plan=plan, outcome=judge(stack, plan, observed, self._clock()))

    def _plan(self, stack: Stack, observed: Observed, policy: Policy) -> Plan:
        from orchestrator.control import neighbours
        from orchestrator.plan.planner import plan

        policy = self.orders(stack.name, observed).policy(policy)
        policy = neighbours.aware(policy, stack.name, stack, observed, self.world.drivers)
        return plan(stack, observed, policy, self._clock(), name=stack.name)

    def borrowed(self, name: str, stack: Stack | None, *, prune_data: bool) -> Mapping[Ref, tuple[str, ...]]:
        """What other stacks use of that which the stack would lose with this wish, and which they are."""
        from orchestrator.control import neighbours

        drivers = [each for each in self.drivers if each.kinds & neighbours.LENT]
        doomed = neighbours.doomed(stack, self._with_health(drivers, name), prune_data=prune_data)
        return neighbours.borrowed(name, doomed, self.world.drivers)

    def orders(self, stack: str, observed: Observed) -> Orders:
        """What operators have said of the stack."""
        from orchestrator.control import orders
        from orchestrator.supervisor import facts

        words = self._store.words.of(stack) if self._store else ()
        return orders.read(words, observed, boot=facts.boot_id())

    # inside

    def _document(self, stack: Stack) -> tuple[Mapping[str, Any], str]:
        """The stack as a revision holds it, and its digest; made once of the stack that was asked for last."""
        from orchestrator.state import document

        if self._documented is None or self._documented[0] is not stack:
            data = document.encode(stack)
            self._documented = (stack, (data, document.digest(data)))
        return self._documented[1]

    @cached_property
    def _secret_key(self) -> SecretKey:
        from orchestrator.drivers.secrets import SecretKey

        return SecretKey(self.layout)

    def _open_store(self) -> Store:
        from orchestrator.state.store import Store

        return Store(self.layout.database, clock=time.time)

    @property
    def _store(self) -> Store | None:
        """History; None where nothing was ever applied: looking makes no database."""
        if self._looked_into is None and self.layout.database.exists():
            self._looked_into = self._open_store()
        return self._looked_into
