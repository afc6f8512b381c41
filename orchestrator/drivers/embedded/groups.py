"""Stacks and group instances: budgets, pinned namespaces, networks.

In: incarnations and specs. Out: cgroups, pinned namespaces, addresses by the network port. A group outlives every process
of ours.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence

from orchestrator.drivers.embedded.cgroups import Cgroups
from orchestrator.drivers.embedded.enforced import Enforced
from orchestrator.drivers.embedded.pins import Pins
from orchestrator.drivers.records import Record, Records
from orchestrator.drivers.trees import remove_tree
from orchestrator.model import codec
from orchestrator.model.desired import GroupSpec, Limits, StackSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.ports.driver import Attachment, GroupNetwork
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.client import Supervisor


class Stacks:
    """Kind stack: the budget cgroup above all groups, and the folder of logs."""

    def __init__(
        self,
        layout: Layout,
        records: Records,
        supervisor: Supervisor,
        cgroups: Cgroups,
        enforced: Enforced,
    ) -> None:
        self._layout = layout
        self._records = records
        self._supervisor = supervisor
        self._cgroups = cgroups
        self._enforced = enforced

    def start(self, record: Record) -> None:
        # First, because on systemd hosts our part of the tree is the supervisor's unit.
        self._supervisor.ensure()
        self._cgroups.make((record.target.stack,), codec.decode(StackSpec, record.spec).limits)

    def update(self, target: Incarnation, spec: StackSpec) -> None:
        self._cgroups.apply((target.stack,), spec.limits)

    def delete(self, target: Incarnation) -> None:
        self._cgroups.remove((target.stack,))
        logs = self._layout.logs(target.stack, Ref(Kind.CONTAINER, "x")).parent
        remove_tree(logs)
        with contextlib.suppress(OSError):
            logs.parent.rmdir()

    def observation(self, record: Record) -> Observation:
        names = (record.target.stack,)
        if not self._enforced.exists(names):
            return record.observation(Phase.CREATED)
        actual = self._enforced.observed(names, (record.spec or {}).get("limits"))
        return record.observation(Phase.RUNNING, actual=actual)


class Groups:
    """Kind group."""

    def __init__(
        self,
        layout: Layout,
        records: Records,
        supervisor: Supervisor,
        cgroups: Cgroups,
        enforced: Enforced,
        network: GroupNetwork,
    ) -> None:
        self._layout = layout
        self._records = records
        self._supervisor = supervisor
        self._cgroups = cgroups
        self._enforced = enforced
        self._network = network
        self._pins = Pins(layout)

    def start(self, record: Record) -> None:
        target, spec = record.target, codec.decode(GroupSpec, record.spec)
        self._supervisor.ensure()
        self._cgroups.make(names_of(target), spec.limits)
        if not self._pins.pinned(target.id):
            self._pins.pin(target.id, spec)
        self._network.attach(self._attachment(target, spec))

    def stop(self, target: Incarnation) -> None:
        self._network.detach(target)
        self._pins.unpin(target.id)

    def update(
        self, target: Incarnation, spec: GroupSpec, fields: frozenset[str], member: Callable[[], int | None]
    ) -> None:
        """`fields`: the top names of what changes. `member`: a process that runs in the group, by which its namespaces are
        pinned again if they are not."""
        names = names_of(target)
        if self._network.attached(target) and not self._cgroups.exists(names):
            self._cgroups.make(names, spec.limits)
        elif "limits" in fields:
            self._cgroups.apply(names, spec.limits)
        if not self._pins.pinned(target.id):
            self._pins.pin_again(target.id, member)
        if self._pins.pinned(target.id):
            self._network.mend(self._attachment(target, spec))
            if fields & {"networks", "dns"}:
                self._network.rejoin(self._attachment(target, spec))

    def delete(self, target: Incarnation) -> None:
        self.stop(target)
        self._cgroups.remove(names_of(target))
        remove_tree(self._layout.group_run(target.id))

    def damage(self, targets: Sequence[Incarnation]) -> Mapping[str, tuple[str, ...]]:
        """id -> what of its network somebody else changed; the groups that are right are left out."""
        return self._network.damage(targets)

    def observation(
        self, record: Record, addresses: Mapping[str, str], damage: tuple[str, ...], *, populated: bool
    ) -> Observation:
        """`damage`: of its network. `populated`: whether a container runs in it: then its namespaces live, even without
        their pins."""
        names, pinned = names_of(record.target), self._pins.pinned(record.target.id)
        if not (pinned or populated) or not self._network.attached(record.target):
            return record.observation(Phase.CREATED)
        limits = self._enforced.observed(names, (record.spec or {}).get("limits"))
        actual = {**limits, "networks": list(addresses)}
        damage = (
            *damage,
            *(() if pinned else ("namespaces",)),
            *(() if self._enforced.exists(names) else ("cgroup",)),
        )
        return record.observation(Phase.RUNNING, actual=actual, addresses=addresses, damage=damage)

    def glance(self, record: Record, addresses: Mapping[str, str]) -> Observation:
        running = self._pins.pinned(record.target.id) and self._network.attached(record.target)
        return record.observation(Phase.RUNNING if running else Phase.CREATED, addresses=addresses)

    def addresses(self, target: Incarnation) -> Mapping[str, str]:
        """network -> address; empty when it is not attached."""
        return self._network.addresses(target)

    def _attachment(self, target: Incarnation, spec: GroupSpec) -> Attachment:
        return Attachment(
            target=target,
            service=spec.service,
            hostname=spec.hostname,
            networks=spec.networks,
            dns=spec.dns,
            netns=os.fspath(self._layout.group_run(target.id) / "net"),
        )


def names_of(target: Incarnation) -> tuple[str, str]:
    """A group's names in the cgroup tree."""
    return target.stack, target.id


def recorded_limits(record: Record) -> Limits:
    """The limits of a record of any kind that has them, without decoding the rest."""
    data = (record.spec or {}).get("limits")
    limits: Limits = codec.decode(Limits, data) if data else Limits()
    return limits
