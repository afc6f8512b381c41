"""One id that the supervisor knows: its process record on disk, its log FIFOs and ring, its exits.

In: a launch's facts, or the record of an earlier supervisor. The record (`process.json` in the container's run folder) is
whole or absent, and written before the process does anything: (pid, start ticks, boot id) name the process for good.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator.supervisor import facts, journal
from orchestrator.supervisor.logs import Ring

RECORD = "process.json"
_STREAMS = ("stdout", "stderr")
_OURS = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(slots=True)
class Container:
    """`pid` None: not running. `own`: a child of this very process, so that we reap it. `before`: oom kills at launch.
    `fault`: why it is being stopped, where it is to blame."""

    id: str
    folder: str
    journal: str
    logs: dict[str, Any]
    oom_files: list[str]
    cgroup: str | None
    cgroups: list[str]
    new: list[str]
    starts: int = 0
    started: float | None = None
    pid: int | None = None
    ticks: int | None = None
    before: int = 0
    stopping: bool = False
    fault: str | None = None
    own: bool = True
    pidfd: int = -1
    fifos: tuple[int, ...] = ()
    ring: Ring | None = None
    exits: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=journal.KEPT))

    @property
    def running(self) -> bool:
        return self.pid is not None

    def state(self) -> dict[str, Any]:
        """As `ProcessState` has it."""
        facts = {"id": self.id, "pid": self.pid, "started": self.started, "starts": self.starts}
        return {**facts, "exits": list(self.exits)}

    def save(self, boot: str) -> None:
        """Write the record, also where its folder is gone."""
        os.makedirs(self.folder, 0o700, exist_ok=True)
        names = "id journal logs oom_files cgroup cgroups new starts started pid ticks before stopping fault"
        record = {name: getattr(self, name) for name in names.split()}
        facts.write_json(f"{self.folder}/{RECORD}", {**record, "boot": boot})

    @classmethod
    def load(cls, folder: str, boot: str) -> Container | None:
        """From the record of this boot; None where there is none."""
        record = facts.read_json(f"{folder}/{RECORD}")
        if record is None or record.pop("boot", None) != boot:
            return None
        try:
            found = cls(folder=folder, **record)
        except TypeError:  # of a version that knows other fields
            return None
        found.own = False
        found.exits.extend(journal.read(found.journal))
        return found

    def open_logs(self) -> None:
        """Open our ends of the FIFOs, making them where missing. O_RDWR: no end of a reader ends them."""
        with suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        fds: list[int] = []
        try:
            for stream, name in enumerate(_STREAMS, 1):
                fd = self._deleted(stream, name)
                if fd < 0:
                    with suppress(FileExistsError):
                        os.mkfifo(f"{self.folder}/{name}", 0o600)
                    fd = self._open(name, _OURS)
                fds.append(fd)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        self.fifos = tuple(fds)
        self.ring = Ring(self.logs["folder"], self.logs["max_size"], self.logs["files"])

    def child_ends(self) -> list[int]:
        """Blocking descriptors of the FIFOs for the container; the caller closes them."""
        return [self._open(name, os.O_RDWR | os.O_CLOEXEC) for name in _STREAMS]

    def _deleted(self, stream: int, name: str) -> int:
        """The FIFO that a running process has as its output while somebody has deleted its name; -1: there is none."""
        if self.pid is None or os.path.lexists(f"{self.folder}/{name}"):
            return -1
        path = f"/proc/{self.pid}/fd/{stream}"
        with suppress(OSError):
            # What it put there since may be anything, and opening a device could do something: look first.
            if stat.S_ISFIFO(os.stat(path).st_mode) and facts.start_ticks(self.pid) == self.ticks:
                return os.open(path, _OURS)
        return -1

    def _open(self, name: str, flags: int) -> int:
        return os.open(f"{self.folder}/{name}", flags | os.O_NOFOLLOW)

    def pump(self, stream: int) -> int:
        """Move what waits in one FIFO (1 stdout, 2 stderr) into the ring."""
        return self.ring.pump(self.fifos[stream - 1], stream) if self.ring and self.fifos else 0

    def drain(self) -> None:
        """Everything that the ended process left; bounded, because a FIFO's name may have been handed on."""
        for stream in (1, 2):
            for _ in range(64):
                if not self.pump(stream):
                    break

    def close(self) -> None:
        """Close every descriptor; those that are watched must be unwatched before."""
        for fd in (*self.fifos, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.fifos, self.pidfd = (), -1
        if self.ring:
            self.ring.close()

    def remove(self) -> None:
        """Take our files out of the run folder, and the folder if nothing else is in it."""
        for name in (RECORD, *_STREAMS):
            with suppress(FileNotFoundError):
                os.unlink(f"{self.folder}/{name}")
        with suppress(OSError):
            os.rmdir(self.folder)
