"""What the kernel says of processes and time, and files that are written whole or not at all.

In: pids and paths. Out: numbers. A process is (pid, start ticks, boot id): a pid alone names nobody.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> str:
    """/proc/sys/kernel/random/boot_id; it cannot change while we run."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)), a zombie's too; None: no such process."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def zombie_status(pid: int, ticks: int | None) -> int | None:
    """The wait status of a process that has ended and that nobody has reaped yet: field 52 of /proc/PID/stat (proc(5));
    None if it is no zombie, or another process."""
    fields = _stat(pid)
    return int(fields[49]) if fields and fields[0] == b"Z" and int(fields[19]) == ticks else None


def _stat(pid: int) -> list[bytes] | None:
    """Fields 3 and on of /proc/PID/stat; what comes before may hold spaces and brackets."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).rpartition(b")")[2].split()
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return None


def oom_kills(paths: Iterable[str]) -> int:
    """The sum of `oom_kill N` in memory.events (v2) or memory.oom_control (v1); a missing file counts as 0."""
    total = 0
    for path in paths:
        with suppress(OSError, ValueError), open(path) as file:
            for line in file:
                if line.startswith("oom_kill "):
                    total += int(line.split()[1])
    return total


def write_json(path: str, data: Any) -> None:
    """Replace the file at `path` (rename(2)): whoever reads it sees the old or the new one."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps(data, separators=(",", ":")).encode())
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a file; None where there is none, or nothing that can be read."""
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def sole(path: str, *, pid: bool = True) -> int | None:
    """Be the only one of a kind: the descriptor of the lock at `path`, held to our end, with our pid in the file unless
    `pid` says not (yet); None where somebody has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if pid:
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd
