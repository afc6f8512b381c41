"""The namespaces that a group's containers share, kept by bind mounts: no process holds them.

In: group ids. Out: `Layout.group_run(id)`/net, ipc and uts. Whether they are there still is asked of the kernel at each
look, but not for each of them: poll(2) on mountinfo tells that no mount of this namespace came or went since
(proc_pid_mountinfo(5)).
"""

from __future__ import annotations

# ruff: noqa: PTH116
import errno
import os
import select
import threading
from collections.abc import Callable

from orchestrator.drivers.embedded.program import SHARED, group_program
from orchestrator.drivers.records import private_folders
from orchestrator.errors import StepError
from orchestrator.model.desired import GroupSpec
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import inline
from orchestrator.supervisor.kernel import mounts


class Pins:
    """Safe for several threads that work on different groups."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._base = os.fspath(layout.run / "groups")
        self._nsfs = os.stat("/proc/self/ns/net").st_dev
        self._right: set[str] = set()  # since the last change of any mount
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._mountinfo, select.POLLPRI)
        self._lock = threading.Lock()

    def __del__(self) -> None:
        os.close(self._mountinfo)

    def pinned(self, id: str) -> bool:
        """Whether all of them are."""
        with self._lock:
            if self._poll.poll(0):
                self._right.clear()
            if id in self._right:
                return True
            # Under the lock: a mount that goes after this is told at the next poll.
            right = self._check(id)
            if right:
                self._right.add(id)
            return right

    def pin(self, id: str, spec: GroupSpec) -> None:
        """Make new namespaces."""
        folder = f"{self._base}/{id}"
        try:
            self._prepare(id)
        except OSError as error:
            raise StepError.of("cannot make the group's folder", error) from error
        inline.run(group_program(spec, folder))

    def pin_again(self, id: str, member: Callable[[], int | None]) -> None:
        """Pin those of the process that `member` tells; afterwards it must be the same, or they may be another's."""
        pid = member()
        if pid is None:
            return  # nothing runs in it any more: the next start makes new ones
        self._prepare(id)
        for kind in SHARED:
            mounts.mount(f"/proc/{pid}/ns/{kind}", f"{self._base}/{id}/{kind}", "", mounts.MS_BIND)
        if member() != pid:
            self.unpin(id)
            raise StepError("what ran in the group has just ended", hint="the next pass starts it again")

    def unpin(self, id: str) -> None:
        for kind in SHARED:
            path = f"{self._base}/{id}/{kind}"
            for _ in range(8):  # a start that was repeated may have pinned twice
                try:
                    mounts.detach(path)
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.ENOENT):
                        break  # not mounted (any more)
                    raise StepError.of(f"cannot unpin {path}", error) from error

    def _prepare(self, id: str) -> None:
        """Empty files to mount on."""
        self.unpin(id)  # what a start that was cut short left
        private_folders(self._layout.run, f"{self._base}/{id}")
        for kind in SHARED:
            os.close(os.open(f"{self._base}/{id}/{kind}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _check(self, id: str) -> bool:
        try:
            return all(os.stat(f"{self._base}/{id}/{kind}").st_dev == self._nsfs for kind in SHARED)
        except OSError:
            return False
