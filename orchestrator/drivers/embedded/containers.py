"""Containers: from a recorded spec to a launched program, and what became of it.

In: records, the supervisor's process states. Out: launches, stops, observations. The writable layer lies in the record's
folder, so it is kept by a restart and goes with the incarnation. Must not decide when anything is started.
"""

from __future__ import annotations

# ruff: noqa: PTH101, PTH102, PTH116
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.drivers.embedded.condition import UNKNOWN, Condition, layered
from orchestrator.drivers.embedded.contents import Contents, Placed
from orchestrator.drivers.embedded.enforced import Enforced
from orchestrator.drivers.embedded.inits import host_init
from orchestrator.drivers.embedded.program import Place, container_program, exec_program
from orchestrator.drivers.embedded.visiting import Visiting, commanding, explained
from orchestrator.drivers.records import Record, Records, private_folders
from orchestrator.drivers.trees import remove_tree
from orchestrator.errors import StepError
from orchestrator.model import codec
from orchestrator.model.desired import ContainerSpec, GroupSpec, VolumeMount
from orchestrator.model.ids import Incarnation, Kind
from orchestrator.model.observed import Observation, Phase
from orchestrator.model.signals import signal_number
from orchestrator.ports.driver import Attached, ExecRequest, GroupNetwork, Root, Roots, Volumes
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import adoption, facts, wire
from orchestrator.supervisor.client import LaunchError, LogTarget, ProcessState, Supervisor
from orchestrator.supervisor.container import Container
from orchestrator.supervisor.kernel.mounts import OVERLAY, filesystem
from orchestrator.supervisor.program import Program
from orchestrator.supervisor.records import read_exits
from orchestrator.supervisor.seccomp import default_filter

KILL_TIMEOUT = 10.0  # seconds that the kernel has to end what was killed


class Containers:
    """Kind container."""

    def __init__(
        self,
        layout: Layout,
        records: Records,
        supervisor: Supervisor,
        cgroups: Cgroups,
        *,
        enforced: Enforced,
        condition: Condition,
        roots: Roots,
        volumes: Volumes,
        network: GroupNetwork,
    ) -> None:
        self._layout = layout
        self._records = records
        self._supervisor = supervisor
        self._cgroups = cgroups
        self._enforced = enforced
        self._condition = condition
        self._roots = roots
        self._volumes = volumes
        self._network = network
        self._contents = Contents(layout)

    def create(self, target: Incarnation) -> None:
        """The writable layer, beside the record that was written before."""
        folder = os.fspath(self._records.folder(target))
        try:
            if layered(folder):
                return
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{folder}/upper")
            os.chmod(f"{folder}/upper", 0o755)  # it becomes the mode of / inside, whatever our umask is
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{folder}/work")  # last: without it a mode that was not set yet is set again
        except OSError as error:
            raise StepError.of(f"{target.ref}: cannot make its writable layer", error) from error

    def start(self, record: Record) -> None:
        target, spec = record.target, codec.decode(ContainerSpec, record.spec)
        group = _needed(record, Kind.GROUP)
        group_spec = self._group_spec(group)
        names = (target.stack, group.id, target.id)
        self._supervisor.ensure()
        self.create(target)  # again where a creation was cut short
        self._fresh_cgroup(names)
        self._cgroups.make(names, spec.limits)
        root = self._roots.root(_needed(record, Kind.ROOTFS))
        self._seed(record, spec, root)
        placed = Placed(paths=self._contents.paths(target, spec))
        if (placed.paths or record.extra.get("files")) and not self._running(target, names):
            # Before the launch, so that a file which the container sees is known whenever we are killed.
            placed = self._contents.place(target, spec)
            self._records.rewrite(target, extra=placed.extra)
        place = self._place(record, spec, root, names, placed.paths)
        program = container_program(spec, group_spec, place)
        try:
            launched = self._supervisor.launch(
                target.id,
                program,
                logs=self._logs(target, spec),
                journal=self._journal(target),
                oom_files=self._cgroups.oom_files(names),
            )
        except LaunchError as error:
            raise explained(error, target) from error
        if launched.pid is not None:
            self._condition.mounts.record(names, launched.pid)
        if placed.extra:
            self._records.rewrite(target, extra=self._contents.marked(placed))
        if spec.health is None:  # else it is reached again once it is healthy
            self._network.undrain(group, target.ref)

    def stop(self, record: Record, fault: str | None) -> None:
        target, names = record.target, self._names(record)
        spec = codec.decode(ContainerSpec, record.spec)
        self._condition.mounts.forget(names)
        self._condition.recall(target, names)
        if not self._running(target, names):
            return
        group = _needed(record, Kind.GROUP)
        flows = spec.job is None and self._network.drain(group, target.ref, spec.stop.drain)
        number = signal_number(spec.stop.signal)
        asked = self._supervisor.signal(target.id, number, stopping=True, fault=fault)
        if not asked or not self._supervisor.wait(target.id, spec.stop.grace):
            self._kill(target, names)
        if flows and not self._cgroups.populated(names[:2]):
            self._network.forget(group)

    def delete(self, target: Incarnation, record: Record | None) -> None:
        found = self._cgroups.find(target.stack, target.id)
        if record and record.readable:
            found = (self._names(record),)
        for each in found:
            self._condition.mounts.forget(each)
            self._condition.recall(target, each)
            if self._running(target, each):
                self._supervisor.signal(target.id, signal_number("KILL"), stopping=True)
                self._kill(target, each)
            self._cgroups.remove(each)
        if self._supervisor.alive():
            if not found and self._supervisor.signal(target.id, signal_number("KILL"), stopping=True):
                self._supervisor.wait(target.id, KILL_TIMEOUT)
            self._supervisor.forget(target.id)
        self._contents.remove(target.id)
        remove_tree(self._layout.container_run(target.id))

    def update(self, record: Record, spec: ContainerSpec, fields: Sequence[str]) -> Mapping[str, Any]:
        """`fields`: dotted names of what changes; health, restart and stop are only recorded. What is damaged is mended.
        Out: `extra` to record."""
        target, names = record.target, self._names(record)
        tops = {each.partition(".")[0] for each in fields}
        self._condition.recall(target, names)
        if "limits" in tops:
            self._cgroups.apply(names, spec.limits)
        if not self._running(target, names):
            return {}
        if "logs" in tops or not self._condition.recorded(target):
            self._supervisor.set_logs(target.id, self._logs(target, spec))
        contents = {name for top, _, name in (each.partition(".") for each in fields) if top == "contents"}
        if not contents:
            return {}
        written = self._contents.write(record, spec, contents)
        for each in sorted(written.signals):  # before the record: told twice is better than never
            self._supervisor.signal(target.id, signal_number(each), stopping=False)
        return written.extra

    def exec(
        self, record: Record, request: ExecRequest, stdio: tuple[int, int, int], timeout: float | None
    ) -> int:
        with commanding(record.target):
            return self._supervisor.exec(record.target.id, self._entered(record, request), stdio, timeout)

    def attach(self, record: Record, request: ExecRequest, size: tuple[int, int]) -> Attached:
        with commanding(record.target):
            visit = self._supervisor.attach(record.target.id, self._entered(record, request, size))
        return Visiting(visit, record.target)

    def root(self, target: Incarnation) -> int:
        """By its main process, surely ours before and after the root was opened."""
        folder = os.fspath(self._layout.container_run(target.id))
        container = Container.load(folder, facts.boot_id())
        pidfd = adoption.pidfd(container) if container else -1
        if container is None or pidfd < 0:
            raise StepError(f"{target.ref} is not running", hint=f"see `orchestrator logs {target.ref}`")
        try:
            root = os.open(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            # On its way there, before pivot_root(2), a process still has the host's root.
            if os.fstat(root).st_dev == os.stat("/").st_dev or filesystem(root) != OVERLAY:
                os.close(root)
                raise StepError(f"{target.ref} is only just starting", hint="try again")
            if wire.readable([pidfd], 0):
                os.close(root)
                raise StepError(f"{target.ref} has just ended")
            return root
        except OSError as error:
            raise StepError.of(str(target.ref), error) from error
        finally:
            os.close(pidfd)

    def observation(
        self, record: Record, names: Names, state: ProcessState | None, addresses: Mapping[str, str]
    ) -> Observation:
        if record.extra.get("used"):
            record = replace(record, spec=self._contents.applied(record))
        if state is None or state.pid is None:
            return self.glance(record, state, addresses)
        limits = self._enforced.observed(names, (record.spec or {}).get("limits"))
        contents = self._contents.drift(record)
        return self.glance(
            record,
            state,
            addresses,
            actual={**limits, **contents} if contents else limits,
            damage=tuple(self._condition.damage(record.target, names, state.pid)),
            broken=tuple(self._condition.broken(record.target, names, state.pid)),
        )

    def glance(
        self, record: Record, state: ProcessState | None, addresses: Mapping[str, str], **closer: Any
    ) -> Observation:
        """Only what the supervisor knows of it, and `closer`, what else was seen of one that runs."""
        if state is None:
            return self._unsupervised(record, addresses)
        if state.pid is None:
            phase = Phase.EXITED if state.exits or state.starts else Phase.CREATED
            return record.observation(
                phase, exits=state.exits, restarts=max(0, state.starts - 1), started=state.started
            )
        return record.observation(
            Phase.RUNNING,
            exits=state.exits,
            restarts=max(0, state.starts - 1),
            pid=state.pid,
            started=state.started,
            addresses=addresses,
            **closer,
        )

    def _unsupervised(self, record: Record, addresses: Mapping[str, str]) -> Observation:
        """What the supervisor does not know: never launched, of an earlier boot, or its process record was lost."""
        exits = read_exits(self._journal(record.target))
        names = self._names(record)
        if self._cgroups.populated(names):
            return record.observation(
                Phase.RUNNING,
                pid=_first(self._cgroups.processes(names)),
                exits=exits,
                addresses=addresses,
                broken=(UNKNOWN,),
            )
        return record.observation(Phase.EXITED if exits else Phase.CREATED, exits=exits)

    # parts

    def _place(
        self, record: Record, spec: ContainerSpec, root: Root, names: Names, files: Mapping[str, str]
    ) -> Place:
        folder = os.fspath(self._records.folder(record.target))
        staging = os.fspath(self._layout.run / "staging")
        private_folders(self._layout.run, staging)
        volumes = {each.ref.name: self._volumes.path(each) for each in record.bound(Kind.VOLUME)}
        init = host_init() if spec.init else None
        if spec.init and init is None:
            raise StepError(
                f"{record.target.ref}: no init for `init: true` here", hint="apt install catatonit"
            )
        return Place(
            root=root,
            staging=staging,
            upper=f"{folder}/upper",
            work=f"{folder}/work",
            group=os.fspath(self._layout.group_run(names[1])),
            cgroup=self._cgroups.folder(names),
            cgroups=self._cgroups.joins(names),
            volumes=volumes,
            files=files,
            init=init,
            seccomp=self._seccomp,
            masked=self._masked,
        )

    def _seed(self, record: Record, spec: ContainerSpec, root: Root) -> None:
        volumes = {each.ref.name: each for each in record.bound(Kind.VOLUME)}
        for mount in spec.mounts:
            if isinstance(mount, VolumeMount) and mount.copy:
                self._volumes.seed(volumes[mount.volume], root.lowers, mount.target)

    def _entered(self, record: Record, request: ExecRequest, size: tuple[int, int] | None = None) -> Program:
        group = self._group_spec(_needed(record, Kind.GROUP))
        spec = codec.decode(ContainerSpec, record.spec)
        return exec_program(spec, group, request, seccomp=self._seccomp, size=size)

    @cached_property
    def _seccomp(self) -> str:
        return default_filter(self._layout.state / "seccomp")

    @cached_property
    def _masked(self) -> tuple[str, ...]:
        found = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
        return tuple(sorted(map(os.fspath, found)))

    def _logs(self, target: Incarnation, spec: ContainerSpec) -> LogTarget:
        folder = os.fspath(self._layout.logs(target.stack, target.ref))
        private_folders(self._layout.state, folder)
        return LogTarget(folder=folder, max_size=spec.logs.max_size, files=spec.logs.files)

    def _journal(self, target: Incarnation) -> str:
        return os.fspath(self._records.folder(target) / "exits.jsonl")

    def _names(self, record: Record) -> Names:
        return record.target.stack, _needed(record, Kind.GROUP).id, record.target.id

    def _group_spec(self, group: Incarnation) -> GroupSpec:
        record = self._records.read(group)
        if record is None or not record.readable:
            raise StepError(f"{group.ref}: no record of {group.id}")
        return codec.decode(GroupSpec, record.spec)

    def _fresh_cgroup(self, names: Names) -> None:
        """Where cgroup.kill was ever written, kernels from 6.14 on kill at once what clone3 puts into that cgroup (they
        compare its kill_seq with that of the parent's cgroup): a new process gets a new folder."""
        if self._cgroups.exists(names) and not self._cgroups.populated(names):
            self._cgroups.remove(names)

    def _running(self, target: Incarnation, names: Names) -> bool:
        # The kernel's word first: it needs no supervisor, and most deletions find nothing.
        return self._cgroups.populated(names)

    def _kill(self, target: Incarnation, names: Names) -> None:
        self._cgroups.kill(names)
        ended = self._supervisor.wait(target.id, KILL_TIMEOUT)  # at once, if it knows no such process
        if not ended or not self._cgroups.emptied(names, KILL_TIMEOUT):
            raise StepError(
                f"{target.ref}: still there {KILL_TIMEOUT:.0f} s after SIGKILL", call="cgroup.kill"
            )


def _needed(record: Record, kind: Kind) -> Incarnation:
    found = record.bound(kind)
    if not found:
        raise StepError(f"{record.target.ref}: its record names no {kind}", argument=record.target.id)
    return found[0]


def _first(pids: tuple[int, ...]) -> int | None:
    return min(pids, default=None)
