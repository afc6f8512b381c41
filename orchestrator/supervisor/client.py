"""What drivers call: launch, run, exec, signal and look, answered by the supervisor of this instance.

In: programs and ids. Out: process states, exit codes, `LaunchError`. Thread-safe: each request takes a connection of its
own from a pool, so a slow one holds up no other. Starting keeper and supervisor is in `start`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import HostError, StepError
from orchestrator.model.observed import Exit
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import agent, start, wire
from orchestrator.supervisor.program import JoinCgroup, Program, to_wire
from orchestrator.supervisor.records import exit_of, read_exits
from orchestrator.supervisor.terminal import resize

_SURE = 1.0  # seconds

__all__ = ["LaunchError", "LogTarget", "ProcessState", "Supervisor", "Visit", "read_exits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTarget:
    """Where a process's output goes: a ring of `files` files of at most `max_size` bytes each in `folder`."""

    folder: str
    max_size: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """What the supervisor knows of one id. `pid` None: not running. `started`: CLOCK_BOOTTIME seconds of the current or
    last start; `exits` newest last, at most 16."""

    id: str
    pid: int | None
    started: float | None
    starts: int
    exits: tuple[Exit, ...]


class LaunchError(StepError):
    """An operation of a program failed: `operation` names it; `call`, `argument` and `errno` are set."""

    operation: str | None = None


class Visit:
    """A process with a terminal inside a container; it ends with this object's `close`. `terminal`: the master."""

    def __init__(self, sock: socket.socket, incoming: wire.Incoming, terminal: int) -> None:
        self._sock, self._incoming = sock, incoming
        self.terminal = terminal

    def fileno(self) -> int:
        """Becomes readable when the process has ended."""
        return self._sock.fileno()

    def wait(self) -> int:
        """The exit code, 128 + N for signal N. Raises LaunchError where the command could not be run."""
        try:
            code: int = _result(wire.receive(self._sock, self._incoming).header)
        except ConnectionError as error:
            raise HostError("the supervisor ended during exec", hint="try again") from error
        return code

    def resize(self, rows: int, columns: int) -> None:
        resize(self.terminal, rows, columns)

    def close(self) -> None:
        self._sock.close()
        os.close(self.terminal)


class Supervisor:
    """The supervisor of one instance. Connections are made on demand; nothing is started before `ensure`.

    When the supervisor dies in the middle of a request, the keeper starts it again and the request is repeated: all of
    them but `exec` can be.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = str(layout.supervisor_socket)
        self._idle: deque[tuple[socket.socket, wire.Incoming]] = deque()
        self._changes: socket.socket | None = None
        self._news = wire.Incoming()  # of `_changes`
        self._sure = 0.0
        self._states: dict[str, ProcessState] = {}  # as of `_point`, which is the supervisor's
        self._point: list[Any] | None = None
        self._states_lock = threading.Lock()

    def ensure(self) -> None:
        """Start keeper and supervisor unless both are there; waits at most 20 s, then raises HostError.

        Asked before every start, so what was found holds for a second; a request that meets no supervisor asks again.
        """
        if time.monotonic() >= self._sure:
            start.ensure(self._layout)
            self._sure = time.monotonic() + _SURE

    def alive(self) -> bool:
        """Whether a supervisor answers. Starts nothing."""
        return start.answer(self._path) is not None

    def launch(
        self, id: str, program: Program, *, logs: LogTarget, journal: str, oom_files: tuple[str, ...] = ()
    ) -> ProcessState:
        """Launch `program` as `id`; returns when its execve has succeeded, at once if it runs already.

        Each Exit is appended to `journal` (JSON lines), a failed launch too; `oom_files` (memory.events of cgroup v2,
        memory.oom_control of v1) tell whether the kernel killed for memory. Raises LaunchError.
        """
        header = {"op": "launch", "id": id, "logs": _target(logs), "journal": journal, "oom_files": oom_files}
        return _state(self._ask({**header, **_birth(program)}, _payload(program)))

    def run(self, program: Program) -> None:
        """Run a program without Execute to its end (make and pin namespaces). Raises LaunchError."""
        code = self._ask({"op": "run", **_birth(program)}, _payload(program))
        if code != 0:
            raise LaunchError(f"a set-up program ended with {code}")

    def exec(self, id: str, program: Program, stdio: tuple[int, int, int], timeout: float | None) -> int:
        """Run `program` inside the running container `id`: its namespaces and cgroups are joined by the supervisor first.

        Returns the exit code, 128 + N for signal N. Killed past `timeout` seconds: 124. Raises LaunchError.
        """
        header = {"op": "exec", "id": id, "timeout": timeout}
        code: int = self._ask(header, _payload(program), fds=stdio, repeat=False)
        return code

    def attach(self, id: str, program: Program) -> Visit:
        """Run `program`, which has an OpenTerminal, inside the running container `id`, and get its terminal's master.
        Raises LaunchError."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        sock, incoming = self._connect()
        try:
            header = {"op": "exec", "id": id, "timeout": None, "terminal": True}
            wire.send(sock, header, _payload(program), fds=(null,) * 3)
            frame = wire.receive(sock, incoming)
            if not frame.fds:
                _result(frame.header)
                raise HostError("the process inside ended before it had a terminal", hint="try again")
            return Visit(sock, incoming, frame.fds[0])
        except BaseException as error:
            sock.close()
            if isinstance(error, ConnectionError):
                raise HostError("the supervisor ended during exec", hint="try again") from error
            raise
        finally:
            os.close(null)

    def signal(self, id: str, signum: int, *, stopping: bool, fault: str | None = None) -> bool:
        """Send a signal by pidfd; `stopping` marks the coming exit as asked for, because of `fault`. False: it is not
        running."""
        header = {"op": "signal", "id": id, "signum": int(signum), "stopping": stopping, "fault": fault}
        sent: bool = self._ask(header)
        return sent

    def wait(self, id: str, timeout: float) -> bool:
        """Wait for the end of `id`'s process; True when it is not running (any more). `timeout` in seconds."""
        ended: bool = self._ask({"op": "wait", "id": id, "timeout": timeout})
        return ended

    def states(self, ids: Iterable[str] | None = None) -> Mapping[str, ProcessState]:
        """What is known of `ids` (default: all); ids that were never launched, or were forgotten, are absent.

        The supervisor is asked each time, and answers with what has changed since the last time.
        """
        if not self._idle and not self.alive() and not start.records(self._layout):
            return {}
        with self._states_lock:
            more = True
            while more:
                page = self._ask({"op": "states", "ids": None, "since": self._point})
                if isinstance(page, list):  # an older supervisor: all states, and no point
                    page = {"fresh": True, "states": page, "gone": (), "point": None, "more": False}
                if page["fresh"]:
                    self._states.clear()
                self._states |= {each["id"]: _state(each) for each in page["states"]}
                for id in page["gone"]:
                    self._states.pop(id, None)
                self._point, more = page["point"], page["more"]
            known = self._states
            return dict(known) if ids is None else {id: known[id] for id in ids if id in known}

    def hold(self, name: str, fd: int) -> None:
        """The keeper holds a duplicate of `fd` under `name` (`port:...`) from now on."""
        self._sure = 0.0  # both must be there this very moment
        self.ensure()
        self._ask({"op": "hold", "name": name}, fds=(fd,))

    def let_go(self, names: Sequence[str]) -> None:
        """The keeper closes what it holds under these names; nothing happens for unknown ones, or where there is none."""
        if self._idle or self.alive():
            self._ask({"op": "let_go", "names": list(names)})

    def held(self) -> frozenset[str] | None:
        """The names under which the keeper holds something; None while no supervisor is there that can say so."""
        with contextlib.suppress(HostError):  # an older one
            if self._idle or self.alive():
                return frozenset(self._ask({"op": "held"}))
        return None

    def set_logs(self, id: str, logs: LogTarget) -> None:
        """Change the size of a running container's log ring."""
        self._ask({"op": "set_logs", "id": id, "logs": _target(logs)})

    def forget(self, id: str) -> None:
        """Drop all knowledge of an ended id; nothing happens for an unknown one. The journal stays (the caller's)."""
        self._ask({"op": "forget", "id": id})

    def changes(self) -> int:
        """A descriptor that becomes readable whenever any process ends. Ask again after `drain` returned None, and look
        at everything: what ends after this returns is told, what ended before is not."""
        if self._changes is None:
            sock, incoming = self._connect()
            try:
                wire.send(sock, {"op": "subscribe"})
                wire.send(sock, {"op": "ping"})  # answered in order: then the subscription holds
                while "ok" not in wire.receive(sock, incoming).header:
                    pass  # an end before this returns
                sock.setblocking(False)
            except BaseException:
                sock.close()
                raise
            self._changes, self._news = sock, incoming
        return self._changes.fileno()

    def drain(self) -> frozenset[str] | None:
        """The ids whose processes ended since the last drain; `changes` is unreadable again. None when the supervisor was
        restarted meanwhile: anything may have ended."""
        sock = self._changes
        if sock is None:
            return None
        ended: set[str] = set()
        try:
            while self._news.receive(sock):
                while (frame := self._news.take()) is not None:
                    ended.add(frame.header["ended"])
        except BlockingIOError:
            return frozenset(ended)
        except OSError:
            pass
        sock.close()
        self._changes = None
        return None

    def stop(self) -> None:
        """End agent, keeper and supervisor of this instance, in order; containers go on. Waits at most 10 s for each."""
        self.close()
        self._sure = 0.0
        agent.stop(self._layout)
        start.stop(self._layout)

    def close(self) -> None:
        """Close this client's connections."""
        self._drop_idle()
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):  # other threads take from it too
            while True:
                self._idle.pop()[0].close()

    def _connect(self) -> tuple[socket.socket, wire.Incoming]:
        try:
            return wire.connect(self._path), wire.Incoming()
        except OSError:
            self._sure = 0.0
            self.ensure()
        try:
            return wire.connect(self._path), wire.Incoming()
        except OSError as error:
            raise HostError(
                f"the supervisor does not answer at {self._path}: {(error.strerror or str(error)).lower()}",
                hint=f"see {start.log_path(self._layout)}",
            ) from error

    def _ask(
        self, header: dict[str, Any], payload: bytes = b"", *, fds: Sequence[int] = (), repeat: bool = True
    ) -> Any:
        attempts = 4 if repeat else 1
        for attempt in range(attempts):
            try:
                # What is not repeatable takes a fresh connection: a kept one may have died with an earlier supervisor.
                sock, incoming = self._idle.pop() if repeat and self._idle else self._connect()
            except IndexError:  # another thread took the last one
                sock, incoming = self._connect()
            try:
                wire.send(sock, header, payload, fds=fds)
                answer = wire.receive(sock, incoming).header
            except OSError as error:
                sock.close()
                self._drop_idle()  # they died with the same supervisor: each would cost an attempt
                if attempt + 1 == attempts:
                    raise HostError(
                        f"the supervisor ended during {header['op']}", hint="try again"
                    ) from error
                continue
            except BaseException:
                sock.close()  # an answer may still come: never give it to another request
                raise
            self._idle.append((sock, incoming))
            return _result(answer)
        raise AssertionError("unreachable")


def _result(answer: dict[str, Any]) -> Any:
    error = answer.get("error")
    if error is None:
        return answer.get("ok")
    if error.get("operation") is None:
        raise HostError(error["message"], hint=error.get("hint"))
    failed = LaunchError(
        error["message"],
        call=error.get("call"),
        argument=error.get("argument"),
        errno=error.get("errno"),
        hint=error.get("hint"),
    )
    failed.operation = error["operation"]
    raise failed


def _birth(program: Program) -> dict[str, Any]:
    """What the supervisor itself needs of a program; the rest is parsed in the new process only."""
    return {
        "new": program.new,
        "cgroup": program.cgroup,
        "cgroups": [each.path for each in program.operations if isinstance(each, JoinCgroup)],
        "uid_maps": [[m.inside, m.outside, m.count] for m in program.uid_maps],
        "gid_maps": [[m.inside, m.outside, m.count] for m in program.gid_maps],
    }


def _payload(program: Program) -> bytes:
    return json.dumps(to_wire(program), separators=(",", ":")).encode()


def _target(logs: LogTarget) -> dict[str, Any]:
    return {"folder": os.fspath(logs.folder), "max_size": logs.max_size, "files": logs.files}


def _state(data: dict[str, Any]) -> ProcessState:
    return ProcessState(
        id=data["id"],
        pid=data["pid"],
        started=data["started"],
        starts=data["starts"],
        exits=tuple(exit_of(each) for each in data["exits"]),
    )
