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
from orchestrator.drivers.volumes import quota, seeding
from orchestrator.errors import StepError
from orchestrator.model import codec
from orchestrator.model.desired import Spec, Stack, VolumeSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.ports.driver import Bound, Problem
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.kernel.mounts import MS_NODEV, MS_NOSUID, MS_REMOUNT, detach, mount

_LIMITED = "limited"  # beside the data: a limit was set once, so it may have to be taken back


class VolumeDriver:
    """Kind volume; also the port `Volumes`."""

    kinds = frozenset({Kind.VOLUME})

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._records = Records(layout, self.kinds)

    def stacks(self) -> frozenset[str]:
        return self._records.stacks()

    def check(self, stack: Stack) -> Sequence[Problem]:
        found = []
        for ref, spec in stack.resources.items():
            if not isinstance(spec, VolumeSpec):
                continue
            if spec.bind is not None and not os.path.isdir(spec.bind):  # noqa: PTH112
                found.append(Problem(ref=ref, field="bind", message=f"{spec.bind}: no such directory"))
            if spec.size is not None and (why := quota.unsupported(os.fspath(self._layout.state))):
                message = f"no limit can be set on a volume below {self._layout.state}: {why}"
                hint = "mount it with prjquota (ext4 made with -O quota,project; xfs), or leave size out"
                found.append(Problem(ref=ref, field="size", message=message, hint=hint))
        return tuple(found)

    def observe(self, stack: str) -> Sequence[Observation]:
        return tuple(each.observation(self._phase(each)) for each in self._records.list(stack))

    def create(self, target: Incarnation, spec: Spec, bound: Sequence[Bound]) -> None:
        self._records.write(target, spec, bound)
        self.start(target)

    def start(self, target: Incarnation) -> None:
        if target.ref.owner is None:
            self._make(target, self._spec(target))

    def stop(self, target: Incarnation, *, fault: str | None = None) -> None:
        """Nothing runs in a volume."""

    def update(self, target: Incarnation, spec: Spec, fields: Sequence[str], bound: Sequence[Bound]) -> None:
        self._records.rewrite(target, spec=spec, bound=bound)
        self.start(target)

    def delete(self, target: Incarnation) -> None:
        """Remove the data, unless another incarnation of the same name is recorded; then the record."""
        record = self._records.read(target)
        # An unreadable record does not tell the name, and data is never removed on a guess.
        if record is not None and record.readable and not self._shared(record.target):
            self.discard(target.stack, record.target.ref)
            self._unmount(record.target)
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
        spec, (stack, name) = self._spec(target), _owned(target)
        if spec.bind is not None:
            return spec.bind
        if spec.tmpfs is not None:
            return os.fspath(self._memory(stack, name))
        return os.fspath(self._layout.volume(stack, name) / seeding.DATA)

    def seed(self, target: Incarnation, lowers: Sequence[str], mounted: str) -> None:
        spec, folder = self._spec(target), self._layout.volume(*_owned(target))
        if spec.tmpfs is not None or spec.bind is not None or seeding.seeded(folder):
            return
        try:
            seeding.seed(folder, lowers, mounted)
            self._limit(folder / seeding.DATA, spec.size)
        except OSError as error:
            raise StepError.of(f"{target.ref}: cannot take over what is at {mounted}", error) from error

    def _phase(self, record: Record) -> Phase:
        path = self.path(record.target)
        there = os.path.isdir(path)  # noqa: PTH112
        if there and self._spec(record.target).tmpfs is not None:
            there = os.path.ismount(path)
        return Phase.RUNNING if there else Phase.CREATED

    def _spec(self, target: Incarnation) -> VolumeSpec:
        """As recorded; of another stack's volume, what its owner records."""
        stack, name = _owned(target)
        if target.ref.owner is None:
            record = self._records.read(target)
        else:
            ref = Ref(Kind.VOLUME, name)
            record = next((each for each in self._records.list(stack) if each.target.ref == ref), None)
        if record is None or not record.readable:
            return VolumeSpec()
        return codec.decode(VolumeSpec, record.spec)

    def _memory(self, stack: str, name: str) -> Path:
        return self._layout.run / "volumes" / stack / name

    def _unmount(self, target: Incarnation) -> None:
        folder = self._memory(*_owned(target))
        if os.path.ismount(folder):
            detach(os.fspath(folder))
        for each in (folder, folder.parent):
            with contextlib.suppress(OSError):
                each.rmdir()

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

    def _make(self, target: Incarnation, spec: VolumeSpec) -> None:
        path = self.path(target)
        try:
            if spec.tmpfs is not None:
                self._mount(path, spec.tmpfs)
                return
            self._unmount(target)  # it was memory, perhaps
            if spec.bind is not None:
                if not os.path.isdir(spec.bind):  # noqa: PTH112
                    raise StepError(f"{target.ref}: {spec.bind} is no folder of this host")
                return
            private_folders(self._layout.state, os.fspath(self._layout.volume(target.stack, target.ref.name)))
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)  # noqa: PTH102
                os.chmod(path, 0o755)  # noqa: PTH101 -- whatever the umask is
            self._limit(Path(path), spec.size)
        except OSError as error:
            raise StepError.of(f"{target.ref}: cannot make its folder", error) from error

    @staticmethod
    def _limit(data: Path, size: int | None) -> None:
        mark = data.parent / _LIMITED
        if size is not None or mark.exists():
            mark.touch(mode=0o600)
            quota.limit(data, size)

    def _mount(self, path: str, size: int) -> None:
        options = f"mode=1777,size={size}"
        if os.path.ismount(path):
            mount("none", path, "tmpfs", MS_REMOUNT | MS_NOSUID | MS_NODEV, f"size={size}")
            return
        private_folders(self._layout.run, path)
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)


def _owned(target: Incarnation) -> tuple[str, str]:
    """The stack that the volume is of, and its name there."""
    owner, _, name = target.ref.name.rpartition("/")
    return owner or target.stack, name
