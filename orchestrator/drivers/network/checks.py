"""What stands in the way of a stack's networks and published ports, found before anything is touched.

In: the wished stack, what other stacks of ours hold, /proc/net as text. Out: `Problem`s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from orchestrator.drivers.network.ipam import Allocation, capacity
from orchestrator.drivers.network.rules import Port
from orchestrator.model.desired import NetworkSpec, Protocol, Publish, ServiceSpec
from orchestrator.model.ids import Ref
from orchestrator.ports.driver import Problem

TABLES = ("tcp", "udp", "tcp6", "udp6")  # files of /proc/net
_LISTEN, _UNCONNECTED = "0A", "07"  # tcp(7) states in /proc/net/tcp and /proc/net/udp


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that waits for others: `address` 0.0.0.0 is all."""

    protocol: Protocol
    address: str
    port: int
    inode: str


def subnets(
    networks: Mapping[Ref, NetworkSpec],
    own: Mapping[str, Allocation],
    others: Sequence[tuple[str, Allocation]],
    routes: Sequence[tuple[IPv4Network, str]],
) -> Iterator[Problem]:
    """Subnets that are no subnets, too small, or used by somebody else. `own` are this stack's by network name."""
    chosen: list[tuple[IPv4Network, str]] = []
    for ref, spec in networks.items():
        held = own.get(ref.name)
        try:
            subnet = IPv4Network(spec.subnet) if spec.subnet else held.subnet if held else None
        except ValueError as error:
            yield Problem(
                ref=ref, field="subnet", message=f"{spec.subnet} is not an IPv4 subnet: {error}".lower()
            )
            continue
        if subnet is None:
            continue
        if capacity(subnet) < len(spec.members):
            text = (
                f"subnet {subnet} has room for {capacity(subnet)} members, {len(spec.members)} are asked for"
            )
            yield Problem(ref=ref, field="subnet", message=text, hint="pin a bigger `subnet:`")
        users = [
            *chosen,
            *((each.subnet, f"network {name.replace('.', '/')}") for name, each in others),
            *((route, f"a route of this host over {link}") for route, link in routes),
        ]
        for other, user in users:
            if subnet.overlaps(other):
                text = f"subnet {subnet} clashes with {other}, {user}"
                hint = "choose another `subnet:`" if spec.subnet else "pin a free `subnet:`"
                yield Problem(ref=ref, field="subnet", message=text, hint=hint)
                break
        chosen.append((subnet, f"network {ref.name}"))


def ports(
    services: Mapping[Ref, ServiceSpec],
    others: Iterable[tuple[str, ServiceSpec]],
    listeners: Sequence[Listener],
) -> Iterator[Problem]:
    """Published ports that somebody has: a process of the host, another stack, another service of this one. `listeners` are
    those of others: ports that we hold ourselves are left out."""
    held = [(port, f"{name} of ours") for name, spec in others for port in spec.publish]
    owners: dict[str, str] = {}
    for ref, spec in services.items():
        if spec.publish and not spec.networks:
            yield Problem(
                ref=ref, field="publish", message="a group without networks has no address to publish"
            )
        for port in spec.publish:
            text = f"{port.address}:{port.host_port}/{port.protocol}"
            taken = next((who for other, who in held if _meet(port, other)), None)
            listener = next((each for each in listeners if heard(port, each)), None)
            if taken is None and listener is not None:
                taken = owners.setdefault(listener.inode, owner(listener.inode))
            if taken is not None:
                message = f"port {text} is already taken by {taken}"
                yield Problem(
                    ref=ref, field="publish", message=message, hint="publish another port, or stop that"
                )
            elif not _here(port.address):
                message = f"address {port.address} is not one of this host's"
                yield Problem(ref=ref, field="publish", message=message, hint="see `ip address`")
            held.append((port, str(ref)))


def _meet(one: Publish, other: Publish) -> bool:
    return (
        one.host_port == other.host_port
        and one.protocol is other.protocol
        and (one.address == other.address or "0.0.0.0" in (one.address, other.address))
    )


def heard(port: Publish | Port, listener: Listener) -> bool:
    return (
        port.host_port == listener.port
        and port.protocol is listener.protocol
        and (port.address == listener.address or "0.0.0.0" in (port.address, listener.address))
    )


def _here(address: str) -> bool:
    """Whether this thread's namespace has the address."""
    if address == "0.0.0.0" or address.startswith("127."):
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
        try:
            each.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def listeners(tables: Mapping[str, str]) -> tuple[Listener, ...]:
    """The waiting sockets in the texts of /proc/net/tcp, udp, tcp6 and udp6 (proc(5)), by those names."""
    found = []
    for name, text in tables.items():
        protocol = Protocol(name.removesuffix("6"))
        state = _LISTEN if protocol is Protocol.TCP else _UNCONNECTED
        for line in text.splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == state:
                raw, _, port = words[1].partition(":")
                address = _address(raw)
                if address is not None:
                    found.append(Listener(protocol, address, int(port, 16), words[9]))
    return tuple(found)


def _address(raw: str) -> str | None:
    """The IPv4 address that the socket hears on; None for one of IPv6 alone."""
    if len(raw) == 32:
        if raw.strip("0") == "":
            return "0.0.0.0"
        if not raw.startswith("0" * 16 + "FFFF0000"):
            return None
        raw = raw[24:]
    return socket.inet_ntoa(bytes.fromhex(raw)[::-1])


def owner(inode: str) -> str:
    """Who has the socket open: `nginx (pid 812)`, as far as /proc tells."""
    wanted = f"socket:[{inode}]"
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            if any(_link(each) == wanted for each in (folder / "fd").iterdir()):
                return f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
    return "another process"


def _link(path: Path) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return ""  # it was closed while we looked, as our own descriptor of the folder is
