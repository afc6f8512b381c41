"""A terminal for a process inside a container: its slave lies in the container's devpts, its master goes to the client.

In: the operation OpenTerminal, in the process that enters. Out: the master, sent through a socket pair to the supervisor
(`Passage`), which hands it on and keeps nothing. Nothing of the host's terminals is ever seen inside.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable

from orchestrator.supervisor import program as ops
from orchestrator.supervisor import wire
from orchestrator.supervisor.kernel import CallError, mounts, naming
from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.mounting import Context

_TIOCGPTPEER, _TIOCSPTLCK = 0x5441, 0x40045431  # ioctl_tty(2); the same on x86_64 and aarch64


def open_terminal(context: Context, each: ops.OpenTerminal) -> None:
    pts = mounts.open_beneath(context.root, "/dev/pts", os.O_PATH | os.O_DIRECTORY, symlinks=False)
    if (
        mounts.filesystem(pts) != mounts.DEVPTS
    ):  # then `ptmx` in it is the kernel's: nobody can put another one there
        raise CallError(errno.ENODEV, "open", "/dev/pts", text="/dev/pts inside is not a devpts file system")
    with naming("open", "/dev/pts/ptmx"):
        master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pts)
        fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
        # Not by its name: that is looked up in a tree of which others inside have a say.
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        resize(slave, each.rows, each.columns)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    with naming("sendmsg", "the terminal's master"), socket.socket(fileno=context.passage) as passage:
        wire.send_some(passage, b"m", (master,))
    for fd in (pts, master, slave):
        os.close(fd)


def resize(terminal: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ on either end; the foreground processes are told by SIGWINCH."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Passage:
    """The supervisor's end of the socket pair: calls `arrived` with the master, which it closes afterwards."""

    def __init__(self, loop: Loop, arrived: Callable[[int], None]) -> None:
        self._loop, self._arrived = loop, arrived
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.entrance = theirs.detach()
        loop.watch(self._ours.fileno(), self.receive)

    def receive(self) -> None:
        """Take in what is there, and close where nothing more can come."""
        if self._ours.fileno() < 0:
            return
        try:
            _, fds, _, _ = socket.recv_fds(self._ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        self.close()
        for fd in fds:
            try:
                self._arrived(fd)
            finally:
                os.close(fd)

    def close(self) -> None:
        if self._ours.fileno() >= 0:
            self._loop.unwatch(self._ours.fileno())
            self._ours.close()
