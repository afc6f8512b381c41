"""Whether a container's processes are in its cgroups, in every hierarchy, and how they get back there.

In: names and the main process. Out: yes or no; moves. Must not make a cgroup.
"""

from __future__ import annotations

# ruff: noqa: PTH112, PTH116, PTH119, PTH208
import os
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress

from orchestrator.drivers.embedded import files
from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.drivers.embedded.readings import Readings

_V1_NAMES = {"io": "blkio"}
_UNLIMITED = {
    "memory": ("memory.limit_in_bytes", 1 << 60),
    "pids": ("pids.max", 0),
    "cpu": ("cpu.cfs_quota_us", 0),
}
_ROUNDS = 8  # of moving what was born outside meanwhile


class Belonging:
    """Safe for several threads that work on different names."""

    def __init__(self, cgroups: Cgroups, readings: Readings) -> None:
        self._cgroups = cgroups
        self._readings = readings
        self._right: dict[Names, bytes] = {}  # /proc/PID/cgroup as it was when it was right

    def holds(self, names: Names, pid: int) -> bool:
        """Whether the process is where it was born; also when it has just ended."""
        raw = self._readings.read(names, "cgroup", f"/proc/{pid}/cgroup")
        if raw is None or raw == self._right.get(names):
            return True
        right = _lies(raw, self._wanted(names))
        if right:
            self._right[names] = raw
        return right

    def gather(self, names: Names, pid: int) -> None:
        """Move the process, and all others of its pid namespace, back."""
        namespace, wanted = os.stat(f"/proc/{pid}/ns/pid").st_ino, self._wanted(names)
        folders = (self._cgroups.folder(names), *self._cgroups.joins(names))
        for _ in range(_ROUNDS):
            strays = list(_strays(namespace, wanted))
            if not strays:
                return
            for stray in strays:
                for folder in folders:
                    with suppress(ProcessLookupError):
                        files.write(f"{folder}/cgroup.procs", str(stray))

    def keep(self, stack: str, names: Set[Names]) -> None:
        """Forget what is the stack's and not in `names`."""
        for each in [each for each in self._right if each[0] == stack and each not in names]:
            self._right.pop(each, None)

    def _wanted(self, names: Names) -> Mapping[str, str]:
        """Controller as /proc names it ("" for v2) -> how the path must end."""
        base = os.path.basename(self._cgroups.base())
        wanted = {"": "/".join(("", base, *names))}
        for controller in self._cgroups.host.v1:
            for depth in range(len(names), 0, -1):
                folder = self._cgroups.folder(names[:depth], controller)
                if os.path.isdir(folder):
                    # One above the container may be there for a sibling's sake alone, made after this one was born.
                    if depth == len(names) or _limits(folder, controller):
                        wanted[_V1_NAMES.get(controller, controller)] = "/".join(("", base, *names[:depth]))
                    break
        return wanted


def _limits(folder: str, controller: str) -> bool:
    """Whether a v1 folder has a limit of its own."""
    if controller not in _UNLIMITED:
        return False
    file, unlimited = _UNLIMITED[controller]
    try:
        text = files.read(f"{folder}/{file}").decode().strip()
    except OSError:
        return False
    return text not in ("max", "-1") and not 0 < unlimited < int(text)


def _lies(raw: bytes, wanted: Mapping[str, str]) -> bool:
    """Whether a /proc/PID/cgroup (cgroups(7)) tells of the wanted folders, or of folders below them."""
    for line in raw.decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        for each in controllers.split(","):
            if each in wanted and f"{wanted[each]}/" not in f"{path}/":
                return False
    return True


def _strays(namespace: int, wanted: Mapping[str, str]) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                ours = os.stat(f"/proc/{name}/ns/pid").st_ino == namespace
                if ours and not _lies(files.read(f"/proc/{name}/cgroup"), wanted):
                    yield int(name)
