"""The supervisor: launches, reaps, records exits, keeps logs. One process, one thread, one loop that never blocks.

In: requests on `supervisor.sock` (see `client`). Out: answers, journals, log rings. It may be killed between any two
lines: the keeper starts it again and it adopts what runs by (pid, start ticks, boot id). Standard library only.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from orchestrator.supervisor import adoption, facts, journal, launcher, wire
from orchestrator.supervisor.children import Child, sweep
from orchestrator.supervisor.connection import Connection, listening, trusted
from orchestrator.supervisor.container import Container
from orchestrator.supervisor.kernel import CallError, processes
from orchestrator.supervisor.ledger import Ledger
from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.requests import answer_of, birth_of, folder_name
from orchestrator.supervisor.terminal import Passage
from orchestrator.supervisor.version import version
from orchestrator.supervisor.visit import Visit, conclude

SOCKET = "supervisor.sock"
_IDLE = 10.0  # seconds after which a ring's files are closed


class Supervision:
    """All containers of one instance, under the run folder `run`."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._boot = facts.boot_id()
        self._host = launcher.Host.read()
        version()  # of the code that was just loaded, before anybody replaces it
        self._loop = Loop()
        self._containers: dict[str, Container] = {}
        self._ledger = Ledger()
        self._waiting: dict[str, list[tuple[Connection, Any]]] = {}
        self._subscribers: set[Connection] = set()
        self._keeper: Connection | None = None
        self._kept: set[str] = set()  # what the keeper holds for others than containers
        self._zombies: frozenset[int] = frozenset()
        self._inode = 0  # of our socket

    def serve(self) -> None:
        """Adopt what runs, then answer until `stop`."""
        for container in adoption.found(self._run, self._boot):
            self._containers[container.id] = container
            self._ledger.touch(container.id)
            if container.running:
                self._adopt(container)
        adoption.sweep(self._run, self._containers.values())
        listener = listening(f"{self._run}/{SOCKET}")
        self._inode = _inode(self._run)
        self._loop.watch(listener.fileno(), partial(self._accept, listener))
        self._loop.later(_IDLE, self._tick)
        gc.collect()
        gc.freeze()  # children touch no object's collector header: fewer pages are copied
        self._loop.run()

    # requests

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            time.sleep(0.01)  # out of descriptors: do not spin
            return
        if not trusted(sock):
            sock.close()
            return
        Connection(self._loop, sock, self._request)

    def _request(self, connection: Connection, frame: wire.Frame) -> None:
        operation = getattr(self, f"_do_{frame.header.get('op')}", None)
        try:
            if operation is None:
                raise CallError(
                    22, "request", str(frame.header.get("op")), text="an unknown request: another version?"
                )
            operation(connection, frame)
        except (OSError, KeyError, TypeError, ValueError) as error:
            connection.fail(answer_of(error, frame.header.get("op")))
        finally:
            for fd in frame.fds:
                os.close(fd)

    def _do_ping(self, connection: Connection, frame: wire.Frame) -> None:
        connection.answer({"pid": os.getpid(), "keeper": self._keeper is not None, "version": version()})

    def _do_renew(self, connection: Connection, frame: wire.Frame) -> None:
        """End, for the keeper to start the code that is there now; it adopts what runs as after a kill."""
        connection.answer(None)
        self._loop.stopped = True

    def _do_launch(self, connection: Connection, frame: wire.Frame) -> None:
        header = frame.header
        container = self._containers.get(header["id"])
        if container is not None and container.running:
            connection.answer(container.state())
            return
        container = self._prepare(header, container)
        birth = birth_of(header)
        ends = container.child_ends()
        try:
            launched = launcher.launch(self._host, frame.payload, birth, stdio=ends, logs=True)
        except OSError as error:
            self._ended(container, {"error": str(error)})
            raise
        finally:
            for fd in ends:
                os.close(fd)
        container.pid, container.pidfd = launched.pid, launched.pidfd
        container.ticks = facts.start_ticks(launched.pid)
        self._ledger.touch(container.id)
        self._watch_logs(container)
        child = Child(self._loop, launched)
        child.executed = lambda: connection.answer(container.state())
        child.ended = lambda status: self._launched_ended(connection, container, child, status)
        self._hold(container)
        try:
            container.save(self._boot)
        except OSError as error:
            text = str(error)
            os.close(launched.go)  # an end instead of the go byte: it gives up
            child.executed = lambda: None
            child.ended = lambda status: self._ended(container, {"error": text})
            raise
        with suppress(OSError):  # a full disk: a later boot will not know of this start
            journal.append(container.journal, {"started": container.started, "starts": container.starts})
        launched.start()

    def _prepare(self, header: dict[str, Any], known: Container | None) -> Container:
        """A container that is about to start: its record, FIFOs and ring."""
        container = Container(
            id=folder_name(header["id"]),
            folder=f"{self._run}/containers/{header['id']}",
            journal=header["journal"],
            logs=header["logs"],
            oom_files=header["oom_files"],
            cgroup=header["cgroup"],
            cgroups=header["cgroups"],
            new=header["new"],
        )
        container.exits.extend(known.exits if known else journal.read(container.journal))
        earlier = (
            known.starts if known else max((each.get("starts", 0) for each in container.exits), default=0)
        )
        container.starts, container.started = earlier + 1, facts.boottime()
        container.before = facts.oom_kills(container.oom_files)
        os.makedirs(os.path.dirname(container.journal), mode=0o700, exist_ok=True)
        container.open_logs()
        self._containers[container.id] = container
        return container

    def _do_run(self, connection: Connection, frame: wire.Frame) -> None:
        launched = launcher.launch(self._host, frame.payload, birth_of(frame.header))
        child = Child(self._loop, launched)

        def ended(status: dict[str, int]) -> None:
            os.close(launched.pidfd)
            conclude(connection, child, status)

        child.ended = ended
        launched.start()

    def _do_exec(self, connection: Connection, frame: wire.Frame) -> None:
        container = self._containers.get(frame.header["id"])
        if container is None or not container.running:
            connection.fail({"message": "the container is not running"})
            return
        if len(frame.fds) != 3:
            raise ValueError("exec takes three descriptors")
        birth = launcher.Birth(
            new=tuple(container.new), cgroup=container.cgroup, cgroups=tuple(container.cgroups)
        )
        passage = None
        if frame.header.get("terminal"):
            passage = Passage(self._loop, lambda master: connection.send({"terminal": True}, (master,)))
        entrance = passage.entrance if passage else -1
        try:
            launched = launcher.enter(
                self._host, frame.payload, container.pidfd, birth, stdio=frame.fds, passage=entrance
            )
        except BaseException:
            if passage:
                passage.close()
            raise
        finally:
            if passage:
                os.close(entrance)
        Visit(self._loop, connection, launched, frame.header["timeout"], passage)
        launched.start()

    def _do_signal(self, connection: Connection, frame: wire.Frame) -> None:
        container = self._containers.get(frame.header["id"])
        if container is None or not container.running:
            connection.answer(False)
            return
        if frame.header["stopping"] and not container.stopping:
            container.stopping, container.fault = True, frame.header.get("fault")
            container.save(self._boot)  # before the signal: the next supervisor must know that we asked
        connection.answer(processes.pidfd_send_signal(container.pidfd, frame.header["signum"]))

    def _do_wait(self, connection: Connection, frame: wire.Frame) -> None:
        container = self._containers.get(frame.header["id"])
        if container is None or not container.running:
            connection.answer(True)
            return
        waiting = self._waiting.setdefault(container.id, [])

        def late() -> None:
            waiting.remove(entry)
            connection.answer(False)

        entry = (connection, self._loop.later(max(0.0, frame.header["timeout"]), late))
        waiting.append(entry)

    def _do_states(self, connection: Connection, frame: wire.Frame) -> None:
        connection.answer(self._ledger.page(self._containers, frame.header["since"]))

    def _do_set_logs(self, connection: Connection, frame: wire.Frame) -> None:
        container = self._containers.get(frame.header["id"])
        if container is not None:
            container.logs = frame.header["logs"]
            if container.ring is not None:
                container.ring.resize(container.logs["max_size"], container.logs["files"])
            container.save(self._boot)
        connection.answer(None)

    def _do_forget(self, connection: Connection, frame: wire.Frame) -> None:
        container = self._containers.get(frame.header["id"])
        if container is not None and container.running:
            connection.fail({"message": f"{container.id} is running", "hint": "stop it first"})
            return
        if container is not None:
            del self._containers[container.id]
            self._ledger.touch(container.id)
            container.remove()
        connection.answer(None)

    def _do_subscribe(self, connection: Connection, frame: wire.Frame) -> None:
        self._subscribers.add(connection)
        connection.closed.append(lambda: self._subscribers.discard(connection))

    def _do_keep(self, connection: Connection, frame: wire.Frame) -> None:
        """The keeper is there: from now on it holds a duplicate of every FIFO."""

        def gone() -> None:
            if self._keeper is connection:
                self._keeper, self._kept = None, set()

        self._keeper, self._kept = connection, set(frame.header.get("held", ()))
        connection.closed.append(gone)
        running = [each for each in self._containers.values() if each.running]
        connection.send({"only": [each.id for each in running]})
        for container in running:
            self._hold(container)

    def _do_hold(self, connection: Connection, frame: wire.Frame) -> None:
        """Something of the host's (a bound port) for the keeper, who outlives all of us."""
        name = frame.header["name"]
        if not name.startswith(wire.KEPT) or len(frame.fds) != 1:
            raise ValueError(f"{name!r} with {len(frame.fds)} descriptors is nothing to be held")
        if self._keeper is None:
            connection.fail({"message": "there is no keeper now", "hint": "try again"})
            return
        self._keeper.send({"hold": name}, frame.fds)
        self._kept.add(name)
        connection.answer(None)

    def _do_let_go(self, connection: Connection, frame: wire.Frame) -> None:
        for name in self._kept.intersection(frame.header["names"]):
            self._kept.discard(name)
            if self._keeper is not None:
                self._keeper.send({"drop": name})
        connection.answer(None)

    def _do_held(self, connection: Connection, frame: wire.Frame) -> None:
        connection.answer(sorted(self._kept))

    def _do_stop(self, connection: Connection, frame: wire.Frame) -> None:
        if self._keeper is not None:
            self._keeper.send({"stop": True})
        connection.answer(None)
        self._loop.stopped = True

    # what happens to containers

    def _launched_ended(
        self, connection: Connection, container: Container, child: Child, status: dict[str, int]
    ) -> None:
        if child.error is None:
            self._ended(container, dict(status))
            return
        self._ended(container, {"error": child.error["message"]})
        connection.fail(child.error)

    def _ended(self, container: Container, how: dict[str, Any], at: float | None = None) -> None:
        """Record an exit, then tell everybody. `how`: code, signal, error or nothing (unknown)."""
        oom = how.get("code") != 0 and facts.oom_kills(container.oom_files) > container.before
        when = {"started": container.started, "ended": at or facts.boottime()}
        exit = {**when, **how, "oom": oom, "stopped": container.stopping, "starts": container.starts}
        exit |= {"fault": container.fault} if container.stopping and container.fault else {}
        with suppress(OSError):
            container.drain()
        for fd in (*container.fifos, container.pidfd):
            self._loop.unwatch(fd)
        container.close()
        container.exits.append(exit)
        container.pid = container.ticks = None
        container.stopping, container.fault = False, None
        self._ledger.touch(container.id)
        try:
            # The record keeps its pid: that this start has ended is told by the journal alone, in one write.
            journal.append(container.journal, exit)
        except OSError as error:  # a full disk: what is in memory stays true
            print(
                f"cannot record an exit container={container.id} error={error}", file=sys.stderr, flush=True
            )
        if self._keeper is not None:
            self._keeper.send({"drop": container.id})
        for connection, timer in self._waiting.pop(container.id, ()):
            timer.cancel()
            connection.answer(True)
        for connection in list(self._subscribers):
            connection.send({"ended": container.id})

    def _adopt(self, container: Container) -> None:
        if container.exits and container.exits[-1].get("starts") == container.starts:
            container.pid = container.ticks = None  # this start has ended: it stands in the journal
            container.stopping = False
            return
        container.open_logs()
        container.pidfd = adoption.pidfd(container)
        if container.pidfd < 0:
            self._adopted_ended(container, 0)
            return
        self._watch_logs(container)
        self._loop.watch(container.pidfd, lambda: self._adopted_ended(container, 0))

    def _adopted_ended(self, container: Container, tries: int) -> None:
        """It is the keeper's child: look for what the keeper read, while it may still come."""
        how = adoption.ending(self._run, container)
        if how is None and adoption.undecided(container) and tries < 250:
            self._loop.unwatch(container.pidfd)
            self._loop.later(0.02, lambda: self._adopted_ended(container, tries + 1))
            return
        how = how or {}
        at = how.pop("ended", None)
        orphan = adoption.orphan_path(self._run, container)
        self._ended(container, how, at)
        with suppress(FileNotFoundError):
            os.unlink(orphan)

    def _watch_logs(self, container: Container) -> None:
        for stream, fd in enumerate(container.fifos, 1):
            self._loop.watch(fd, partial(container.pump, stream))

    def _hold(self, container: Container) -> None:
        if self._keeper is not None:
            self._keeper.send({"hold": container.id}, container.fifos)

    def _tick(self) -> None:
        """Close the files of idle rings, reap what is nobody's; end where the run folder was taken away."""
        self._loop.stopped = self._loop.stopped or _inode(self._run) != self._inode
        self._zombies = sweep(self._zombies)
        old = time.monotonic() - _IDLE
        for container in self._containers.values():
            if container.ring is not None and container.ring.used < old:
                container.ring.close()
        self._loop.later(_IDLE, self._tick)


def _inode(run: str) -> int:
    """The socket's; -1 where it is gone. Another's there means that our run folder was replaced."""
    try:
        return os.stat(f"{run}/{SOCKET}").st_ino
    except OSError:
        return -1


def main(run: str) -> None:
    """Be the supervisor of the instance under `run`; ends at once if there is one."""
    with open("/proc/self/comm", "w") as comm:
        comm.write("orc-supervisor")
    lock = facts.sole(f"{run}/supervisor.lock")
    if lock is None:
        return
    Supervision(run).serve()
