"""One exec: the child that enters a container, then the process inside, and their one answer.

In: the launched first child. Out: an exit code on the connection; 124 past the time limit. A process inside does not
outlive the connection that asked for it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from orchestrator.supervisor.children import Child, peek, reap
from orchestrator.supervisor.connection import Connection
from orchestrator.supervisor.kernel import processes
from orchestrator.supervisor.launcher import Launched
from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.terminal import Passage


class Visit:
    """One exec: the child that enters, then the process inside, and their one answer."""

    def __init__(
        self,
        loop: Loop,
        connection: Connection,
        launched: Launched,
        timeout: float | None,
        passage: Passage | None,
    ) -> None:
        self._loop, self._connection, self._passage = loop, connection, passage
        self._first, self._first_pidfd = Child(loop, launched), launched.pidfd
        self._first.entered = self._entered
        self._first.ended = self._first_ended
        self._pid, self._pidfd = 0, -1
        self._status: dict[str, int] | None = None
        self._expired = self._doomed = False
        self._timer = loop.later(timeout, self._expire) if timeout is not None else None
        connection.closed.append(self.kill)  # nobody is left to whom its end could be told

    def kill(self) -> None:
        """End the process inside and what it started, now or as soon as it is there: the first child must still say which
        it is. It leads a group of its own, whose number is nobody else's before it is reaped."""
        self._doomed = True
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):  # on its way: it has no group yet
                os.killpg(self._pid, signal.SIGKILL)
            processes.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _expire(self) -> None:
        self._expired = True
        self.kill()

    def _entered(self, pid: int) -> None:
        self._pid, self._pidfd = pid, processes.pidfd_open(pid)
        self._loop.watch(self._pidfd, self._ended)
        if self._doomed:
            self.kill()

    def _first_ended(self, status: dict[str, int]) -> None:
        os.close(self._first_pidfd)
        if not self._pid:
            self._answer(status)

    def _ended(self) -> None:
        status = peek(self._pid)
        if status is not None:
            self._loop.unwatch(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            reap(self._pid)
            self._answer(status)

    def _answer(self, status: dict[str, int]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._passage is not None:
            self._passage.receive()  # the master goes before the end, however quick that was
            self._passage.close()
        self._first.finish()
        self._connection.closed.remove(self.kill)
        if self._expired:
            self._connection.answer(124)
        else:
            conclude(self._connection, self._first, status)


def conclude(connection: Connection, child: Child, status: dict[str, int]) -> None:
    """Tell how a run or an exec ended: its error, or its exit code (128 + N for signal N)."""
    if child.error is not None:
        connection.fail(child.error)
    else:
        connection.answer(status["code"] if "code" in status else 128 + status["signal"])
