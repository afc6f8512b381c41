"""Processes: clone3, pidfds, namespaces, descriptors. Thin; the words are the kernel's."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
from collections.abc import Iterable

from orchestrator.supervisor.kernel import CallError, call

NAMESPACES = {  # clone(2), setns(2)
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
CLONE_PIDFD = 0x1000
CLONE_PARENT = 0x8000
CLONE_INTO_CGROUP = 0x200000000
CLOSE_RANGE_CLOEXEC = 4
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

_CLONE_ARGS = struct.Struct(
    "=11Q"
)  # flags pidfd child_tid parent_tid exit_signal stack size tls set_tid size cgroup
_PIDFD_INFO = struct.Struct(
    "=QQ11Ii"
)  # linux/pidfd.h: mask, cgroupid, pid..fsgid, exit_code; 64 bytes with padding
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_GET_INFO = 0xC040FF0B
_LAST = 0xFFFFFFFF


def clone3(flags: int, *, cgroup: int | None = None, ends: int = 17) -> tuple[int, int]:
    """clone3(2) like fork: (pid, pidfd) in the parent, (0, -1) in the child. `cgroup`: a v2 folder's descriptor.

    `ends` is the signal sent to the parent at the end (SIGCHLD); 0 with CLONE_PARENT, which takes the caller's own.
    """
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup is not None else 0)
    fields = (flags, ctypes.addressof(pidfd), 0, 0, ends, 0, 0, 0, 0, 0, cgroup or 0)
    arguments = ctypes.create_string_buffer(_CLONE_ARGS.pack(*fields), _CLONE_ARGS.size)
    pid = call("clone3", arguments, _CLONE_ARGS.size, about=f"flags {flags:#x}")
    return pid, pidfd.value if pid else -1


def setns(fd: int, flags: int, *, about: str = "") -> None:
    call("setns", fd, flags, about=about)


def unshare(flags: int, *, about: str = "") -> None:
    call("unshare", flags, about=about)


def prctl(option: int, value: int, third: int = 0, *, about: str = "") -> int:
    return call("prctl", option, value, third, 0, 0, about=about)


def pidfd_open(pid: int) -> int:
    """A close-on-exec descriptor of a process; raises ProcessLookupError when there is none."""
    try:
        return call("pidfd_open", pid, 0, about=str(pid))
    except CallError as error:
        if error.errno == errno.ESRCH:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
        raise


def pidfd_send_signal(pidfd: int, signum: int) -> bool:
    """False when the process has ended."""
    try:
        call("pidfd_send_signal", pidfd, signum, None, 0, about=f"signal {signum}")
    except CallError as error:
        if error.errno == errno.ESRCH:
            return False
        raise
    return True


def pidfd_exit(pidfd: int) -> int | None:
    """The wait status of an ended process after anybody reaped it (PIDFD_INFO_EXIT, Linux 6.15); None otherwise."""
    buffer = bytearray(64)
    struct.pack_into("=Q", buffer, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer, True)
    except OSError:
        return None
    mask, *_, status = _PIDFD_INFO.unpack_from(buffer)
    return int(status) if mask & _PIDFD_INFO_EXIT else None


def ignored_signals() -> tuple[int, ...]:
    """What execve(2) would keep ignored: those that Python ignores, those that we inherited so, and 32 and 33, which the
    C library hides (nptl(7)) and which may be among the latter."""
    ignored = (number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN)
    return (*map(int, ignored), 32, 33)


def default_signals(numbers: Iterable[int]) -> None:
    """Back to the default disposition (rt_sigaction(2))."""
    for number in numbers:
        call("rt_sigaction", number, bytes(32), None, 8, about=f"signal {number}")


def close_others(keep: set[int]) -> None:
    """close_range(2) over everything from 3 up but `keep`."""
    first = 3
    for fd in sorted(each for each in keep if each >= 3):
        if fd > first:
            call("close_range", first, fd - 1, 0)
        first = fd + 1
    call("close_range", first, _LAST, 0)


def close_at_exec(first: int) -> None:
    """Mark every descriptor from `first` up close-on-exec."""
    call("close_range", first, _LAST, CLOSE_RANGE_CLOEXEC)
