"""The cgroup folders of stacks, groups and containers, on v2, v1 and hybrid hosts, and the limits in them.

In: names (stack), (stack, group id) or (stack, group id, container id), and limits. Out: folders, written limits. Each
level has a v2 folder, whatever controllers v2 has: it gives cgroup.kill and cgroup.events. On v1 a folder is made only
where a limit is set at that level or below. Must not touch a cgroup outside the instance's own folder.
"""

from __future__ import annotations

# ruff: noqa: PTH106, PTH112, PTH208
import contextlib
import errno
import os
import select
import time
from collections.abc import Iterable, Iterator
from functools import cached_property

from orchestrator.drivers.embedded import files
from orchestrator.drivers.embedded import limits as values
from orchestrator.drivers.embedded.devices import disk_number
from orchestrator.drivers.embedded.hierarchies import CONTROLLERS, Hierarchies, systemd_runs
from orchestrator.errors import HostError, StepError
from orchestrator.model.desired import IoLimit, Limits
from orchestrator.ports.layout import Layout

Names = tuple[str, ...]
_NO_FILE = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
)  # what a missing interface file gives when opened for writing
_PAUSES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class Cgroups:
    """All cgroups of one instance. Safe for several threads that work on different names."""

    def __init__(self, layout: Layout, hierarchies: Hierarchies) -> None:
        self._layout = layout
        self.host = hierarchies
        self._bases: dict[str | None, str] = {}
        self.versions = {each: hierarchies.version(each) for each in CONTROLLERS}

    # places

    def base(self, controller: str | None = None) -> str:
        """Our folder in the hierarchy of `controller`; None: the v2 one. The only place that decides where we live."""
        known = self._bases.get(controller)
        if known is None:
            known = self._bases[controller] = self._base(controller)
        return known

    def _base(self, controller: str | None) -> str:
        if controller is not None and self.versions[controller] == 1:
            return f"{self.host.v1[controller]}/{self._layout.cgroup}"
        if self.host.unified is None:
            raise HostError(
                "no cgroup v2 hierarchy is mounted",
                hint="mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with it",
            )
        return f"{self.host.unified}{self._unit}/{self._layout.cgroup}"

    @cached_property
    def _unit(self) -> str:
        """Where systemd is PID 1 its tree is not ours to make folders in but below a unit of ours, which is delegated."""
        name = f"orchestrator-{self._layout.instance}"
        return f"/orchestrator.slice/{name}.slice/{name}.service" if systemd_runs() else ""

    def folder(self, names: Names, controller: str | None = None) -> str:
        return "/".join((self.base(controller), *names))

    def joins(self, names: Names) -> tuple[str, ...]:
        """The v1 folders that a process of a container joins: in each hierarchy the deepest that exists."""
        found = []
        for controller in self.host.v1:
            for depth in range(len(names), 0, -1):
                path = self.folder(names[:depth], controller)
                if os.path.isdir(path):
                    found.append(path)
                    break
        return tuple(dict.fromkeys(found))  # one mount may hold two controllers

    def oom_files(self, names: Names) -> tuple[str, ...]:
        """The files that tell of kills for memory."""
        if self.versions["memory"] == 2:
            return (f"{self.folder(names)}/memory.events",)
        path = f"{self.folder(names, 'memory')}/memory.oom_control" if self.versions["memory"] == 1 else ""
        return (path,) if path and os.path.exists(path) else ()  # noqa: PTH110

    def exists(self, names: Names) -> bool:
        return os.path.isdir(self.folder(names))

    def find(self, stack: str, id: str) -> tuple[Names, ...]:
        """The names of a container of which nothing but its id is known."""
        try:
            groups = sorted(os.listdir(self.folder((stack,))))
        except (OSError, HostError):
            return ()
        return tuple((stack, each, id) for each in groups if self.exists((stack, each, id)))

    def emptied(self, names: Names, timeout: float) -> bool:
        """Wait until no process is in it or below; False after `timeout` seconds."""
        try:
            fd = os.open(f"{self.folder(names)}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True
        poll, end = select.poll(), time.monotonic() + timeout
        poll.register(fd, select.POLLPRI)
        try:
            while b"populated 1" in os.pread(fd, 4096, 0):
                if time.monotonic() > end:
                    return False
                poll.poll(100)
            return True
        except OSError:
            return True
        finally:
            os.close(fd)

    def populated(self, names: Names) -> bool:
        """Whether any process is in it or below."""
        try:
            return b"populated 1" in files.read(f"{self.folder(names)}/cgroup.events")
        except OSError:
            return False

    def processes(self, names: Names) -> tuple[int, ...]:
        """The processes in the v2 folder itself."""
        with contextlib.suppress(OSError):
            return tuple(int(each) for each in files.read(f"{self.folder(names)}/cgroup.procs").split())
        return ()

    # making and limiting

    def make(self, names: Names, limits: Limits) -> None:
        """Make the folder at this level, with limits. Existing ones lose what is not asked for. Raises StepError."""
        try:
            fresh = files.make(self.folder(names))
            self._apply(names, limits, reset=not fresh)
        except OSError as error:
            raise StepError.of(f"cgroup {'/'.join(names)}", error, hint=_hint(error)) from error

    def apply(self, names: Names, limits: Limits) -> None:
        """Write the limits to what runs, and take away those that are not asked for. Raises StepError."""
        if not self.exists(names):
            return  # not in effect; `make` writes them when it is
        try:
            self._apply(names, limits, reset=True)
        except OSError as error:
            raise StepError.of(f"cgroup {'/'.join(names)}", error, hint=_hint(error)) from error

    def _apply(self, names: Names, limits: Limits, *, reset: bool) -> None:
        limits = values.effective(limits, container=len(names) == 3)
        wanted = values.controllers(limits)
        joined = [each for each in wanted if self.versions[each] == 1 and self._make_v1(names, each)]
        written = []
        for each in values.settings(limits, self.versions, reset=reset):
            if each.controller in wanted or os.path.isdir(self.folder(names, each.controller)):
                written.append(each)
        self._write_all(names, written)
        if limits.io or reset:
            self._write_io(names, limits, reset=reset)
        if reset and joined:
            self._gather(names, joined)

    def _write_all(self, names: Names, wanted: Iterable[values.Setting]) -> None:
        for each in self._ordered(names, list(wanted)):
            path = f"{self.folder(names, each.controller)}/{each.file}"
            version = self.versions[each.controller]
            text = each.text
            if each.field == "cpuset" and version == 1 and not text.strip():
                text = files.read(f"{os.path.dirname(path)}/../cpuset.cpus").decode()  # noqa: PTH120
            try:
                self._write(names, path, text, each.controller)
            except OSError as error:
                # Swap is not accounted on some hosts; then there is none to take away from the container.
                if each.field == "swap" and error.errno in _NO_FILE and self._default_swap(each, wanted):
                    continue
                raise

    def _default_swap(self, setting: values.Setting, wanted: Iterable[values.Setting]) -> bool:
        """Whether the setting means no swap or no limit, which needs no enforcing where swap is not accounted."""
        memory = next((each.text for each in wanted if each.field == "memory"), None)
        return setting.text in ("0", "max", "-1", memory)

    def _write(self, names: Names, path: str, text: str, controller: str) -> None:
        """Write to an interface file; on v2 it appears only once its controller is enabled above."""
        try:
            files.write(path, text)
        except OSError as error:
            if self.versions[controller] != 2 or error.errno not in _NO_FILE:
                raise
            self._enable(names, controller)
            files.write(path, text)

    def _ordered(self, names: Names, wanted: list[values.Setting]) -> list[values.Setting]:
        """v1 keeps memory <= memory + swap at every moment: the sum first when it is raised, last when lowered."""
        swap = next((each for each in wanted if each.field == "swap"), None)
        if swap is None or self.versions["memory"] != 1:
            return wanted
        try:
            now = int(files.read(f"{self.folder(names, 'memory')}/{swap.file}"))
        except OSError:
            return wanted
        raised = swap.text == "-1" or int(swap.text) >= now
        rest = [each for each in wanted if each is not swap]
        return [swap, *rest] if raised else [*rest, swap]

    def _write_io(self, names: Names, limits: Limits, *, reset: bool) -> None:
        version = self.versions["io"]
        folder = self.folder(names, "io")
        if version is None or not os.path.isdir(folder):
            return
        asked = {self.device(each.device): each for each in limits.io}
        for device in self._limited(folder, version) - set(asked) if reset else ():
            asked[device] = IoLimit()
        for device, limit in asked.items():
            if version == 2:
                self._write(names, f"{folder}/io.max", values.io_line(limit, device), "io")
                continue
            for file, line in values.io_v1(limit, device):
                self._write(names, f"{folder}/{file}", line, "io")

    def _limited(self, folder: str, version: int) -> set[str]:
        names = ("io.max",) if version == 2 else tuple(file for file, _ in values.io_v1(None, ""))
        found = set()
        for file in names:
            with contextlib.suppress(OSError):
                found |= {line.split()[0] for line in files.read(f"{folder}/{file}").decode().splitlines()}
        return found

    def device(self, device: str | None) -> str:
        """major:minor of an io limit's device."""
        try:
            return disk_number(device, os.fspath(self._layout.state))
        except ValueError as error:
            raise StepError(f"io limit: {error}", argument=device) from error

    def _enable(self, names: Names, controller: str) -> None:
        """Pass a v2 controller on, down to the level above `names`.

        From our parent; from the hierarchy's root where systemd, whose unit has been stopped, has taken it away above us.
        """
        parent = os.path.dirname(self.base())  # noqa: PTH120
        unit: tuple[str, ...] = ()
        if self._unit and controller not in files.read(f"{parent}/cgroup.controllers").decode().split():
            parent, unit = str(self.host.unified), tuple(self._unit.strip("/").split("/"))
        path = parent
        for part in (*unit, self._layout.cgroup, *names):
            with contextlib.suppress(FileNotFoundError):
                files.write(f"{path}/cgroup.subtree_control", f"+{controller}")
            path = f"{path}/{part}"

    def _make_v1(self, names: Names, controller: str) -> bool:
        path = self.folder(names, controller)
        made = files.make(path)
        if controller == "cpuset":
            self._fill_cpuset(names)
        return made

    def _fill_cpuset(self, names: Names) -> None:
        """A new v1 cpuset has no CPUs and no memory nodes, and takes no process before it has both (cpuset(7))."""
        parent = os.path.dirname(self.base("cpuset"))  # noqa: PTH120
        for part in (self._layout.cgroup, *names):
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not files.read(f"{parent}/{part}/{file}").strip():
                    files.write(f"{parent}/{part}/{file}", files.read(f"{parent}/{file}").decode().strip())
            parent = f"{parent}/{part}"

    def _gather(self, names: Names, joined: Iterable[str]) -> None:
        """Move what runs below `names` into v1 folders that were made just now."""
        for leaf in self._leaves(names):
            for controller in joined:
                depth = next(d for d in range(3, 0, -1) if os.path.isdir(self.folder(leaf[:d], controller)))
                if depth == len(names):
                    self._move(leaf, self.folder(leaf[:depth], controller))

    def _move(self, leaf: Names, folder: str) -> None:
        moved: set[int] = set()
        while left := set(self.processes(leaf)) - moved:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    files.write(f"{folder}/cgroup.procs", str(pid))
            moved |= left

    def _leaves(self, names: Names) -> Iterator[Names]:
        if len(names) == 3:
            yield names
            return
        folder = self.folder(names)
        for name in sorted(os.listdir(folder)):
            if os.path.isdir(f"{folder}/{name}"):
                yield from self._leaves((*names, name))

    # ending

    def kill(self, names: Names) -> None:
        """SIGKILL to every process in it and below (cgroup.kill, Linux 5.14)."""
        with contextlib.suppress(FileNotFoundError):
            files.write(f"{self.folder(names)}/cgroup.kill", "1")

    def remove(self, names: Names, *, timeout: float = 10.0) -> None:
        """Kill what is left and remove the folders in every hierarchy. Raises StepError after `timeout` seconds."""
        if self.host.unified is not None and self.exists(names):
            if self.populated(names):
                self.kill(names)
            self._remove(self.folder(names), timeout)
        for mount in sorted(set(self.host.v1.values())):
            self._remove("/".join((mount, self._layout.cgroup, *names)), timeout)
        if len(names) == 1:
            self._remove_base()

    def _remove(self, folder: str, timeout: float) -> None:
        """rmdir, again while processes that were killed are still dying."""
        end = time.monotonic() + timeout
        tries = 0
        while True:
            try:
                os.rmdir(folder)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() > end:
                    raise StepError.of(
                        "cannot remove a cgroup", error, hint=f"see {folder}/cgroup.procs"
                    ) from error
            self._remove_below(folder)
            time.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
            tries += 1

    def _remove_below(self, folder: str) -> None:
        """Folders that a process inside, or a creation cut short, left."""
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                path = f"{folder}/{name}"
                if os.path.isdir(path):
                    self._remove_below(path)
                    with contextlib.suppress(OSError):
                        os.rmdir(path)

    def _remove_base(self) -> None:
        """The instance's own folder, where this was its last stack."""
        for controller in (None, *self.host.v1):
            with contextlib.suppress(OSError):
                os.rmdir(self.base(controller))


def _hint(error: OSError) -> str | None:
    if error.errno == errno.EINVAL and str(error.filename).endswith("cpu.cfs_quota_us"):
        return "on cgroup v1 a group's or stack's `cpus` must not be less than what lies within it"
    return None
