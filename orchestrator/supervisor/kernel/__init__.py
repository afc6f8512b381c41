"""The system calls that Python's library does not have, by number, for x86_64 and aarch64.

In: plain values. Out: results, or `CallError` with the call's name and argument. The only user of ctypes; PyDLL, so that
the GIL is kept over a clone. One module for each concept: processes, mounts, privileges.
"""

from __future__ import annotations

import ctypes
import errno as errors
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# name -> (x86_64, aarch64); from 424 on the numbers are common to all architectures (syscalls(2))
_NUMBERS = {
    "rt_sigaction": (13, 134),
    "setns": (308, 268),
    "unshare": (272, 97),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "capset": (126, 91),
    "renameat2": (316, 276),
    "seccomp": (317, 277),
    "pidfd_send_signal": (424, 424),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "quotactl_fd": (443, 443),
    "openat2": (437, 437),
    "mount_setattr": (442, 442),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)
_NUMBER = {name: ctypes.c_long(numbers[_COLUMN]) for name, numbers in _NUMBERS.items()}

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
# Lets other threads of a driver go on: making a network namespace takes the kernel a millisecond.
_releasing = ctypes.CDLL(None, use_errno=True).syscall
_releasing.restype = ctypes.c_long
_LONG = ("unshare",)

SUPPORTED = platform.machine() in ("x86_64", "aarch64")


class CallError(OSError):
    """A failed system call: `call` is its name, `argument` what it was about (a path, a name).

    `text` says it in plain words where the errno's own would mislead.
    """

    def __init__(self, code: int, call: str, argument: str = "", *, text: str | None = None) -> None:
        super().__init__(code, os.strerror(code))
        self.call = call
        self.argument = argument
        self.text = text

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        what = f"{self.call} {self.argument}" if self.argument else self.call
        return f"{what}: {os.strerror(self.errno or 0).lower()}"


@contextmanager
def naming(name: str, about: str) -> Iterator[None]:
    """Turns an OSError of Python's own wrappers into a CallError of `name` about `about`."""
    try:
        yield
    except CallError:
        raise
    except OSError as error:
        raise CallError(error.errno or errors.EIO, name, about) from error


def call(name: str, *arguments: object, about: str = "") -> int:
    """syscall(2) by name. ints are passed as C long (plain ints would be cut to 32 bits), bytes and buffers by address."""
    if not SUPPORTED:
        raise CallError(errors.ENOSYS, name, platform.machine())
    prepared = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = (_releasing if name in _LONG else _syscall)(_NUMBER[name], *prepared)
    if result < 0:
        raise CallError(ctypes.get_errno(), name, about)
    return result
