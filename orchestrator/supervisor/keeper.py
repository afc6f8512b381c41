"""The keeper: parent and subreaper above supervisor and agent. Starts them again, reads orphans' ends, holds their logs.

In: the run folder; `agent.json` in it says how the agent is started, if one is wished for. Out: `orphans/PID-TICKS` files
for the next supervisor. It knows nothing of containers but their FIFOs' read ends, which it holds so that the last bytes
of one that dies meanwhile are kept; of the network it holds bound ports. Small, so that it need never change.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import suppress

from orchestrator.supervisor import facts, wire
from orchestrator.supervisor.children import ending
from orchestrator.supervisor.kernel import processes
from orchestrator.supervisor.seal import SELF

_LONGEST = 5.0  # seconds between two starts of a process that dies at once
_FAREWELL = 5.0  # seconds for the agent to come to the end of its step


class Again:
    """When a process that has ended may be started again: at once, but ever later where it ends soon."""

    def __init__(self) -> None:
        self._started, self._delay = 0.0, 0.0

    def left(self) -> float:
        """Seconds until then."""
        if time.monotonic() - self._started > 10:
            self._delay = 0.0
        return max(0.0, self._started + self._delay - time.monotonic())

    def started(self) -> None:
        self._delay = min(_LONGEST, max(0.05, self._delay * 2))
        self._started = time.monotonic()


class Keeper:
    def __init__(self, run: str, command: list[str]) -> None:
        self._run, self._command = run, command
        self._held: dict[str, list[int]] = {}
        self._link: socket.socket | None = None
        self._incoming = wire.Incoming()
        self._child, self._agent = 0, 0
        self._again, self._agent_again = Again(), Again()
        self._wake, signalled = socket.socketpair()
        for sock in (self._wake, signalled):
            sock.setblocking(False)
        self._signalled = signalled
        signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGHUP):  # a child ended; somebody wrote agent.json
            signal.signal(number, lambda *_: None)
        self._ending = False
        signal.signal(signal.SIGTERM, self._terminate)

    def keep(self) -> None:
        """Until told to stop, or the run folder is taken away: a supervisor is there and we are connected to it."""
        while self._link or os.path.isdir(self._run):
            if self._link is None:
                self._attach()
            pauses = [self._tend(), None if self._link else 0.02]
            waiting = [each for each in (self._link, self._wake) if each is not None]
            pause = min((each for each in pauses if each is not None), default=None)
            ready = wire.readable(waiting, pause)
            if self._wake in ready:
                with suppress(BlockingIOError):
                    self._wake.recv(4096)
            self._reap()
            if self._ending:  # systemd stops us: the others go too, the containers stay
                self._dismiss_agent()
                if self._child:
                    os.kill(self._child, signal.SIGTERM)
                else:  # an earlier keeper's
                    wire.ask_to_stop(f"{self._run}/supervisor.sock")
                return
            if self._link in ready and not self._listen():
                if self._agent:
                    os.kill(self._agent, signal.SIGTERM)
                return

    def _attach(self) -> None:
        try:
            self._link = wire.connect(f"{self._run}/supervisor.sock")
            self._incoming = wire.Incoming()
            kept = [each for each in self._held if each.startswith(wire.KEPT)]
            wire.send(self._link, {"op": "keep", "held": kept})
        except OSError:
            self._link = None
            if not self._child and self._absent("supervisor.lock") and not self._again.left():
                self._again.started()
                # Before 6.3 a root inside that made itself run our copy (`seal`) may have taken its x bits.
                with suppress(OSError):
                    os.chmod(SELF, 0o755)
                self._child = os.posix_spawn(SELF, self._command, dict(os.environ))

    def _tend(self) -> float | None:
        """The agent is there, if one is wished for. Seconds until to look again; None: when something happens."""
        wish = None if self._agent else facts.read_json(f"{self._run}/agent.json")
        if wish is None:
            return None
        if not self._absent("agent.lock"):
            return 1.0  # not our child: it was somebody else's, or an earlier keeper's
        left = self._agent_again.left()
        if not left:
            self._agent_again.started()
            try:
                self._agent = os.posix_spawn(wish["command"][0], wish["command"], wish["env"])
            except (OSError, LookupError, TypeError, ValueError) as error:
                print(f"cannot start the agent: {error}", file=sys.stderr, flush=True)
        return None if self._agent else self._agent_again.left()

    def _dismiss_agent(self) -> None:
        """It is gone when this returns: one that missed the supervisor in the middle of a step would start all again."""
        if self._agent:
            os.kill(self._agent, signal.SIGTERM)
        elif facts.read_json(f"{self._run}/agent.json") is not None:  # an earlier keeper's, which is ours now
            wire.ask_to_stop(f"{self._run}/agent.sock")
        else:  # there is none, or somebody's own
            return
        end = time.monotonic() + _FAREWELL
        while self._agent or not self._absent("agent.lock"):
            if time.monotonic() > end:
                # Held by a living agent: the pid in it is its own.
                with suppress(OSError, ValueError), open(f"{self._run}/agent.lock") as lock:
                    os.kill(self._agent or int(lock.read()), signal.SIGKILL)
                return
            wire.readable([self._wake], 0.02)
            with suppress(BlockingIOError):
                self._wake.recv(4096)
            self._reap()

    def _absent(self, name: str) -> bool:
        """Whether nobody holds that lock: one that we did not start may be there, or on its way."""
        lock = facts.sole(f"{self._run}/{name}", pid=False)
        if lock is not None:
            os.close(lock)
        return lock is not None

    def _reap(self) -> None:
        """Write down how each orphan ended, then let it go: a kill in between only has it written twice."""
        with suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                pid = found.si_pid
                if pid == self._child:
                    self._child = 0
                elif pid == self._agent:
                    self._agent = 0
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
                for id in [header["drop"]] if "drop" in header else self._beside(header.get("only")):
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

    def _beside(self, only: list[str] | None) -> list[str]:
        """What is held of containers that are not among `only`; None: all of them are."""
        return [
            each
            for each in self._held
            if only is not None and each not in only and not each.startswith(wire.KEPT)
        ]

    def _release(self, id: str) -> None:
        for fd in self._held.pop(id, ()):
            os.close(fd)

    def _terminate(self, *_: object) -> None:
        self._ending = True  # acted upon in `keep`, where no spawn is half done


def lock(run: str) -> int | None:
    """Become the keeper of the instance under `run`: the lock's descriptor, held to our end; None if there is one."""
    return facts.sole(f"{run}/keeper.lock", pid=False)


def main(run: str, lock: int, command: list[str]) -> None:
    """Keep the instance under `run`, whose lock we hold. `command` starts the supervisor."""
    with open("/proc/self/comm", "w") as comm:
        comm.write("orc-keeper")
    os.makedirs(f"{run}/orphans", mode=0o700, exist_ok=True)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
    Keeper(run, command).keep()
