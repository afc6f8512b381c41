"""A client's connection in the supervisor or the agent: frames in, answers out, never blocking; and where they come in.

In: a non-blocking socket and what to do with a frame. One request at a time is in flight on a connection; the answer may
come later.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from orchestrator.supervisor import wire
from orchestrator.supervisor.loop import READ, WRITE, Loop

_MOST = 64 * 1024 * 1024  # of unsent bytes; beyond it the other side has stopped reading and is cut off


class Connection:
    """`closed` callbacks run once, at its end, whoever ended it."""

    def __init__(
        self, loop: Loop, sock: socket.socket, serve: Callable[[Connection, wire.Frame], None]
    ) -> None:
        sock.setblocking(False)
        self._loop, self._sock, self._serve = loop, sock, serve
        self._incoming = wire.Incoming()
        self._outgoing: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waiting, self._events = 0, READ
        self.closed: list[Callable[[], None]] = []
        self.open = True
        loop.watch(sock.fileno(), self._ready)

    def answer(self, value: Any) -> None:
        self.send({"ok": value})

    def fail(self, error: dict[str, Any]) -> None:
        self.send({"error": error})

    def send(self, header: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Queue a frame and send what can be sent; `fds` stay the caller's and are duplicated while they wait."""
        if not self.open:
            return
        data = wire.pack({**header, "fds": len(fds)} if fds else header)
        self._outgoing.append((memoryview(data), [os.dup(fd) for fd in fds]))
        self._waiting += len(data)
        self._flush()

    def close(self) -> None:
        if not self.open:
            return
        self.open = False
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
        self._incoming.close()
        for _, fds in self._outgoing:
            _close(fds)
        self._outgoing.clear()
        for callback in self.closed:
            callback()

    def _ready(self) -> None:
        if self._outgoing:
            self._flush()
        try:
            more = self.open and self._incoming.receive(self._sock)
            while self.open and (frame := self._incoming.take()) is not None:
                self._serve(self, frame)
        except BlockingIOError:
            return
        except OSError:
            more = False
        if not more:
            self.close()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                data, fds = self._outgoing[0]
                sent = wire.send_some(self._sock, data, fds)
                self._waiting -= sent
                _close(fds)
                if sent < len(data):
                    self._outgoing[0] = (data[sent:], ())
                else:
                    self._outgoing.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        if self.open and self._waiting > _MOST:
            self.close()
        events = READ | (WRITE if self._outgoing else 0)
        if self.open and events != self._events:
            self._events = events
            self._loop.change(self._sock.fileno(), events)


def listening(path: str) -> socket.socket:
    """A socket at `path` that takes connections, 0600 from its first moment; it should lie in a 0700 folder."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    place = wire.address(folder, os.path.basename(path))
    with suppress(FileNotFoundError):
        os.unlink(place)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        sock.bind(place)
    finally:
        os.umask(mask)
        os.close(folder)
    sock.listen(512)
    return sock


def trusted(sock: socket.socket) -> bool:
    """SO_PEERCRED (unix(7)): root, or whoever we are."""
    _, uid, _ = struct.unpack("=3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.geteuid())


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
