"""What became of a running container behind our back: its cgroups, mounts, writable layer and the record of its process.

In: the container and its main process. Out: what is wrong, in words of the user; processes brought back. A container that
does not run has no condition: its next start makes all of it anew.
"""

from __future__ import annotations

# ruff: noqa: PTH110, PTH112
import os
from collections.abc import Iterator, Set

from orchestrator.drivers.embedded.belonging import Belonging
from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.drivers.embedded.groups import recorded_limits
from orchestrator.drivers.embedded.mountwatch import MountWatch
from orchestrator.drivers.embedded.readings import Readings
from orchestrator.drivers.records import Records
from orchestrator.model.desired import Limits
from orchestrator.model.ids import Incarnation
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.client import Supervisor
from orchestrator.supervisor.container import RECORD

UNKNOWN = "process record"  # the supervisor does not know the process, or its successor will not


def layered(folder: str) -> bool:
    """Whether a container's record folder holds its writable layer."""
    return os.path.isdir(f"{folder}/work") and os.path.isdir(f"{folder}/upper")


class Condition:
    """Safe for several threads that work on different containers."""

    def __init__(
        self, layout: Layout, records: Records, supervisor: Supervisor, cgroups: Cgroups, readings: Readings
    ) -> None:
        self._run = os.fspath(layout.run / "containers")
        self._records = records
        self._supervisor = supervisor
        self._cgroups = cgroups
        self._belonging = Belonging(cgroups, readings)
        self.mounts = MountWatch(layout)

    def look(self) -> None:
        """What `damage` and `broken` say then is as of now."""
        self.mounts.hear()

    def damage(self, target: Incarnation, names: Names, pid: int) -> Iterator[str]:
        """What can be mended while it runs."""
        if not self._belonging.holds(names, pid):
            yield "cgroup"
        if not self.recorded(target):
            yield UNKNOWN

    def broken(self, target: Incarnation, names: Names, pid: int) -> Iterator[str]:
        """What only a new process gets back."""
        if not layered(self._records.path(target)):
            yield "writable layer"
        if not self.mounts.same(names, pid):
            yield "mounts"

    def recorded(self, target: Incarnation) -> bool:
        """Whether a later supervisor will know its process."""
        return os.path.exists(f"{self._run}/{target.id}/{RECORD}")

    def recall(self, target: Incarnation, names: Names) -> None:
        """Bring back into its cgroups what somebody moved out of them: only there it can be stopped and limited."""
        state = self._supervisor.states([target.id]).get(target.id)
        if state is None or state.pid is None or self._belonging.holds(names, state.pid):
            return
        record = self._records.read(target)
        self._cgroups.make(names, recorded_limits(record) if record else Limits())
        self._belonging.gather(names, state.pid)

    def keep(self, stack: str, names: Set[Names], running: Set[Names]) -> None:
        """Let go of what was kept of the stack's containers beside `names`, and of the mounts of those that do not run."""
        self._belonging.keep(stack, names)
        self.mounts.keep(stack, running)
