"""The embedded runtime: containers made of namespaces, cgroups and an overlay by our own launcher.

In: incarnations and specs of kinds stack, group and container. Out: what they are in the kernel. Nothing is remembered
between calls but paths; several threads may call at once. `observe` starts no process of ours unless one that should be
there has died (then the supervisor is wanted back: only it knows the exits).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from orchestrator.drivers.embedded import strangers, usage
from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.drivers.embedded.condition import Condition
from orchestrator.drivers.embedded.containers import Containers
from orchestrator.drivers.embedded.enforced import Enforced
from orchestrator.drivers.embedded.groups import Groups, Stacks, recorded_limits
from orchestrator.drivers.embedded.hierarchies import Hierarchies
from orchestrator.drivers.embedded.limits import effective
from orchestrator.drivers.embedded.preflight import problems
from orchestrator.drivers.embedded.readings import Readings
from orchestrator.drivers.records import Record, Records
from orchestrator.errors import StepError
from orchestrator.model import codec
from orchestrator.model.desired import ContainerSpec, GroupSpec, Limits, Spec, Stack, StackSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import EDITED, Observation, Phase
from orchestrator.ports.driver import (
    Attached,
    Bound,
    ExecRequest,
    GroupNetwork,
    Problem,
    Roots,
    Usage,
    Volumes,
)
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import facts
from orchestrator.supervisor.client import Supervisor


class EmbeddedDriver:
    """Kinds stack, group and container; the port `Runtime`."""

    kinds = frozenset({Kind.STACK, Kind.GROUP, Kind.CONTAINER})

    def __init__(
        self,
        layout: Layout,
        supervisor: Supervisor,
        *,
        roots: Roots,
        volumes: Volumes,
        network: GroupNetwork,
        hierarchies: Hierarchies | None = None,
    ) -> None:
        self._layout = layout
        self._supervisor = supervisor
        self._host = hierarchies or Hierarchies.detect()
        self._records = Records(layout, self.kinds)
        self._cgroups = Cgroups(layout, self._host)
        self._readings = Readings()
        self._kept: dict[str, tuple[Set[Names], Set[Names]]] = {}  # by stack: what is there, and what runs
        self._enforced = Enforced(self._cgroups, self._readings)
        self._condition = Condition(layout, self._records, supervisor, self._cgroups, self._readings)
        self._stacks = Stacks(layout, self._records, supervisor, self._cgroups, self._enforced)
        self._groups = Groups(layout, self._records, supervisor, self._cgroups, self._enforced, network)
        self._containers = Containers(
            layout,
            self._records,
            supervisor,
            self._cgroups,
            enforced=self._enforced,
            condition=self._condition,
            roots=roots,
            volumes=volumes,
            network=network,
        )

    def stacks(self) -> frozenset[str]:
        return self._records.stacks() | strangers.stacks(self._cgroups)

    def check(self, stack: Stack) -> Sequence[Problem]:
        return tuple(problems(stack, self._layout, self._host))

    def observe(self, stack: str) -> Sequence[Observation]:
        records = self._records.list(stack)
        containers = [each for each in records if each.target.ref.kind is Kind.CONTAINER]
        states = self._supervisor.states([each.target.id for each in containers]) if containers else {}
        names = {each.target.id: self._names(each) for each in records if each.readable}
        alive = {names[id] for id, state in states.items() if state.pid is not None and id in names}
        running = Counter(each[-2] for each in alive)
        addresses, damage = self._addresses(records), self._damage(records)
        self._condition.look()
        found = []
        for each in records:
            if not each.readable:
                found.append(each.observation(Phase.INCOMPLETE))
            elif each.target.ref.kind is Kind.STACK:
                found.append(self._stacks.observation(each))
            elif each.target.ref.kind is Kind.GROUP:
                id = each.target.id
                seen = self._groups.observation(
                    each, addresses[id], damage.get(id, ()), populated=running[id] > 0
                )
                found.append(seen)
            else:
                id = each.target.id
                shared = addresses.get(names[id][-2], {})
                found.append(self._containers.observation(each, names[id], states.get(id), shared))
        found += self._orphans(stack, names, found)
        self._forget(stack, frozenset(names.values()), alive)
        return tuple(found)

    def glance(self, stack: str) -> Sequence[Observation]:
        records = self._records.list(stack)
        containers = [each for each in records if each.target.ref.kind is Kind.CONTAINER]
        states = self._supervisor.states([each.target.id for each in containers]) if containers else {}
        addresses = self._addresses(records)
        found = []
        for each in records:
            if not each.readable:
                found.append(each.observation(Phase.INCOMPLETE))
            elif each.target.ref.kind is Kind.GROUP:
                found.append(self._groups.glance(each, addresses[each.target.id]))
            elif each.target.ref.kind is Kind.CONTAINER:
                shared = next((addresses.get(group.id, {}) for group in each.bound(Kind.GROUP)), {})
                found.append(self._containers.glance(each, states.get(each.target.id), shared))
        return tuple(found)

    def create(self, target: Incarnation, spec: Spec, bound: Sequence[Bound]) -> None:
        self._records.write(target, spec, bound)
        if target.ref.kind is Kind.CONTAINER:
            self._containers.create(target)

    def start(self, target: Incarnation) -> None:
        self._told(target, lambda: self._starter(target)(self._record(target)))

    def stop(self, target: Incarnation, *, fault: str | None = None) -> None:
        record = self._records.read(target)
        if target.ref.kind is Kind.GROUP:
            self._told(target, lambda: self._groups.stop(target))
        elif target.ref.kind is Kind.CONTAINER and record is not None and record.readable:
            self._told(target, lambda: self._containers.stop(record, fault))

    def update(self, target: Incarnation, spec: Spec, fields: Sequence[str], bound: Sequence[Bound]) -> None:
        """The effect first, then the record: cut off in between, the next plan finds the difference again."""
        self._told(target, lambda: self._update(target, spec, fields, bound))

    def delete(self, target: Incarnation) -> None:
        self._told(target, lambda: self._delete(target))
        self._records.remove(target)

    def exec(
        self, target: Incarnation, request: ExecRequest, stdio: tuple[int, int, int], timeout: float | None
    ) -> int:
        return self._containers.exec(self._record(target), request, stdio, timeout)

    def attach(self, target: Incarnation, request: ExecRequest, *, rows: int, columns: int) -> Attached:
        return self._containers.attach(self._record(target), request, (rows, columns))

    def signal(self, target: Incarnation, number: int) -> bool:
        return self._supervisor.signal(target.id, number, stopping=False)

    def root(self, target: Incarnation) -> int:
        return self._containers.root(target)

    def usage(self, target: Incarnation) -> Usage | None:
        record = self._records.read(target)
        return usage.read(self._cgroups, self._names(record)) if record and record.readable else None

    def read_limits(self, target: Incarnation) -> Limits:
        record = self._record(target)
        names = self._names(record)
        asked = effective(recorded_limits(record), container=len(names) == 3)
        found = {key.removeprefix("limits."): each for key, each in self._enforced.read(names, asked).items()}
        limits: Limits = codec.decode(Limits, found)
        return limits

    def _update(self, target: Incarnation, spec: Spec, fields: Sequence[str], bound: Sequence[Bound]) -> None:
        record = self._record(target)
        extra: Mapping[str, Any] = {}
        if isinstance(spec, StackSpec):
            self._stacks.update(target, spec)
        elif isinstance(spec, GroupSpec):
            tops = frozenset(each.split(".")[0] for each in fields)
            self._groups.update(target, spec, tops, lambda: self._member(target))
        elif isinstance(spec, ContainerSpec):
            extra = self._containers.update(record, spec, fields)
            extra = {**extra, **({EDITED: facts.boottime()} if EDITED in fields else {})}
        self._records.rewrite(target, spec=spec, bound=bound, extra=extra)

    def _delete(self, target: Incarnation) -> None:
        if target.ref.kind is Kind.STACK:
            self._stacks.delete(target)
        elif target.ref.kind is Kind.GROUP:
            self._groups.delete(target)
        else:
            self._containers.delete(target, self._records.read(target))

    def _starter(self, target: Incarnation) -> Callable[[Record], None]:
        if target.ref.kind is Kind.STACK:
            return self._stacks.start
        return self._groups.start if target.ref.kind is Kind.GROUP else self._containers.start

    def _names(self, record: Record) -> tuple[str, ...]:
        target = record.target
        groups = [each.id for each in record.bound(Kind.GROUP)]
        if target.ref.kind is Kind.STACK:
            return (target.stack,)
        return (
            (target.stack, target.id)
            if target.ref.kind is Kind.GROUP
            else (target.stack, *groups[:1], target.id)
        )

    def _damage(self, records: Sequence[Record]) -> Mapping[str, tuple[str, ...]]:
        groups = [each.target for each in records if each.target.ref.kind is Kind.GROUP and each.readable]
        return self._groups.damage(groups) if groups else {}

    def _orphans(
        self, stack: str, known: Mapping[str, Names], seen: Sequence[Observation]
    ) -> Iterator[Observation]:
        """Cgroups of ours that no record speaks of: only good for deletion. Looked for only where there are more than must
        be. A record is there before its cgroup and goes after it, so one that is missing before and after the look at the
        cgroup is none that is on its way."""
        expected = 0
        for each in seen:
            if each.id in known and len(known[each.id]) > 1:
                surely = each.phase is Phase.RUNNING and "cgroup" not in each.damage
                expected += surely or self._enforced.exists(known[each.id])
        if self._enforced.count(stack) <= expected:
            return
        for kind, id in strangers.strangers(self._cgroups, stack, known):
            target = Incarnation(stack, Ref(kind, id), id)
            if self._records.read(target) is None:
                yield Observation(ref=target.ref, id=id, phase=Phase.INCOMPLETE, applied={})

    def _forget(self, stack: str, names: Set[Names], running: Set[Names]) -> None:
        """Let go of what was kept of incarnations that are gone, or do not run."""
        if self._kept.get(stack) != (names, running):
            self._enforced.keep(stack, names)
            self._condition.keep(stack, names, running)
            self._readings.keep(stack, names)
            self._kept[stack] = names, running
        if not names:
            del self._kept[stack]

    def _member(self, group: Incarnation) -> int | None:
        """A process that runs in the group."""
        ids = [
            each.target.id
            for each in self._records.list(group.stack)
            if each.target.ref.kind is Kind.CONTAINER and group in each.bound(Kind.GROUP)
        ]
        states = self._supervisor.states(ids).values()
        return min((each.pid for each in states if each.pid is not None), default=None)

    def _addresses(self, records: Sequence[Record]) -> Mapping[str, Mapping[str, str]]:
        groups = [each.target for each in records if each.target.ref.kind is Kind.GROUP and each.readable]
        return {each.id: self._groups.addresses(each) for each in groups}

    def _record(self, target: Incarnation) -> Record:
        record = self._records.read(target)
        if record is None or not record.readable:
            raise StepError(
                f"{target.ref}: no record of {target.id}", argument=str(self._records.folder(target))
            )
        return record

    def _told(self, target: Incarnation, action: Callable[[], Any]) -> None:
        """Nothing but our own errors leaves a driver."""
        try:
            action()
        except OSError as error:
            raise StepError.of(str(target.ref), error) from error
