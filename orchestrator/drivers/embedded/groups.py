"""Stacks and group instances: budgets, pinned namespaces, networks.

In: incarnations and specs. Out: cgroups, namespaces under `Layout.group_run(id)`/net, ipc and uts, addresses by the network
port. No process holds a namespace: a bind mount does, so a group outlives every process of ours.
"""

from __future__ import annotations

# ruff: noqa: PTH116
import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence

from orchestrator.drivers.embedded.cgroups import Cgroups
from orchestrator.drivers.embedded.enforced import Enforced
from orchestrator.drivers.embedded.program import SHARED, group_program
from orchestrator.drivers.records import Record, Records, private_folders
from orchestrator.drivers.trees import remove_tree
from orchestrator.errors import StepError
from orchestrator.model import codec
from orchestrator.model.desired import GroupSpec, Limits, StackSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.ports.driver import Attachment, GroupNetwork
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import inline
from orchestrator.supervisor.client import Supervisor
from orchestrator.supervisor.kernel import mounts


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
        self._nsfs = os.stat("/proc/self/ns/net").st_dev

    def start(self, record: Record) -> None:
        target, spec = record.target, codec.decode(GroupSpec, record.spec)
        self._supervisor.ensure()
        self._cgroups.make(names_of(target), spec.limits)
        folder = os.fspath(self._layout.group_run(target.id))
        if not self._pinned(target.id):
            self._pin(spec, folder)
        self._network.attach(self._attachment(target, spec))

    def stop(self, target: Incarnation) -> None:
        self._network.detach(target)
        self._unpin(os.fspath(self._layout.group_run(target.id)))

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
        if not self._pinned(target.id):
            self._repin(target, member)
        if self._pinned(target.id):
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
        names, pinned = names_of(record.target), self._pinned(record.target.id)
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
        running = self._pinned(record.target.id) and self._network.attached(record.target)
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

    def _pinned(self, id: str) -> bool:
        folder = os.fspath(self._layout.group_run(id))
        try:
            return all(os.stat(f"{folder}/{kind}").st_dev == self._nsfs for kind in SHARED)
        except OSError:
            return False

    def _pin(self, spec: GroupSpec, folder: str) -> None:
        self._unpin(folder)  # what a start that was cut short left
        try:
            private_folders(self._layout.run, folder)
            for kind in SHARED:
                os.close(os.open(f"{folder}/{kind}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StepError.of("cannot make the group's folder", error) from error
        inline.run(group_program(spec, folder))

    def _repin(self, target: Incarnation, member: Callable[[], int | None]) -> None:
        """Pin the namespaces of the process again; it must be the same one afterwards, or they may be another's."""
        folder, pid = os.fspath(self._layout.group_run(target.id)), member()
        if pid is None:
            return  # nothing runs in it any more: the next start makes new ones
        self._unpin(folder)
        private_folders(self._layout.run, folder)
        for kind in SHARED:
            os.close(os.open(f"{folder}/{kind}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            mounts.mount(f"/proc/{pid}/ns/{kind}", f"{folder}/{kind}", "", mounts.MS_BIND)
        if member() != pid:
            self._unpin(folder)
            raise StepError(
                f"{target.ref}: what ran in it has just ended", hint="the next pass starts it again"
            )

    def _unpin(self, folder: str) -> None:
        for kind in SHARED:
            path = f"{folder}/{kind}"
            for _ in range(8):  # a start that was repeated may have pinned twice
                try:
                    mounts.detach(path)
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.ENOENT):
                        break  # not mounted (any more)
                    raise StepError.of(f"cannot unpin {path}", error) from error


def names_of(target: Incarnation) -> tuple[str, str]:
    """A group's names in the cgroup tree."""
    return target.stack, target.id


def recorded_limits(record: Record) -> Limits:
    """The limits of a record of any kind that has them, without decoding the rest."""
    data = (record.spec or {}).get("limits")
    limits: Limits = codec.decode(Limits, data) if data else Limits()
    return limits
