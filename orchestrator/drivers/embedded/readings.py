"""Small files of the kernel that are read again and again, kept open: a pread(2) costs a fifth of open, read and close.

In: whose file it is, what it is called there, and its path. Out: the bytes that the kernel gives now, or None. Kept
descriptors are bounded by half of RLIMIT_NOFILE; beyond, files are opened each time. Safe for several threads.
"""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Set

from orchestrator.drivers.embedded.cgroups import Names
from orchestrator.errors import StepError

_SIZE = 65536


class Readings:
    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._room = soft // 2 if soft != resource.RLIM_INFINITY else 1 << 19
        self._kept: dict[Names, dict[str, tuple[str, int]]] = {}  # owner -> name -> path, descriptor
        # Held while reading: a descriptor that another thread has closed may be another file's by now.
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for files in self._kept.values():
            for _, fd in files.values():
                os.close(fd)

    def read(self, owner: Names, name: str, path: str) -> bytes | None:
        """The file's bytes; None where there is no file, or what it speaks of has ended. Another path than the last under
        this name takes its place. StepError: out of descriptors."""
        with self._lock:
            files = self._kept.setdefault(owner, {})
            kept = files.get(name)
            if kept is not None:
                if kept[0] == path:
                    try:
                        return os.pread(kept[1], _SIZE, 0)
                    except OSError:
                        pass  # ENODEV, ESRCH: the folder or the process is gone; there may be a new one
                self._close(files, name)
            return self._open(files, name, path)

    def keep(self, stack: str, owners: Set[Names]) -> None:
        """Close the files of owners of the stack that are not in `owners`."""
        with self._lock:
            for owner in [each for each in self._kept if each[0] == stack and each not in owners]:
                files = self._kept.pop(owner)
                for name in list(files):
                    self._close(files, name)

    def _open(self, files: dict[str, tuple[str, int]], name: str, path: str) -> bytes | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # it says nothing about the file
                raise StepError.of("cannot look at containers", error) from error
            return None
        files[name] = path, fd
        self._room -= 1
        try:
            data = os.pread(fd, _SIZE, 0)
        except OSError:
            self._close(files, name)
            return None
        if self._room < 0:
            self._close(files, name)
        return data

    def _close(self, files: dict[str, tuple[str, int]], name: str) -> None:
        os.close(files.pop(name)[1])
        self._room += 1
