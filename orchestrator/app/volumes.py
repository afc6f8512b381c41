"""Volumes as people ask for them: what there is, whose, how large, who has it mounted; out of here and back.

In: STACK/NAME. Out: `Volume` values. Loaded by the `volume` verbs alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.app.looking import Looking
from orchestrator.drivers.trees import remove_tree
from orchestrator.drivers.volumes import archives
from orchestrator.errors import ConflictError, StepError, UsageError
from orchestrator.model import codec
from orchestrator.model.desired import ContainerSpec, VolumeMount, VolumeSpec
from orchestrator.model.ids import Incarnation, Kind
from orchestrator.model.observed import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """`folder`: where it lies; `wished`: the stack's newest revision has it; `users`: containers that mount it, `running`
    those of them that run; `bytes` on disk; `changed`: when its top folder was last, seconds since 1970."""

    stack: str
    name: str
    folder: Path
    wished: bool
    users: tuple[str, ...]
    running: tuple[str, ...]
    bytes: int
    changed: float

    @property
    def ref(self) -> str:
        return f"{self.stack}/{self.name}"


class Volumes:
    """Those of one instance."""

    def __init__(self, app: Looking) -> None:
        self._app = app
        self._top = app.layout.volume("x", "y").parent.parent

    def all(self) -> tuple[Volume, ...]:
        """All of which there is data, by stack and name."""
        users = self._users()
        wished = set(self._wished())
        found = []
        for stack in _names(self._top):
            for name in _names(self._top / stack):
                key, folder = (stack, name), self._top / stack / name
                mine = users.get(f"{stack}/{name}", {})
                found.append(
                    Volume(
                        stack=stack,
                        name=name,
                        folder=folder / "data",
                        wished=key in wished,
                        users=tuple(sorted(mine)),
                        running=tuple(sorted(each for each, runs in mine.items() if runs)),
                        bytes=_size(folder),
                        changed=(folder / "data").stat().st_mtime if (folder / "data").exists() else 0.0,
                    )
                )
        return tuple(found)

    def one(self, ref: str) -> Volume:
        """`STACK/NAME`, or a name that only one stack has. UsageError: there is none, or several."""
        found = [each for each in self.all() if ref in (each.ref, each.name)]
        exact = [each for each in found if each.ref == ref]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            refs = ", ".join(each.ref for each in found)
            raise UsageError(f"{ref} is several volumes", hint=f"say STACK/NAME: {refs}")
        raise UsageError(f"no volume is called {ref!r}", hint="see `orchestrator volume ls`")

    def prunable(self) -> tuple[Volume, ...]:
        """Those that no stack wishes any more and no container mounts."""
        return tuple(each for each in self.all() if not each.wished and not each.users)

    def remove(self, volume: Volume) -> None:
        """Its data, and what is recorded of it. StepError where a container mounts it by now."""
        if self.one(volume.ref).users:
            raise StepError(f"{volume.ref}: a container mounts it")
        driver = self._app.world.drivers[Kind.VOLUME]
        for each in driver.observe(volume.stack):
            if each.ref.name == volume.name:
                driver.delete(Incarnation(volume.stack, each.ref, each.id))
        try:
            remove_tree(volume.folder.parent)
            with contextlib.suppress(FileNotFoundError):  # the driver removed the last one
                if not _names(volume.folder.parent.parent):
                    volume.folder.parent.parent.rmdir()
        except OSError as error:
            raise StepError.of(f"{volume.ref}: cannot remove it", error) from error

    def backup(self, volume: Volume, out: IO[bytes]) -> None:
        archives.write(volume.folder.parent, out)

    def restore(self, volume: Volume, source: IO[bytes], *, replace: bool) -> None:
        """ConflictError: a container runs on it. UsageError: it holds something, and is not to be replaced."""
        if volume.running:
            raise ConflictError(
                f"{volume.ref} is mounted by {', '.join(volume.running)}",
                hint=f"`orchestrator stop {volume.running[0].split('/')[1]}` first, and start it afterwards",
            )
        archives.recover(volume.folder.parent)
        if not replace and any(volume.folder.iterdir()):
            raise UsageError(
                f"{volume.ref} holds data", hint="--replace removes it once the new data is here"
            )
        try:
            archives.read(volume.folder.parent, source)
        except OSError as error:
            raise StepError.of(f"{volume.ref}: cannot restore it", error) from error

    def _wished(self) -> Iterator[tuple[str, str]]:
        for stack in self._app.stacks():
            recorded = self._app.recorded(stack)
            for ref, spec in (recorded.resources if recorded else {}).items():
                if isinstance(spec, VolumeSpec):
                    yield (ref.owner or stack), ref.name.rpartition("/")[2]

    def _users(self) -> dict[str, dict[str, bool]]:
        """STACK/NAME -> containers that mount it -> whether they run."""
        found: dict[str, dict[str, bool]] = {}
        for stack in self._app.stacks():
            for each in self._app.runtime.glance(stack):
                if each.ref.kind is not Kind.CONTAINER or each.phase is Phase.INCOMPLETE:
                    continue
                for mount in codec.decode(ContainerSpec, each.applied).mounts:
                    if isinstance(mount, VolumeMount):
                        name = mount.volume if "/" in mount.volume else f"{stack}/{mount.volume}"
                        users = found.setdefault(name, {})
                        ref = str(each.ref) if name.startswith(f"{stack}/") else f"{stack}:{each.ref}"
                        users[ref] = users.get(ref, False) or each.phase is Phase.RUNNING
        return found


def _names(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.is_dir())
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    """Bytes on disk; what goes away meanwhile counts nothing."""
    total, seen = 0, set()
    for top, folders, files in os.walk(folder):
        for each in (*folders, *files):
            try:
                about = os.lstat(f"{top}/{each}")
            except OSError:
                continue
            if (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                total += about.st_blocks * 512
    return total
