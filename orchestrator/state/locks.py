"""The lock of a stack: whoever holds it is its only executor and prober. flock(2), so it ends with its holder's life.

In: a path and this process's command. Out: a held lock. The holder writes its pid and command into the file, for messages
alone: the truth is the kernel's lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import ConflictError, HostError

PAUSE = 0.05


class StackLock:
    """`with StackLock(path, command=...).acquire(wait=True, timeout=10): ...`. Not shared between threads."""

    def __init__(self, path: Path, *, stack: str, command: str) -> None:
        self.path = path
        self.stack = stack
        self.command = command
        self._fd: int | None = None

    def acquire(self, *, wait: bool, timeout: float | None = None) -> Self:
        """Takes the lock; `timeout` in seconds (None: for ever) counts only with `wait`. ConflictError names the holder."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(
                f"{self.path}: {(error.strerror or str(error)).lower()}", hint="run as root, or use --root"
            ) from error
        try:
            self._take(fd, wait=wait, timeout=timeout)
            with contextlib.suppress(OSError):  # on a full disk nobody is told who it is
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()} {self.command}\n".encode(), 0)
        except OSError as error:
            os.close(fd)
            raise HostError(f"{self.path}: {(error.strerror or str(error)).lower()}") from error
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def _take(self, fd: int, *, wait: bool, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise
            if not wait or (end is not None and time.monotonic() >= end):
                raise ConflictError(
                    f"stack {self.stack} is held by {self._holder(fd)}",
                    hint="wait for it to end, then run this again",
                )
            time.sleep(PAUSE)

    def _holder(self, fd: int) -> str:
        pid, _, command = os.pread(fd, 256, 0).decode(errors="replace").strip().partition(" ")
        return f"process {pid} ({command})" if pid else "another process"

    def release(self) -> None:
        """Lets go; the file stays, so that nobody locks a file that is no longer there."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
