"""Where a container's / comes from: the host's /usr over a skeleton, a folder, an archive unpacked once by content, an
image or a recipe that was fetched before.

In: rootfs incarnations. Out: `Root`s: overlay lowers and read-only binds. What we make lies in the store of contents,
shared by all stacks, and is collected once nothing names it any more: no record, kept revision, lock file or name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from orchestrator.drivers.records import Record, Records
from orchestrator.drivers.rootfs import collecting, skeleton
from orchestrator.drivers.rootfs.images import RootImages
from orchestrator.drivers.rootfs.store import ContentStore
from orchestrator.drivers.rootfs.unpack import TarError, sha256, unpack
from orchestrator.errors import HostError, StepError
from orchestrator.model import codec
from orchestrator.model.desired import (
    ArchiveRoot,
    DirectoryRoot,
    HostRoot,
    ImageRoot,
    RecipeRoot,
    RootfsSpec,
    RootSource,
    Spec,
    Stack,
)
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.ports.driver import Bound, Problem, Root
from orchestrator.ports.layout import Layout

Made = HostRoot | ArchiveRoot | ImageRoot | RecipeRoot
"""What has contents in the store."""


class RootfsDriver:
    """Kind rootfs; also the port `Roots`. `revised`: the sources that kept revisions name, to be gone back to."""

    kinds = frozenset({Kind.ROOTFS})

    def __init__(self, layout: Layout, revised: Callable[[], Iterable[RootSource]] = tuple) -> None:
        self._records = Records(layout, self.kinds)
        self._revised = revised
        self.store = ContentStore(layout)
        self.images = RootImages(self.store)

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
        with self._held(target.ref):
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
        # The record goes last: killed between the two, the next pass still finds what to end.
        try:
            self.collect(without=target)
        except OSError as error:
            raise StepError.of(f"{target.ref}: cannot remove its content", error) from error
        self._records.remove(target)

    def users(self) -> Mapping[str, frozenset[str]]:
        """Content -> the stacks whose records name it."""
        found: dict[str, set[str]] = {}
        for stack in self._records.stacks():
            for record in self._records.list(stack):
                for name in record.extra.get("contents", ()):
                    found.setdefault(name, set()).add(stack)
        return {name: frozenset(stacks) for name, stacks in found.items()}

    def collect(
        self, without: Incarnation | None = None, *, unnamed: bool = False, dry: bool = False
    ) -> tuple[collecting.Removed, ...]:
        """Remove the contents that nothing but the record of `without` names; `unnamed`, `dry`: as `collecting.collect`.
        Raises OSError."""
        with self.store.held(alone=True):
            records = [each for stack in self._records.stacks() for each in self._records.list(stack)]
            others = [each for each in records if each.target != without]
            if not all(each.readable for each in others):
                return ()  # nobody knows what the unreadable one names
            used = {name for each in others for name in each.extra.get("contents", ())}
            sources = [_source(each) for each in others]
            try:
                return collecting.collect(self.store, used, sources, self._revised, unnamed=unnamed, dry=dry)
            except HostError:
                return ()  # nobody knows what kept revisions name

    def root(self, target: Incarnation) -> Root:
        """Ready for use. A `host` root is made anew here when the host's libraries or alternatives have changed."""
        record = self._records.read(target)
        if record is None or not record.readable:
            raise StepError(f"{target.ref}: no record of {target.id}")
        source = _source(record)
        if isinstance(source, DirectoryRoot):
            self._ready(target.ref, source)
            return Root(lowers=(source.path,))
        known = record.extra.get("contents", [])
        wanted = self._wanted(target.ref, source)
        if any(each not in known or not self.store.has(each) for each in wanted):
            with self._held(target.ref):
                made = self._ready(target.ref, source)
                # Older ones stay recorded: containers that run still lie over them.
                self._records.rewrite(
                    target, extra={"contents": [*(each for each in known if each not in made), *made]}
                )
        lowers = tuple(os.fspath(self.store.folder(each)) for each in wanted)
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
                if all(map(self.store.has, self._wanted(ref, source))):
                    return []  # unpacked before: the archive itself is not needed any more
                try:
                    with self._verified(ref, source):
                        return []
                except StepError as error:
                    message = error.message.removeprefix(f"{ref}: ")
                    return [Problem(ref=ref, field="source", message=message, hint=error.hint)]
            case ImageRoot() | RecipeRoot():
                return []  # looked up and fetched before a stack is checked

    def _phase(self, record: Record) -> Phase:
        if not record.readable:
            return Phase.INCOMPLETE
        source = _source(record)
        if isinstance(source, DirectoryRoot):
            return Phase.RUNNING if Path(source.path).is_dir() else Phase.CREATED
        contents = record.extra.get("contents", [])
        wanted = contents[-1:] if isinstance(source, HostRoot) else contents  # older ones are for what runs
        return Phase.RUNNING if wanted and all(map(self.store.has, wanted)) else Phase.CREATED

    def _ready(self, ref: Ref, source: RootSource) -> list[str]:
        """Make the content unless it is there; the names to record. Under the lock."""
        if isinstance(source, DirectoryRoot):
            message, hint = _directory_problem(source.path)
            if message:
                raise StepError(f"{ref}: {message}", argument=source.path, hint=hint)
            return []
        try:
            names = self._wanted(ref, source)
            for name in names:
                if not self.store.has(name):
                    self._make(ref, source, name)
        except OSError as error:
            raise StepError.of(f"{ref}: cannot make it", error) from error
        return list(names)

    def _wanted(self, ref: Ref, source: Made) -> tuple[str, ...]:
        """The names of its contents, topmost first: our key of the host, the archive's digest, an image's layers."""
        match source:
            case HostRoot():
                return (f"host-{skeleton.key()}",)
            case ArchiveRoot():
                return (source.sha256.lower(),)
            case ImageRoot() | RecipeRoot():
                try:
                    return self.images.contents(source)
                except StepError as error:
                    raise StepError(f"{ref}: {error.message}", hint=error.hint) from error

    def _make(self, ref: Ref, source: Made, name: str) -> None:
        match source:
            case HostRoot():
                with self.store.making(name) as folder:
                    skeleton.fill(os.fspath(folder))
                    self.store.keep(folder, name, {"what": "host"})
            case ArchiveRoot():
                with self._verified(ref, source) as file, self.store.making(name) as folder:
                    digests = _unpack(ref, source, file, os.fspath(folder))
                    self.store.keep(folder, name, {"what": "archive", "path": source.path}, digests)
            case ImageRoot() | RecipeRoot():
                raise StepError(
                    f"{ref}: its content {name} is not in the store", hint="apply the stack again"
                )

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
    def _held(self, ref: Ref) -> Iterator[None]:
        """What is made in the block is recorded in it, before anybody collects."""
        try:
            with self.store.held():
                yield
        except (OSError, HostError) as error:
            if isinstance(error, HostError):
                raise StepError(f"{ref}: {error.message}", hint=error.hint) from error
            raise StepError.of(f"{ref}: cannot use the store of rootfs", error) from error


def _source(record: Record) -> RootSource:
    spec: RootfsSpec = codec.decode(RootfsSpec, record.spec)
    return spec.source


def _directory_problem(path: str) -> tuple[str | None, str | None]:
    if os.path.normpath(path) == "/":
        return "the host's / cannot be a rootfs", "say `host`: it shows /usr without the host's secrets"
    if not Path(path).exists():
        return f"{path}: no such directory", None
    return (None, None) if Path(path).is_dir() else (f"{path} is not a directory", None)


def _unpack(ref: Ref, source: ArchiveRoot, file: IO[bytes], folder: str) -> Mapping[int, str]:
    """The digests of its files, by inode."""
    try:
        return unpack(file, folder, source.sha256.lower()).digests
    except TarError as error:
        raise StepError(f"{ref}: {source.path}: {error}", argument=source.path) from error
