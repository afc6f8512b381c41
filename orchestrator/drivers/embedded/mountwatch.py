"""Whether the mounts inside a running container are as they were when it started.

In: names with their processes, and the digest that was taken at the start, a file in the container's run folder. Out: yes
or no. /proc/PID/mountinfo is kept open: the kernel tells by poll(2) that a mount came or went (proc_pid_mountinfo(5)), so
that it is read again only then. Only root outside can do that: a container has no right to mount.
"""

from __future__ import annotations

import hashlib
import os
import resource
import select
import threading
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.drivers.embedded.cgroups import Names
from orchestrator.ports.layout import Layout

_NAME = "mounts"


@dataclass(slots=True)
class _Watch:
    """`fd` -1: no room for one more, so that it is read each time. `same`: None is not known (any more)."""

    pid: int
    fd: int
    same: bool | None = None


class MountWatch:
    """Safe for several threads. A descriptor keeps a mount namespace alive: `keep` lets go of those that have ended."""

    def __init__(self, layout: Layout) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._layout = layout
        self._room = soft // 4 if soft != resource.RLIM_INFINITY else 1 << 18
        self._poll = select.epoll()
        self._watches: dict[Names, _Watch] = {}
        self._owners: dict[int, Names] = {}  # by descriptor
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for fd in self._owners:
            os.close(fd)

    def record(self, names: Names, pid: int) -> None:
        """Take down how the mounts are; nothing where the process has ended already."""
        with suppress(OSError):
            self._file(names).write_text(_digest(Path(f"/proc/{pid}/mountinfo").read_bytes()))

    def hear(self) -> None:
        """Ask the kernel whether any mounts changed: what `same` says then is as of now."""
        with self._lock:
            for fd, _ in self._poll.poll(0):
                self._watches[self._owners[fd]].same = None

    def same(self, names: Names, pid: int) -> bool:
        """Whether they were still so at the last `hear`; True where nobody knows."""
        with self._lock:
            watch = self._watches.get(names)
            if watch is None or watch.pid != pid:
                self._drop(names)
                watch = self._watches[names] = self._open(names, pid)
            if watch.same is None or watch.fd < 0:
                watch.same = self._compare(names, watch)
            return watch.same

    def keep(self, stack: str, names: Set[Names]) -> None:
        """Stop watching what is the stack's and not in `names`."""
        with self._lock:
            for each in [each for each in self._watches if each[0] == stack and each not in names]:
                self._drop(each)

    def forget(self, names: Names) -> None:
        """Stop watching this one."""
        with self._lock:
            self._drop(names)

    def _open(self, names: Names, pid: int) -> _Watch:
        if self._room <= 0:
            return _Watch(pid, -1)
        try:
            fd = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return _Watch(pid, -1)
        self._room -= 1
        self._owners[fd] = names
        self._poll.register(fd, select.EPOLLPRI)
        return _Watch(pid, fd)

    def _drop(self, names: Names) -> None:
        watch = self._watches.pop(names, None)
        if watch is not None and watch.fd >= 0:
            self._poll.unregister(watch.fd)
            del self._owners[watch.fd]
            os.close(watch.fd)
            self._room += 1

    def _compare(self, names: Names, watch: _Watch) -> bool:
        try:
            wanted = self._file(names).read_text()
            if watch.fd < 0:
                text = Path(f"/proc/{watch.pid}/mountinfo").read_bytes()
            else:
                os.lseek(watch.fd, 0, os.SEEK_SET)
                with open(watch.fd, "rb", closefd=False) as file:
                    text = file.read()
        except OSError:
            return True  # an older version started it, or it has just ended
        return not text or _digest(text) == wanted

    def _file(self, names: Names) -> Path:
        return self._layout.container_run(names[-1]) / _NAME


def _digest(mountinfo: bytes) -> str:
    """Of mount points, their flags and types. Not of the roots: they change with a rename of what was bound."""
    seen = []
    for line in mountinfo.decode(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, _, point, flags, *_ = left.split(" ")
        seen.append(f"{point} {flags} {right.split(' ', 1)[0]}")
    return hashlib.sha256("\n".join(seen).encode(errors="surrogateescape")).hexdigest()
