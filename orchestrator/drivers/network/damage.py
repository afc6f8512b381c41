"""What of attached groups somebody else changed: links, their sysctls, addresses, routes, neighbours.

In: how groups should be (`Wanted`). Out: for each the parts that are not so, in words. The host's half is asked for each
time (25 µs a group), a group's own namespace only after it spoke (`watch`). Mends nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.drivers.network import look, netlink
from orchestrator.drivers.network.look import Link, Route
from orchestrator.drivers.network.namespace import entered
from orchestrator.drivers.network.watch import Watch

GATEWAY = "169.254.1.1"  # every group's next hop, an address that nobody has
PEER = "eth0"
CONF = (
    (netlink.FORWARDING, 1),
    (netlink.RP_FILTER, 1),
    (netlink.ROUTE_LOCALNET, 1),
    (netlink.ACCEPT_REDIRECTS, 0),
    (netlink.SEND_REDIRECTS, 0),
)
_NAMES = {
    netlink.FORWARDING: "forwarding",
    netlink.RP_FILTER: "rp_filter",
    netlink.ROUTE_LOCALNET: "route_localnet",
    netlink.ACCEPT_REDIRECTS: "accept_redirects",
    netlink.SEND_REDIRECTS: "send_redirects",
}
LINK = "link"  # the one damage that is mended by a new pair of links


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The group's `address` on one network, from which it reaches `subnet`."""

    address: str
    gateway: str
    subnet: str
    internal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One attached group. `mark`: the link group. `mac`, `peer_mac`: of the host's end and of the group's."""

    id: str
    netns: str
    link: str
    mark: int
    mac: bytes
    peer_mac: bytes
    ways: tuple[Way, ...]


class Damage:
    """Remembers what it found right, so that the same answers need no second reading. Safe for threads."""

    def __init__(self, host: str | None) -> None:
        self._host = host
        self._nsfs = os.stat("/proc/self/ns/net").st_dev  # noqa: PTH116
        self.watch = Watch()
        self._mutex = threading.Lock()
        self._right: dict[str, tuple[Wanted, Sequence[bytes | None]]] = {}

    def of(self, groups: Sequence[Wanted]) -> Mapping[str, tuple[str, ...]]:
        """id -> what is not as it should be; groups that are right are left out."""
        joined = [each for each in groups if each.ways]
        found = self._outside(joined) if joined else {}
        for each in groups:
            # Without the host's end there is nothing inside either.
            inode = self._namespace(each.netns) if LINK not in found.get(each.id, ()) else None
            if inode is not None and self.watch.spoke(each.id, inode):
                inside = tuple(self._inside(each, inode))
                if inside:
                    self.watch.doubt(each.id)
                    found[each.id] = (*found.get(each.id, ()), *inside)
        return found

    def forget(self, id: str) -> None:
        self.watch.drop(id)
        with self._mutex:
            self._right.pop(id, None)

    def keep(self, ids: frozenset[str]) -> None:
        """Forget all others: they are gone."""
        self.watch.keep(ids)
        with self._mutex:
            for id in self._right.keys() - ids:
                del self._right[id]

    def _namespace(self, path: str) -> int | None:
        """The inode of what is pinned there; None where nothing is any more, which is not for the network to tell."""
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError:
            return None
        return found.st_ino if found.st_dev == self._nsfs else None

    def _outside(self, groups: Sequence[Wanted]) -> dict[str, tuple[str, ...]]:
        with entered(self._host), netlink.Socket() as host:
            links = host.ask([look.link(each.link) for each in groups])
            indexes = [0 if link is None else int.from_bytes(link[4:8], "little") for link in links]
            answers = host.ask(
                [
                    question
                    for each, index in zip(groups, indexes, strict=True)
                    for way in each.ways
                    for question in (look.way(way.address), look.neighbour(way.address, index))
                ]
            )
        found, at = {}, 0
        for each, link in zip(groups, links, strict=True):
            ways = answers[at : at + 2 * len(each.ways)]
            at += len(ways)
            # A neighbour's answer ends with ages: its address and its state stand before.
            known = [link, *(way if n % 2 == 0 else way and way[:32] for n, way in enumerate(ways))]
            with self._mutex:
                same = self._right.get(each.id) == (each, known)
            if same:
                continue
            wrong = tuple(_outside(each, link, ways))
            if wrong:
                found[each.id] = wrong
            else:
                with self._mutex:
                    self._right[each.id] = (each, known)
        return found

    def _inside(self, each: Wanted, inode: int) -> Iterator[str]:
        with entered(each.netns), netlink.Socket() as inner:
            self.watch.listen(each.id, inode)
            lo, peer = inner.ask([look.link("lo"), look.link(PEER)])
            if lo is None or not look.link_of(lo).up:
                yield "lo inside"
            if not each.ways:
                return
            link = look.link_of(peer) if peer is not None else None
            if link is None or link.mac != each.peer_mac:
                yield LINK
                return
            if not link.up:
                yield f"{PEER} inside"
            addresses = look.addresses(inner, link.index)
            routes = look.routes(inner)
            [gateway] = inner.ask([look.neighbour(GATEWAY, link.index)])
        for way in each.ways:
            if f"{way.address}/32" not in addresses:
                yield f"address {way.address} inside"
        if not look.is_neighbour(gateway, each.mac):
            yield "neighbour inside"
        yield from _routes_inside(each, routes, link.index)


def _outside(each: Wanted, answer: bytes | None, ways: Sequence[bytes | None]) -> Iterator[str]:
    link = look.link_of(answer) if answer is not None else None
    if link is None or link.mac != each.mac or link.group != each.mark:
        yield LINK
        return
    yield from _link(each, link)
    for number, way in enumerate(each.ways):
        found = ways[2 * number]
        route = look.route_of(found) if found is not None else None
        if route != Route(target=way.address, prefix=32, index=link.index, source=way.gateway, via=None):
            yield f"route to {way.address}"
        if not look.is_neighbour(ways[2 * number + 1], each.peer_mac):
            yield f"neighbour {way.address}"


def _link(each: Wanted, link: Link) -> Iterator[str]:
    if not link.up:
        yield f"{each.link} set down"
    for number, value in CONF:
        if link.conf.get(number) != value:
            yield f"{_NAMES[number]} of {each.link}"


def _routes_inside(each: Wanted, routes: Sequence[Route], index: int) -> Iterator[str]:
    for way in each.ways:
        base, _, prefix = way.subnet.partition("/")
        route = Route(target=base, prefix=int(prefix), index=index, source=way.address, via=GATEWAY)
        if route not in routes:
            yield f"route to {way.subnet} inside"
    way_out = next((way.address for way in each.ways if not way.internal), None)
    default = Route(target=None, prefix=0, index=index, source=way_out, via=GATEWAY)
    ours = [route for route in routes if route.prefix == 0 and route.index == index]
    if ours != ([default] if way_out else []):
        yield "default route inside"
