"""Published ports, bound so that nobody else takes them: no rule of ours would tell a stranger that he will hear nothing.

In: ports. Out: bound sockets, never listening, handed to somebody who outlives us. Traffic never meets them: it is sent on
before (`nat_prerouting`, `nat_output`), and where no instance is ready TCP is reset by the kernel, UDP rejected by a rule.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from typing import Protocol as Interface

from orchestrator.drivers.network import checks
from orchestrator.drivers.network.namespace import entered, read_net
from orchestrator.drivers.network.rules import Port
from orchestrator.errors import StepError
from orchestrator.model.desired import Protocol
from orchestrator.supervisor.wire import KEPT


class Holder(Interface):
    """Keeps descriptors open under names, whatever becomes of this process."""

    def hold(self, name: str, fd: int) -> None: ...

    def let_go(self, names: Sequence[str]) -> None: ...

    def held(self) -> frozenset[str] | None:
        """The names; None where nobody can say now."""
        ...


class Ports:
    """`host`: the path of the namespace in which ports are published."""

    def __init__(self, host: str | None, holder: Holder) -> None:
        self._host = host
        self._holder = holder

    def hold(self, ports: Iterable[Port]) -> None:
        """Bind those that are not held yet. StepError names who has one already."""
        for each in self._not_held(ports):
            with entered(self._host):
                try:
                    bound = _bound(each)
                except StepError:
                    if not self._not_held([each]):  # by us, which nobody could say before
                        continue
                    raise
                with bound:
                    self._holder.hold(_name(each), bound.fileno())

    def let_go(self, ports: Iterable[Port]) -> None:
        names = [_name(each) for each in ports]
        if names:
            self._holder.let_go(names)

    def missing(self, ports: Iterable[Port]) -> list[Port]:
        """Those that should be held and are not."""
        wanted = list(ports)
        held = self._holder.held() if wanted else None
        return [] if held is None else [each for each in wanted if _name(each) not in held]

    def _not_held(self, ports: Iterable[Port]) -> list[Port]:
        wanted = list(ports)
        held = (self._holder.held() or frozenset()) if wanted else frozenset()
        return [each for each in wanted if _name(each) not in held]

    def held(self) -> frozenset[tuple[Protocol, str, int]]:
        """(protocol, address, port) of all that are held."""
        found = set()
        for name in self._holder.held() or ():
            if name.startswith(KEPT):
                address, _, rest = name.removeprefix(KEPT).rpartition(":")
                number, _, protocol = rest.partition("/")
                found.add((Protocol(protocol), address, int(number)))
        return frozenset(found)


def text(port: Port) -> str:
    return f"{port.address}:{port.host_port}/{port.protocol}"


def _name(port: Port) -> str:
    return f"{KEPT}{text(port)}"


def _bound(port: Port) -> socket.socket:
    kind = socket.SOCK_STREAM if port.protocol is Protocol.TCP else socket.SOCK_DGRAM
    each = socket.socket(socket.AF_INET, kind)
    try:
        try:
            each.bind((port.address, port.host_port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or kind is socket.SOCK_DGRAM:
                raise
            # Connections of an earlier server that are in TIME_WAIT; one that still listens refuses this as well.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind((port.address, port.host_port))
    except OSError as error:
        each.close()
        if error.errno != errno.EADDRINUSE:
            raise
        message = f"port {text(port)} is already taken by {_owner(port)}"
        raise StepError(
            message, call="bind", errno=error.errno, hint="publish another port, or stop that"
        ) from error
    return each


def _owner(port: Port) -> str:
    heard = checks.listeners({name: read_net(name) for name in checks.TABLES})
    found = next((each for each in heard if checks.heard(port, each)), None)
    return checks.owner(found.inode) if found is not None else "another process"
