"""Volumes: folders that outlive containers and stacks. Known by (stack, name), so a re-applied stack finds its data.

In: volume incarnations. Out: the folder `Layout.volume(...)/data`, root's, mode 0755, empty until it is first mounted
(`seeding`). Only `delete` removes data, and never another stack's: of such a volume (`infra/data`) there is a record and no
more.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.drivers.records import Record, Records, private_folders
from orchestrator.drivers.trees import remove_tree
from orchestrator.drivers.volumes import seeding
from orchestrator.errors import StepError
from orchestrator.model.desired import Spec, Stack
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.ports.driver import Bound, Problem
from orchestrator.ports.layout import Layout


class VolumeDriver:
    """Kind volume; also the port `Volumes`."""

    kinds = frozenset({Kind.VOLUME})

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._records = Records(layout, self.kinds)

    def stacks(self) -> frozenset[str]:
        return self._records.stacks()

    def check(self, stack: Stack) -> Sequence[Problem]:
        return ()

    def observe(self, stack: str) -> Sequence[Observation]:
        return tuple(each.observation(self._phase(each)) for each in self._records.list(stack))

    def create(self, target: Incarnation, spec: Spec, bound: Sequence[Bound]) -> None:
        self._records.write(target, spec, bound)
        self.start(target)

    def start(self, target: Incarnation) -> None:
        if target.ref.owner is None:
            self._make(target)

    def stop(self, target: Incarnation, *, fault: str | None = None) -> None:
        """Nothing runs in a volume."""

    def update(self, target: Incarnation, spec: Spec, fields: Sequence[str], bound: Sequence[Bound]) -> None:
        self._records.rewrite(target, spec=spec, bound=bound)

    def delete(self, target: Incarnation) -> None:
        """Remove the data, unless another incarnation of the same name is recorded; then the record."""
        record = self._records.read(target)
        # An unreadable record does not tell the name, and data is never removed on a guess.
        if record is not None and record.readable and not self._shared(record.target):
            self.discard(target.stack, record.target.ref)
        self._records.remove(target)

    def discard(self, stack: str, ref: Ref) -> None:
        """Remove the data, recorded or not, unless another stack uses it."""
        self._refuse_others(stack, ref)
        folder = self._layout.volume(stack, ref.name)
        try:
            remove_tree(folder)
        except OSError as error:
            raise StepError.of(f"{ref}: cannot remove its data", error) from error
        with contextlib.suppress(OSError):
            folder.parent.rmdir()

    def path(self, target: Incarnation) -> str:
        owner, _, name = target.ref.name.rpartition("/")
        return os.fspath(self._layout.volume(owner or target.stack, name) / "data")

    def seed(self, target: Incarnation, lowers: Sequence[str], mounted: str) -> None:
        folder = Path(self.path(target)).parent
        if seeding.seeded(folder):
            return
        try:
            seeding.seed(folder, lowers, mounted)
        except OSError as error:
            raise StepError.of(f"{target.ref}: cannot take over what is at {mounted}", error) from error

    def _phase(self, record: Record) -> Phase:
        return Phase.RUNNING if os.path.isdir(self.path(record.target)) else Phase.CREATED  # noqa: PTH112

    def _refuse_others(self, stack: str, ref: Ref) -> None:
        """The last look before data goes: another stack may have come to it since the plan was made."""
        name = f"{stack}/{ref.name}"
        for other in sorted(self._records.stacks()):
            if any(each.target.ref.name == name for each in self._records.list(other)):
                raise StepError(f"{ref}: stack {other} uses it", errno=errno.EBUSY)

    def _shared(self, target: Incarnation) -> bool:
        return target.ref.owner is not None or any(
            each.target.ref == target.ref and each.target.id != target.id
            for each in self._records.list(target.stack)
        )

    def _make(self, target: Incarnation) -> None:
        path = self.path(target)
        try:
            private_folders(self._layout.state, os.fspath(self._layout.volume(target.stack, target.ref.name)))
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)  # noqa: PTH102
                os.chmod(path, 0o755)  # noqa: PTH101 -- whatever the umask is
        except OSError as error:
            raise StepError.of(f"{target.ref}: cannot make its folder", error) from error
