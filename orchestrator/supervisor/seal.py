"""Keeps the host's Python binary out of containers' reach: we run from a sealed copy in memory (memfd_create(2)).

While a container is set up, /proc/PID/exe of its first process is our interpreter; a root inside could open it for writing
(CVE-2019-5736). Of a sealed memfd nobody can. In: nothing. Out: the same program again, as the copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys

SELF = "/proc/self/exe"
_MFD_EXEC = 0x10  # Linux 6.3: needed where vm.memfd_noexec is set, unknown before
_F_SEAL_EXEC = 0x20


def reexec() -> None:
    """Start this program again from a sealed copy of its interpreter; returns if it runs from one already."""
    path = os.readlink(SELF)
    if path.startswith("/memfd:"):
        return
    fd = _memfd()
    with open(SELF, "rb") as source:
        size, done = os.fstat(source.fileno()).st_size, 0
        while done < size:
            done += os.sendfile(fd, source.fileno(), done, size - done)
    fcntl.fcntl(
        fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE,
    )
    with contextlib.suppress(OSError):  # Linux 6.3: nor does anybody take its permission to be executed away
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_EXEC)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    # argv[0] tells Python where its library is; a libpython beside the binary is found by name
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{os.path.dirname(os.path.dirname(path))}/lib"}
    os.execve(fd, [path, *sys.orig_argv[1:]], environment)


def _memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("python", flags | _MFD_EXEC)
    except OSError:
        return os.memfd_create("python", flags)
