"""The keeper: parent and subreaper above the supervisor. Starts it again, reads the ends of orphans, holds their logs.

In: the run folder. Out: `orphans/PID-TICKS` files for the next supervisor. It knows nothing of containers but their FIFOs'
read ends, which it holds so that the last bytes of one that dies meanwhile are kept. Small, so that it need never change.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import time
from contextlib import suppress

from orchestrator.supervisor import facts, wire
from orchestrator.supervisor.children import ending
from orchestrator.supervisor.kernel import processes
from orchestrator.supervisor.seal import SELF

_LONGEST = 5.0  # seconds between two starts of a supervisor that dies at once


class Keeper:
    def __init__(self, run: str, command: list[str]) -> None:
        self._run, self._command = run, command
        self._held: dict[str, list[int]] = {}
        self._link: socket.socket | None = None
        self._incoming = wire.Incoming()
        self._child = 0
        self._started, self._delay = 0.0, 0.0
        self._wake, signalled = socket.socketpair()
        for sock in (self._wake, signalled):
            sock.setblocking(False)
        self._signalled = signalled
        signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._ending = False
        signal.signal(signal.SIGTERM, self._terminate)

    def keep(self) -> None:
        """Until told to stop, or the run folder is taken away: a supervisor is there and we are connected to it."""
        while self._link or os.path.isdir(self._run):
            if self._link is None:
                self._attach()
            waiting = [each for each in (self._link, self._wake) if each is not None]
            ready = select.select(waiting, [], [], None if self._link else 0.02)[0]
            if self._wake in ready:
                with suppress(BlockingIOError):
                    self._wake.recv(4096)
            self._reap()
            if self._ending:  # systemd stops us: the supervisor goes too, the containers stay
                if self._child:
                    os.kill(self._child, signal.SIGTERM)
                return
            if self._link in ready and not self._listen():
                return

    def _attach(self) -> None:
        try:
            self._link = wire.connect(f"{self._run}/supervisor.sock")
            self._incoming = wire.Incoming()
            wire.send(self._link, {"op": "keep"})
            self._delay = 0.0 if time.monotonic() - self._started > 10 else self._delay
        except OSError:
            self._link = None
            if not self._child and self._absent() and time.monotonic() - self._started >= self._delay:
                self._delay = min(_LONGEST, max(0.05, self._delay * 2))
                self._started = time.monotonic()
                # Before 6.3 a root inside that made itself run our copy (`seal`) may have taken its x bits.
                with suppress(OSError):
                    os.chmod(SELF, 0o755)
                self._child = os.posix_spawn(SELF, self._command, dict(os.environ))

    def _absent(self) -> bool:
        """Whether no supervisor holds its lock: one that we did not start may be there, or on its way."""
        lock = os.open(f"{self._run}/supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def _reap(self) -> None:
        """Write down how each orphan ended, then let it go: a kill in between only has it written twice."""
        with suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                pid = found.si_pid
                if pid == self._child:
                    self._child = 0
                else:
                    end = {**ending(found.si_code, found.si_status), "ended": facts.boottime()}
                    with suppress(OSError):  # a full disk: this end stays unknown
                        facts.write_json(f"{self._run}/orphans/{pid}-{facts.start_ticks(pid)}", end)
                os.waitid(os.P_PID, pid, os.WEXITED)

    def _listen(self) -> bool:
        """Take in what the supervisor says; False when it says stop."""
        assert self._link is not None
        try:
            more = self._incoming.receive(self._link)
            while (frame := self._incoming.take()) is not None:
                header = frame.header
                if "stop" in header:
                    return False
                for id in (
                    [header["drop"]]
                    if "drop" in header
                    else self._held.keys() - header.get("only", self._held)
                ):
                    self._release(id)
                if "hold" in header:
                    self._release(header["hold"])
                    self._held[header["hold"]] = frame.fds
        except OSError:
            more = False
        if not more:  # it died; we hold what we have until the next one says what runs
            self._link.close()
            self._incoming.close()
            self._link = None
        return True

    def _release(self, id: str) -> None:
        for fd in self._held.pop(id, ()):
            os.close(fd)

    def _terminate(self, *_: object) -> None:
        self._ending = True  # acted upon in `keep`, where no spawn is half done


def lock(run: str) -> int | None:
    """Become the keeper of the instance under `run`: the lock's descriptor, held to our end; None if there is one."""
    fd = os.open(f"{run}/keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def main(run: str, lock: int, command: list[str]) -> None:
    """Keep the instance under `run`, whose lock we hold. `command` starts the supervisor."""
    with open("/proc/self/comm", "w") as comm:
        comm.write("orc-keeper")
    os.makedirs(f"{run}/orphans", mode=0o700, exist_ok=True)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
    Keeper(run, command).keep()
