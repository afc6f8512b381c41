"""Volumes as people ask for them: what there is, whose, how large, who has it mounted; out of here and back.

In: STACK/NAME. Out: `Volume` values. Loaded by the `volume` verbs alone. Data goes, or is exchanged, under the locks of the
stacks that could use it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.app.looking import Looking
from orchestrator.drivers.records import private_folders
from orchestrator.drivers.trees import remove_tree
from orchestrator.drivers.volumes import seeding
from orchestrator.drivers.volumes.driver import VolumeDriver
from orchestrator.errors import ConflictError, StepError, UsageError
from orchestrator.model import codec
from orchestrator.model.desired import ContainerSpec, VolumeMount, VolumeSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Phase
from orchestrator.state.locks import StackLock
from orchestrator.transfer import volumes as transfer

_PATIENCE = 10.0  # seconds for others who are at work on a stack
_RESTORING = ".restoring"
_REF = re.compile(r"[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """`backing`: `tmpfs`, the folder of the host that it is, or "" for one of ours; `folder`: where it lies; `wished`: the
    stack's newest revision has it; `users`: containers that mount it, `running` those of them that run; `bytes` on disk;
    `changed`: when its top folder was last, seconds since 1970."""

    stack: str
    name: str
    backing: str
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

    def __init__(self, app: Looking, driver: VolumeDriver) -> None:
        self._app, self._driver = app, driver
        self._top = app.layout.volume("x", "y").parent.parent

    def all(self) -> tuple[Volume, ...]:
        """All of which there is data, by stack and name."""
        users = self._users()
        wished = set(self._wished())
        places = self._places()
        sizes = _sizes([folder for backing, folder in places.values() if backing in ("", "tmpfs")])
        found = []
        for (stack, name), (backing, folder) in sorted(places.items()):
            mine = users.get(f"{stack}/{name}", {})
            data = folder if backing else folder / seeding.DATA
            found.append(
                Volume(
                    stack=stack,
                    name=name,
                    backing=backing,
                    folder=data,
                    wished=(stack, name) in wished,
                    users=tuple(sorted(mine)),
                    running=tuple(sorted(each for each, runs in mine.items() if runs)),
                    bytes=sizes.get(folder, 0),
                    changed=data.stat().st_mtime if data.exists() else 0.0,
                )
            )
        return tuple(found)

    def _places(self) -> dict[tuple[str, str], tuple[str, Path]]:
        """Stack and name -> what backs it (`Volume.backing`) and where: folders of ours, with or without a record."""
        found = {
            (stack, name): ("", self._top / stack / name)
            for stack in _names(self._top)
            for name in _names(self._top / stack)
        }
        for stack in self._driver.stacks():
            for each in self._driver.observe(stack):
                if each.ref.owner is None and each.phase is not Phase.INCOMPLETE:
                    spec = codec.decode(VolumeSpec, each.applied)
                    backing = "tmpfs" if spec.tmpfs is not None else spec.bind
                    if backing:
                        target = Incarnation(stack, each.ref, each.id)
                        found[stack, each.ref.name] = backing, Path(self._driver.path(target))
        return found

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
        return tuple(each for each in self.all() if _kept(each))

    def remove(self, volume: Volume) -> bool:
        """Its data, and what is recorded of it; False: somebody wants it by now. StepError where another stack has it."""
        with self._locked({volume.stack}):
            if not any(each.ref == volume.ref and _kept(each) for each in self.all()):
                return False
            for each in self._driver.observe(volume.stack):
                if each.ref.name == volume.name:
                    self._driver.delete(Incarnation(volume.stack, each.ref, each.id))
            self._driver.discard(volume.stack, Ref(Kind.VOLUME, volume.name))
            return True

    def backup(self, volume: Volume, out: IO[bytes]) -> bool:
        """Its data as a tar stream; False: some of it changed meanwhile."""
        return transfer.write(str(volume.folder), out)

    def restore(self, name: str, source: IO[bytes], *, over: bool) -> int:
        """What the stream holds becomes the data of `STACK/NAME`, which is made where it is not there; `over`: also where
        it holds something. How many devices were passed over. ConflictError: a container runs on it."""
        folder = self._folder(name)
        ref = f"{folder.parent.name}/{folder.name}"
        backing, place = self._places().get((folder.parent.name, folder.name), ("", folder))
        if backing:
            raise UsageError(f"{ref} is no folder of ours", hint=f"unpack it yourself: tar -C {place} -x")
        self._refuse(ref, folder, over=over)
        try:
            private_folders(self._app.layout.state, str(folder))
            # Not the folder's own lock: a pass that holds the stack waits for that when it fills a new volume.
            (folder / _RESTORING).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StepError.of(f"{ref}: cannot make its folder", error) from error
        with seeding.alone(folder / _RESTORING):
            done = transfer.read(folder, source)
            try:
                stacks = {each.partition(":")[0] for each in self._users().get(ref, {}) if ":" in each}
                with self._locked({folder.parent.name, *stacks}):
                    self._refuse(ref, folder, over=over)
                    (folder / seeding.DATA).mkdir(mode=0o755, exist_ok=True)
                    (folder / seeding.SEEDED).touch(mode=0o600)
                    transfer.swap(folder, seeding.DATA)
                    self._limit(folder)
            except BaseException:
                remove_tree(folder / transfer.BESIDE)
                raise
        return done.devices

    def _limit(self, folder: Path) -> None:
        """The data is another folder now: its limit has to be set anew."""
        for each in self._driver.observe(folder.parent.name):
            if each.ref.name == folder.name:
                self._driver.start(Incarnation(folder.parent.name, each.ref, each.id))

    def _folder(self, name: str) -> Path:
        ref = name if "/" in name else self.one(name).ref
        if not _REF.fullmatch(ref):
            raise UsageError(f"{name!r} is not STACK/NAME", hint="see `orchestrator volume ls`")
        stack, _, own = ref.partition("/")
        return self._app.layout.volume(stack, own)

    def _refuse(self, ref: str, folder: Path, *, over: bool) -> None:
        running = [user for user, runs in sorted(self._users().get(ref, {}).items()) if runs]
        if running:
            raise ConflictError(
                f"{ref} is mounted by {', '.join(running)}",
                hint=f"`orchestrator stop {running[0].split('/')[1]}` first, and start it afterwards",
            )
        data = folder / seeding.DATA
        if not over and data.is_dir() and any(data.iterdir()):
            raise UsageError(f"{ref} holds data", hint="--replace removes it once the new data is here")

    @contextlib.contextmanager
    def _locked(self, stacks: Iterable[str]) -> Iterator[None]:
        """No pass over these stacks meanwhile: nothing starts."""
        with contextlib.ExitStack() as held:
            for stack in sorted(stacks):
                lock = StackLock(self._app.layout.lock(stack), stack=stack, command="volume")
                held.enter_context(lock.acquire(wait=True, timeout=_PATIENCE))
            yield

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


def _kept(each: Volume) -> bool:
    return not each.wished and not each.users


def _sizes(folders: list[Path]) -> Mapping[Path, int]:
    """Bytes on disk, as far as du(1) could read them: it knows of holes, hard links and trees of any depth."""
    if not folders:
        return {}
    done = subprocess.run(
        ["du", "--summarize", "--block-size=1", "--one-file-system", "--null", "--", *map(str, folders)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    rows = (os.fsdecode(each).partition("\t") for each in done.stdout.split(b"\0") if each)
    return {Path(path): int(size) for size, _, path in rows}
