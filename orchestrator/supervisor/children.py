"""Children on their way: what a launched process reports, and how it ended.

In: a `Launched` child. Out: callbacks for a pid in the report, for its end without an error, and for the process's end,
after which it is reaped. The end of a launched child's report always comes before the end of its process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from orchestrator.supervisor.launcher import Launched
from orchestrator.supervisor.loop import Loop


def peek(pid: int) -> dict[str, int] | None:
    """{"code": N} or {"signal": N} of a child that has ended, which stays a zombie; None if it has not."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None if found is None else ending(found.si_code, found.si_status)


def reap(pid: int) -> None:
    """Let go of a child that has ended. After its end was recorded: a kill in between leaves the zombie to the keeper."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def ending(code: int, status: int) -> dict[str, int]:
    """si_code and si_status of waitid(2) as {"code"} or {"signal"}."""
    return {"code" if code == os.CLD_EXITED else "signal": status}


def sweep(seen: frozenset[int]) -> frozenset[int]:
    """The zombies among our children; those that were so at the last sweep (`seen`) are nobody's, and reaped: a process
    on its way into a container whose first child was killed before it could name it."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        pids = [int(word) for word in file.read().split()]
    dead = frozenset(pid for pid in pids if peek(pid) is not None)
    for pid in dead & seen:
        reap(pid)
    return dead - seen


class Child:
    """A child and its report. The caller sets the callbacks before the loop goes on."""

    def __init__(self, loop: Loop, launched: Launched) -> None:
        self._loop, self._pid, self._pidfd, self._report = loop, launched.pid, launched.pidfd, launched.report
        self._data = b""
        self.error: dict[str, Any] | None = None
        self.entered: Callable[[int], None] = lambda pid: None
        self.executed: Callable[[], None] = lambda: None  # the report ended without an error
        self.ended: Callable[[dict[str, int]], None] = lambda status: None
        loop.watch(self._report, self.finish)
        loop.watch(self._pidfd, self._end)

    def finish(self) -> None:
        """Take in what the report holds now."""
        while self._report >= 0 and self._read():
            pass

    def _read(self) -> bool:
        """One read; False when there is nothing (more) to read now."""
        try:
            data = os.read(self._report, 65536)
        except BlockingIOError:
            return False
        self._data += data
        *lines, self._data = self._data.split(b"\n")
        for line in lines:
            each = json.loads(line)
            if "pid" in each:
                self.entered(each["pid"])
            else:
                self.error = each
        if data:
            return True
        self._loop.unwatch(self._report)
        os.close(self._report)
        self._report = -1
        if self.error is None:
            self.executed()
        return False

    def _end(self) -> None:
        self.finish()  # a launched child was its only writer; of one that entered, the pid is in it by now
        status = peek(self._pid)
        if status is not None:
            self._loop.unwatch(self._pidfd)
            self._pidfd = -1  # its owner closes it
            self.ended(status)
            reap(self._pid)
