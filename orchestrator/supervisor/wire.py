"""Frames between client, supervisor and keeper: a JSON header, an optional payload of bytes, and descriptors.

A frame is two big-endian 32-bit lengths, the header and the payload, over a Unix stream socket; the descriptors travel with
its first byte (SCM_RIGHTS, unix(7)) and their number stands in the header under "fds". The payload is not parsed here.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

LENGTHS = struct.Struct(">II")
LIMIT = 16 * 1024 * 1024
MAX_FDS = 16

F = TypeVar("F", int, socket.socket)
KEPT = "port:"  # begins the names of what the keeper holds whatever containers run


class Frame(NamedTuple):
    """`header` is a JSON object; whoever receives the frame owns its `fds`."""

    header: dict[str, Any]
    payload: bytes
    fds: list[int]


class WireError(ConnectionError):
    """The other side does not speak this protocol."""


def pack(header: dict[str, Any], payload: bytes = b"") -> bytes:
    data = json.dumps(header, separators=(",", ":")).encode()
    return LENGTHS.pack(len(data), len(payload)) + data + payload


def send(
    sock: socket.socket, header: dict[str, Any], payload: bytes = b"", *, fds: Sequence[int] = ()
) -> None:
    """Send one frame on a blocking socket."""
    data = pack({**header, "fds": len(fds)} if fds else header, payload)
    sent = send_some(sock, data, fds)
    if sent < len(data):
        sock.sendall(data[sent:])


def send_some(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int] = ()) -> int:
    """sendmsg(2) once; the descriptors go with the first byte. Returns the number of bytes taken."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)


class Incoming:
    """Bytes and descriptors of one connection on their way to becoming frames."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: list[int] = []

    def receive(self, sock: socket.socket) -> bool:
        """Read once; False at the end of the stream. Raises BlockingIOError on a non-blocking socket without data."""
        space = socket.CMSG_SPACE(MAX_FDS * 4)
        data, rights, _, _ = sock.recvmsg(65536, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, raw in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                self._fds += fds
        self._data += data
        return bool(data)

    def take(self) -> Frame | None:
        """The next whole frame, or None."""
        if len(self._data) < LENGTHS.size:
            return None
        head, body = LENGTHS.unpack_from(self._data)
        if head + body > LIMIT:
            raise WireError("a frame is larger than 16 MiB")
        end = LENGTHS.size + head + body
        if len(self._data) < end:
            return None
        middle = LENGTHS.size + head
        try:
            header = json.loads(bytes(self._data[LENGTHS.size : middle]))
            count = int(header.get("fds", 0))
        except (ValueError, AttributeError, TypeError) as error:
            raise WireError("a frame's header is not a JSON object") from error
        if not 0 <= count <= len(self._fds):
            raise WireError("a frame lacks its descriptors")
        payload = bytes(self._data[middle:end])
        del self._data[:end]
        fds, self._fds = self._fds[:count], self._fds[count:]
        return Frame(header, payload, fds)

    def close(self) -> None:
        """Close descriptors that no frame has claimed."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def receive(sock: socket.socket, incoming: Incoming) -> Frame:
    """The next frame of a blocking socket; raises ConnectionError at its end."""
    while (frame := incoming.take()) is None:
        if not incoming.receive(sock):
            raise ConnectionResetError("the connection was closed")
    return frame


def readable(files: Sequence[F], timeout: float | None) -> list[F]:
    """Those of `files` that can be read, or have ended, within `timeout` seconds (None: for ever). As select(2) does, whose
    descriptors must be below 1024: with a thousand containers they are not."""
    poll = select.poll()
    for each in files:
        poll.register(each, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(None if timeout is None else max(0.0, timeout) * 1000)}
    return [each for each in files if (each if isinstance(each, int) else each.fileno()) in ready]


def address(folder: int, name: str) -> str:
    """The socket `name` in an open folder, whatever the length of its path (sun_path holds 108 bytes)."""
    return f"/proc/self/fd/{folder}/{name}"


def connect(path: str) -> socket.socket:
    """A connection to the socket at `path`; raises OSError."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.connect(address(folder, os.path.basename(path)))
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(folder)


def ask_to_stop(path: str) -> None:
    """Have whoever listens there end; nothing where nobody does. Returns before it is gone."""
    with suppress(OSError), connect(path) as sock:
        sock.settimeout(2.0)
        send(sock, {"op": "stop"})
        receive(sock, Incoming())
