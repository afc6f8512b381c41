"""Questions to rtnetlink(7), and what the answers say.

In: a socket in some network namespace, names, addresses. Out: links, routes, neighbours and addresses as the kernel has
them. Changes nothing.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.drivers.network import netlink
from orchestrator.drivers.network.netlink import Message

_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH = 18, 22, 26, 30
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the entry of the table, not the way that a packet would take
_MAIN = 254
_PERMANENT = 0x80  # NUD_PERMANENT
_UP = 1
_HEAD = struct.Struct("=HH").unpack_from
_KIND = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`conf`: net.ipv4.conf values by `netlink`'s names for them."""

    index: int
    up: bool
    mac: bytes
    group: int
    conf: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`target` without a prefix length of 0 is the default route's None."""

    target: str | None
    prefix: int
    index: int
    source: str | None
    via: str | None


def link(name: str) -> Message:
    body = netlink.link_body(0) + netlink.text(3, name) + netlink.number(29, _SKIP_STATS)
    return Message(f"look at link {name}", _GETLINK, 0, body, (errno.ENODEV,))


def link_of(answer: bytes) -> Link:
    _, index, flags = struct.unpack_from("=IiI", answer)
    found = attributes(answer, 16)
    conf = {}
    inet = attributes(attributes(found.get(26, b"")).get(socket.AF_INET, b"")).get(1, b"")
    for number, value in enumerate(struct.unpack(f"={len(inet) // 4}I", inet), 1):
        conf[number] = value
    return Link(
        index=index,
        up=bool(flags & _UP),
        mac=found.get(1, b""),
        group=struct.unpack("=I", found.get(27, b"\0\0\0\0"))[0],
        conf=conf,
    )


def way(address: str) -> Message:
    """The entry of the routing tables that an address meets."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    nowhere = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH, errno.EACCES, errno.EINVAL)
    return Message(f"look for a route to {address}", _GETROUTE, 0, body + netlink.ipv4(1, address), nowhere)


def route_of(answer: bytes) -> Route:
    prefix = answer[1]
    found = attributes(answer, 12)
    return Route(
        target=_text(found.get(1)),
        prefix=prefix,
        index=struct.unpack("=I", found.get(4, b"\0\0\0\0"))[0],
        source=_text(found.get(7)),
        via=_text(found.get(5)),
    )


def neighbour(address: str, index: int) -> Message:
    body = struct.pack("=BxxxiHBB", socket.AF_INET, index, 0, 0, 0) + netlink.ipv4(1, address)
    nobody = (errno.ENOENT, errno.ENODEV, errno.EINVAL)  # the last where `index` is 0
    return Message(f"look for neighbour {address}", _GETNEIGH, 0, body, nobody)


def is_neighbour(answer: bytes | None, mac: bytes) -> bool:
    """Whether the answer names a permanent neighbour with this address of its link."""
    if answer is None or not struct.unpack_from("=H", answer, 8)[0] & _PERMANENT:
        return False
    return attributes(answer, 12).get(2) == mac


def addresses(each: netlink.Socket, index: int) -> frozenset[str]:
    """The IPv4 addresses of a link, with their prefix lengths."""
    body = struct.pack("=BBBBi", socket.AF_INET, 0, 0, 0, 0)
    answers = each.dump(Message("list addresses", _GETADDR, 0, body))
    return frozenset(
        f"{_text(attributes(answer, 8).get(2))}/{answer[1]}"
        for answer in answers
        if struct.unpack_from("=i", answer, 4)[0] == index
    )


def routes(each: netlink.Socket) -> Sequence[Route]:
    """The main table."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    return [
        route_of(answer)
        for answer in each.dump(Message("list routes", _GETROUTE, 0, body))
        if answer[4] == _MAIN
    ]


def attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """Kind -> value, of the attributes (struct rtattr) from `at` on; of a kind that comes twice the last."""
    found = {}
    end = len(data) - 3
    while at < end:
        length, kind = _HEAD(data, at)
        if length < 4:
            break
        found[kind & _KIND] = data[at + 4 : at + length]
        at += (length + 3) & -4
    return found


def each_attribute(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """The same, of a kind that comes more than once."""
    while at + 4 <= len(data):
        length, kind = _HEAD(data, at)
        if length < 4:
            return
        yield kind & _KIND, data[at + 4 : at + length]
        at += (length + 3) & -4


def _text(raw: bytes | None) -> str | None:
    return socket.inet_ntoa(raw) if raw and len(raw) == 4 else None
