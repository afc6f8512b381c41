"""Where a container's / comes from: the host's /usr over a skeleton, a folder, or an archive unpacked once by content.

In: rootfs incarnations. Out: `Root`s: overlay lowers and read-only binds. What we make lies under `Layout.rootfs`, named by
content, and is shared by all stacks; it appears by a rename, so half an unpacking is never used, and goes with the last
record that names it. One lock file guards making and removing, across processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from orchestrator.drivers.records import Record, Records, private_folders
from orchestrator.drivers.rootfs import skeleton
from orchestrator.drivers.rootfs.unpack import TarError, sha256, unpack
from orchestrator.drivers.trees import remove_tree
from orchestrator.errors import StepError
from orchestrator.model import codec
from orchestrator.model.desired import (
    ArchiveRoot,
    DirectoryRoot,
    HostRoot,
    RootfsSpec,
    RootSource,
    Spec,
    Stack,
)
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.ports.driver import Bound, Problem, Root
from orchestrator.ports.layout import Layout

_TEMPORARY = ".tmp-"
_LOCK = ".lock"


class RootfsDriver:
    """Kind rootfs; also the port `Roots`."""

    kinds = frozenset({Kind.ROOTFS})

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._records = Records(layout, self.kinds)

    def stacks(self) -> frozenset[str]:
        return self._records.stacks()

    def check(self, stack: Stack) -> Sequence[Problem]:
        found = []
        for ref, spec in stack.resources.items():
            if isinstance(spec, RootfsSpec):
                found += self._problems(ref, spec.source)
        return tuple(found)

    def observe(self, stack: str) -> Sequence[Observation]:
        return tuple(each.observation(self._phase(each)) for each in self._records.list(stack))

    def create(self, target: Incarnation, spec: Spec, bound: Sequence[Bound]) -> None:
        if not isinstance(spec, RootfsSpec):
            raise StepError(f"{target.ref}: not a rootfs spec")
        with self._lock(target.ref):
            contents = self._ready(target.ref, spec.source)
            self._records.write(target, spec, bound, {"contents": contents})

    def start(self, target: Incarnation) -> None:
        """Make again what is gone from disk."""
        self.root(target)

    def stop(self, target: Incarnation, *, fault: str | None = None) -> None:
        """Nothing runs in a rootfs itself."""

    def update(self, target: Incarnation, spec: Spec, fields: Sequence[str], bound: Sequence[Bound]) -> None:
        self._records.rewrite(target, spec=spec, bound=bound)

    def delete(self, target: Incarnation) -> None:
        with self._lock(target.ref):
            # The record goes last: killed between the two, the next pass still finds what to end.
            self._sweep(target)
            self._records.remove(target)

    def root(self, target: Incarnation) -> Root:
        """Ready for use. A `host` root is made anew here when the host's libraries or alternatives have changed."""
        record = self._records.read(target)
        if record is None or not record.readable:
            raise StepError(f"{target.ref}: no record of {target.id}")
        source = _source(record)
        if isinstance(source, DirectoryRoot):
            self._ready(target.ref, source)
            return Root(lowers=(source.path,))
        newest = _wanted(source)
        known = record.extra.get("contents", [])
        if newest not in known or not self._folder(newest).is_dir():
            with self._lock(target.ref):
                self._ready(target.ref, source)
                # Older ones stay recorded: containers that run still lie over them.
                self._records.rewrite(
                    target, extra={"contents": [*(x for x in known if x != newest), newest]}
                )
        lowers = (os.fspath(self._folder(newest)),)
        return Root(lowers=lowers, binds=skeleton.binds() if isinstance(source, HostRoot) else ())

    # parts

    def _problems(self, ref: Ref, source: RootSource) -> list[Problem]:
        match source:
            case HostRoot():
                return []
            case DirectoryRoot():
                message, hint = _directory_problem(source.path)
                return [Problem(ref=ref, field="source", message=message, hint=hint)] if message else []
            case ArchiveRoot():
                if self._folder(_wanted(source)).is_dir():
                    return []  # unpacked before: the archive itself is not needed any more
                try:
                    with self._verified(ref, source):
                        return []
                except StepError as error:
                    message = error.message.removeprefix(f"{ref}: ")
                    return [Problem(ref=ref, field="source", message=message, hint=error.hint)]

    def _phase(self, record: Record) -> Phase:
        if not record.readable:
            return Phase.INCOMPLETE
        source = _source(record)
        if isinstance(source, DirectoryRoot):
            return Phase.RUNNING if Path(source.path).is_dir() else Phase.CREATED
        contents = record.extra.get("contents", [])
        return Phase.RUNNING if contents and self._folder(contents[-1]).is_dir() else Phase.CREATED

    def _ready(self, ref: Ref, source: RootSource) -> list[str]:
        """Make the content unless it is there; the names to record. Under the lock."""
        if isinstance(source, DirectoryRoot):
            message, hint = _directory_problem(source.path)
            if message:
                raise StepError(f"{ref}: {message}", argument=source.path, hint=hint)
            return []
        name = _wanted(source)
        if self._folder(name).is_dir():
            return [name]
        if isinstance(source, HostRoot):
            self._build(ref, name, skeleton.fill)
        else:
            with self._verified(ref, source) as file:
                self._build(ref, name, lambda folder: _unpack(ref, source, file, folder))
        return [name]

    def _build(self, ref: Ref, name: str, fill: Callable[[str], None]) -> None:
        temporary = self._layout.rootfs / f"{_TEMPORARY}{name}"
        try:
            remove_tree(temporary)
            temporary.mkdir(mode=0o755)
            fill(os.fspath(temporary))
            temporary.rename(self._folder(name))
        except BaseException as error:
            with contextlib.suppress(OSError):
                remove_tree(temporary)  # a full disk is to be emptied at once
            if isinstance(error, OSError):
                raise StepError.of(f"{ref}: cannot make it", error) from error
            raise

    @contextlib.contextmanager
    def _verified(self, ref: Ref, source: ArchiveRoot) -> Iterator[IO[bytes]]:
        """The archive, open once, with the digest that was asked for."""
        try:
            with open(source.path, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StepError(f"{ref}: {source.path} is not a regular file", argument=source.path)
                digest = sha256(file)
                if digest != source.sha256.lower():
                    raise StepError(
                        f"{ref}: {source.path} has sha256 {digest}, the manifest says {source.sha256}",
                        argument=source.path,
                        hint="fetch it again, or correct the digest if you trust this file",
                    )
                yield file
        except OSError as error:
            raise StepError.of(f"{ref}: cannot read the archive", error) from error

    @contextlib.contextmanager
    def _lock(self, ref: Ref) -> Iterator[None]:
        folder = os.fspath(self._layout.rootfs)
        try:
            private_folders(self._layout.state, folder)
            fd = os.open(f"{folder}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StepError.of(f"{ref}: cannot lock the store of rootfs", error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _sweep(self, target: Incarnation) -> None:
        """Remove the contents that no record but target's names, also what killed processes left. Under the lock."""
        records = [each for stack in self._records.stacks() for each in self._records.list(stack)]
        others = [each for each in records if each.target != target]
        used = {name for each in others for name in each.extra.get("contents", ())}
        there = sorted(each.name for each in self._layout.rootfs.iterdir())
        if not all(each.readable for each in others):
            used.update(there)  # nobody knows what the unreadable one names
        for entry in there:
            name = entry.removeprefix(_TEMPORARY)
            if entry != name or entry not in {_LOCK, *used}:
                self._remove(target.ref, name, keep=name in used)

    def _remove(self, ref: Ref, name: str, *, keep: bool) -> None:
        """Remove what is left half made or half removed of a content and, unless keep, the content."""
        try:
            hidden = self._layout.rootfs / f"{_TEMPORARY}{name}"
            remove_tree(hidden)
            if not keep:
                # Out of sight first: what is removed half must not be found as whole.
                with contextlib.suppress(FileNotFoundError):
                    self._folder(name).rename(hidden)
                remove_tree(hidden)
        except OSError as error:
            raise StepError.of(f"{ref}: cannot remove its content", error) from error

    def _folder(self, name: str) -> Path:
        return self._layout.rootfs / name


def _wanted(source: HostRoot | ArchiveRoot) -> str:
    """The name of the content: our key of the host, or the archive's digest."""
    return f"host-{skeleton.key()}" if isinstance(source, HostRoot) else source.sha256.lower()


def _source(record: Record) -> RootSource:
    spec: RootfsSpec = codec.decode(RootfsSpec, record.spec)
    return spec.source


def _directory_problem(path: str) -> tuple[str | None, str | None]:
    if os.path.normpath(path) == "/":
        return "the host's / cannot be a rootfs", "say `host`: it shows /usr without the host's secrets"
    if not Path(path).exists():
        return f"{path}: no such directory", None
    return (None, None) if Path(path).is_dir() else (f"{path} is not a directory", None)


def _unpack(ref: Ref, source: ArchiveRoot, file: IO[bytes], folder: str) -> None:
    try:
        unpack(file, folder, source.sha256.lower())
    except TarError as error:
        raise StepError(f"{ref}: {source.path}: {error}", argument=source.path) from error
