"""One http or tcp probe over a raw non-blocking socket, advanced by whoever owns the event loop.

In: a probe, an address and the network namespace to connect from. Out: a verdict with a line of text. HTTP/1.1 (RFC
9112) as far as a probe needs it: status line, the first 64 KiB of headers and body; no redirects are followed.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from dataclasses import dataclass

from orchestrator.model.desired import HttpProbe, TcpProbe
from orchestrator.supervisor.kernel.namespaces import entered

LIMIT = 64 * 1024
IN_PROGRESS = (0, errno.EINPROGRESS)
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class Verdict:
    ok: bool
    output: str


class Attempt:
    """`events` says what to wait for on `socket`; `advance` is called at once and whenever that happened, until it gives a
    Verdict. OSError where nothing could be asked, which says nothing of the container."""

    def __init__(self, probe: HttpProbe | TcpProbe, address: str, netns: str | None = None) -> None:
        self.probe = probe
        with entered(netns):  # a socket stays in the namespace that it was made in
            self.socket = socket.socket(
                socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
        self.events = selectors.EVENT_WRITE
        self._request = _request(probe, address) if isinstance(probe, HttpProbe) else b""
        self._answer = bytearray()
        self._refused = self.socket.connect_ex((address, probe.port))
        if self._refused in OURS:
            self.socket.close()
            raise OSError(self._refused, os.strerror(self._refused))

    def advance(self) -> Verdict | None:
        try:
            if self.events == selectors.EVENT_READ:
                return self._receive()
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if self._refused not in IN_PROGRESS or code:
                return Verdict(False, os.strerror(code or self._refused).lower())
            if isinstance(self.probe, TcpProbe):
                self.socket.getpeername()
                return Verdict(True, "connected")
            self._send()
            return None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return None  # still on its way
            return Verdict(False, (error.strerror or str(error)).lower())

    def _send(self) -> None:
        sent = self.socket.send(self._request)
        self._request = self._request[sent:]
        if not self._request:
            self.events = selectors.EVENT_READ

    def _receive(self) -> Verdict | None:
        assert isinstance(self.probe, HttpProbe)
        piece = self.socket.recv(LIMIT)
        self._answer += piece
        return judge(self.probe, bytes(self._answer), ended=not piece or len(self._answer) >= LIMIT)

    def close(self) -> None:
        self.socket.close()


def _request(probe: HttpProbe, address: str) -> bytes:
    headers = {"Host": f"{address}:{probe.port}", "User-Agent": "orchestrator-probe", "Accept": "*/*"}
    headers |= {"Connection": "close"}
    for name, value in probe.headers.items():
        same = next((known for known in headers if known.lower() == name.lower()), name)
        headers[same] = value
    lines = [f"GET {probe.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    # A line break inside a value would be a second header: it becomes a space.
    return "".join(f"{' '.join(line.splitlines())}\r\n" for line in [*lines, ""]).encode("utf-8", "replace")


def judge(probe: HttpProbe, answer: bytes, *, ended: bool) -> Verdict | None:
    """The verdict over what has come so far; None: more is needed."""
    head, found, body = answer.partition(b"\r\n\r\n")
    first = head.partition(b"\r\n")[0].decode("latin-1")
    if not found and not ended:
        return None
    parts = first.split(" ", 2)
    if not parts[0].startswith("HTTP/1.") or len(parts) < 2 or not parts[1].isdigit():
        return Verdict(
            False, f"not an HTTP answer: {first[:80]!r}" if answer else "connection closed without an answer"
        )
    low, high = probe.status
    if not low <= int(parts[1]) <= high:
        return Verdict(False, f"{first[:80]}, wanted {low if low == high else f'{low}-{high}'}")
    if probe.body is None:
        return Verdict(True, first[:80])
    text = _dechunked(body) if b"transfer-encoding: chunked" in head.lower() else body
    if probe.body.encode() in text:
        return Verdict(True, first[:80])
    return Verdict(False, f"{first[:80]}, without {probe.body[:80]!r} in the body") if ended else None


def _dechunked(body: bytes) -> bytes:
    """The chunks that are there whole, joined (RFC 9112, 7.1)."""
    out, rest = bytearray(), body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        try:
            count = int(size.split(b";")[0], 16)
        except ValueError:
            break
        if count <= 0:
            break
        out += rest[:count]
        rest = rest[count + 2 :]
    return bytes(out)
