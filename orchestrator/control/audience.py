"""Those who talk to the agent: its socket, and who follows which stack until when.

In: requests as frames (`supervisor.wire`): ping, status, nudge, follow, stop. Out: answers; to followers the events of
their stack and at last an end. All of it on the agent's main thread. Must not look at the world: the agent's workers do.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from orchestrator.control.events import End, Event, Superseded, TimedOut, to_json
from orchestrator.control.keeping import Look
from orchestrator.control.reconciler import Planned
from orchestrator.model.ids import Ref
from orchestrator.supervisor import wire
from orchestrator.supervisor.connection import Connection, listening, trusted
from orchestrator.supervisor.loop import Loop

_SCENE = 5000  # events kept for those who come in the middle


class Asked(Protocol):
    """What requests need of the agent."""

    def nudge(self, name: str | None) -> None: ...

    def pending(self, name: str) -> dict[Ref, str]: ...

    def standings(self) -> dict[str, Any]: ...

    def stop(self) -> None: ...


@dataclass(slots=True)
class _Follower:
    """`since`: when it came, in seconds of the agent's clock. Only what was looked at later is news to it."""

    connection: Connection
    stack: str
    revision: int
    since: float


class Audience:
    """`facts`: what the agent says of itself. `clock`: the one in whose seconds passes begin."""

    def __init__(
        self, loop: Loop, path: Path, asked: Asked, facts: Mapping[str, Any], clock: Callable[[], float]
    ) -> None:
        self._loop = loop
        self._path = path
        self._asked = asked
        self._facts = facts
        self._clock = clock
        self._followers: list[_Follower] = []
        self._scenes: dict[
            str, list[Event]
        ] = {}  # stack -> what was told since its passes began to have work
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """From now on others can come."""
        self._listener = listening(os.fspath(self._path))
        self._loop.watch(self._listener.fileno(), partial(self._accept, self._listener))

    def close(self) -> None:
        for each in list(self._followers):
            each.connection.close()
        if self._listener is not None:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def tell(self, stack: str, event: Event) -> None:
        """Something happened to a stack."""
        scene = self._scenes.setdefault(stack, [])
        if len(scene) < _SCENE:
            scene.append(event)
        found = [each for each in self._followers if each.stack == stack]
        if found:
            data = to_json(event)
            for each in found:
                each.connection.send(data)

    def looked(self, stack: str, look: Look, began: float) -> None:
        """A pass has ended and there is nothing more to do at once: for some this is the end."""
        self._scenes.pop(stack, None)
        for each in [each for each in self._followers if each.stack == stack and each.since <= began]:
            if look.done.revision > each.revision:
                self._end(each, Superseded(number=look.done.revision))
            elif look.done.revision == each.revision and look.end is not None:
                self._end(each, look.end)

    def _end(self, follower: _Follower, end: End) -> None:
        if follower in self._followers:
            self._followers.remove(follower)
            follower.connection.send(to_json(end))

    # requests

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            if trusted(sock):
                Connection(self._loop, sock, self._request)
            else:
                sock.close()

    def _request(self, connection: Connection, frame: wire.Frame) -> None:
        for fd in frame.fds:
            os.close(fd)
        header = frame.header
        try:
            match header.get("op"):
                case "ping":
                    connection.answer(self._facts)
                case "status":
                    connection.answer({**self._facts, "stacks": self._asked.standings()})
                case "nudge":
                    self._asked.nudge(header["stack"])
                    connection.answer(None)
                case "follow":
                    self._follow(connection, header["stack"], header["revision"], header["timeout"])
                case "stop":
                    connection.answer(None)
                    self._asked.stop()
                case other:
                    connection.fail({"message": f"an unknown request: {other}"})
        except (KeyError, TypeError, ValueError) as error:
            connection.fail({"message": f"a request that cannot be read: {error}"})

    def _follow(self, connection: Connection, stack: str, revision: int, timeout: float | None) -> None:
        follower = _Follower(connection, stack, revision, self._clock())
        self._followers.append(follower)

        def left() -> None:
            if follower in self._followers:
                self._followers.remove(follower)

        connection.closed.append(left)
        scene = self._scenes.get(stack, [])
        if any(isinstance(each, Planned) and each.revision == revision for each in scene):
            for each in scene:  # it began before anybody could follow
                connection.send(to_json(each))
        if timeout is not None:
            self._loop.later(
                timeout, lambda: self._end(follower, TimedOut(reasons=self._asked.pending(stack)))
            )
        self._asked.nudge(stack)
