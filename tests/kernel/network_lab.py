"""A machine, its neighbour and some groups, all as network namespaces of the test's own; servers and clients in them.

A socket stays in the namespace where it was opened, so servers are threads of the test: no process is started.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.drivers.network.driver import NetworkDriver
from orchestrator.drivers.network.namespace import entered, set_sysctl
from orchestrator.model.desired import NetworkSpec, Publish, ServiceSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.ports.driver import Attachment
from orchestrator.ports.layout import Layout

HOST, OUTSIDE = "198.51.100.1", "198.51.100.9"
_ids = itertools.count(1)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Wire:
    """Namespaces: `host` with one link to `outside` (its default route), and empty ones for groups."""

    def __init__(self, groups: int) -> None:
        self._mark = f"nt{os.getpid()}"
        self.host, self.outside = self._add("host"), self._add("outside")
        self.groups = [self._add(f"g{number}") for number in range(groups)]
        with entered(self.host):
            set_sysctl("ipv4/ip_forward", "0")  # a new namespace takes over the machine's
            run("ip", "link", "set", "lo", "up")
            run(
                "ip",
                "link",
                "add",
                "up0",
                "type",
                "veth",
                "peer",
                "name",
                "up0",
                "netns",
                f"{self._mark}-outside",
            )
            run("ip", "address", "add", f"{HOST}/24", "dev", "up0")
            run("ip", "link", "set", "up0", "up")
        with entered(self.outside):
            run("ip", "address", "add", f"{OUTSIDE}/24", "dev", "up0")
            run("ip", "link", "set", "up0", "up")
        with entered(self.host):
            run("ip", "route", "add", "default", "via", OUTSIDE)

    def _add(self, name: str) -> str:
        run("ip", "netns", "add", f"{self._mark}-{name}")
        return f"/run/netns/{self._mark}-{name}"

    def close(self) -> None:
        for path in (self.host, self.outside, *self.groups):
            run("ip", "netns", "delete", Path(path).name)


def serve(place: str, name: str, port: int, *, udp: bool = False, address: str = "0.0.0.0") -> Server:
    return Server(place, name, port, udp, address)


class Server:
    """Answers `NAME PEER-ADDRESS` to whoever asks; what it heard is in `heard`."""

    def __init__(self, place: str, name: str, port: int, udp: bool, address: str) -> None:
        self.name = name
        self.heard: list[str] = []
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        with entered(place):
            self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, port))
        self._socket.settimeout(0.05)
        if not udp:
            self._socket.listen(16)
        self._ended = False
        self._thread = threading.Thread(target=self._datagrams if udp else self._streams)
        self._thread.start()

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()

    def _datagrams(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                _, peer = self._socket.recvfrom(64)
                self.heard.append(peer[0])
                self._socket.sendto(f"{self.name} {peer[0]}".encode(), peer)

    def _streams(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                stream, peer = self._socket.accept()
                with stream:
                    self.heard.append(peer[0])
                    stream.sendall(f"{self.name} {peer[0]}".encode())


def ask(
    place: str, address: str, port: int, *, udp: bool = False, timeout: float = 2.0, source: str | None = None
) -> tuple[str, str] | None:
    """(server's name, our address as it saw it); None where no answer came."""
    with entered(place):
        each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    with each:
        each.settimeout(timeout)
        try:
            if source:
                each.bind((source, 0))
            each.connect((address, port))
            if udp:
                each.send(b"?")
            name, peer = each.recv(64).decode().split()
        except OSError:
            return None
        return name, peer


class Holder:
    """Holds descriptors in the test's own process, in the place of the keeper."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}

    def hold(self, name: str, fd: int) -> None:
        self.let_go([name])
        self.fds[name] = os.dup(fd)

    def let_go(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self.fds:
                os.close(self.fds.pop(name))

    def held(self) -> frozenset[str]:
        return frozenset(self.fds)


class Machine:
    """One instance of ours on the wire's host, driven as the executor would."""

    def __init__(self, root: Path, wire: Wire, *, resolv: str = "nameserver 203.0.113.53\n") -> None:
        (root / "resolv.conf").write_text(resolv)
        self.wire = wire
        self.layout = Layout.at(root)
        self.holder = Holder()
        self.driver = NetworkDriver(
            self.layout, holder=self.holder, host_netns=wire.host, resolv=(str(root / "resolv.conf"),)
        )
        self._free = list(wire.groups)
        self.made: list[Incarnation] = []
        self.attachments: dict[str, Attachment] = {}

    def network(self, name: str, *members: str, stack: str = "shop", **more: object) -> Incarnation:
        target = incarnation(Kind.NETWORK, name, stack)
        self.made.append(target)
        self.driver.create(target, NetworkSpec(members=members, **more), ())  # type: ignore[arg-type]
        self.driver.start(target)
        return target

    def service(
        self, name: str, *instances: str, networks: tuple[str, ...], publish: tuple[Publish, ...] = ()
    ) -> Incarnation:
        target = incarnation(Kind.SERVICE, name, "shop")
        self.made.append(target)
        self.driver.create(target, ServiceSpec(networks=networks, instances=instances, publish=publish), ())
        self.driver.start(target)
        return target

    def group(self, name: str, *networks: str, stack: str = "shop", dns: tuple[str, ...] = ()) -> str:
        """Attach an instance; returns the path of its namespace."""
        attachment = Attachment(
            target=incarnation(Kind.GROUP, name, stack),
            service=name.rpartition("-")[0],
            hostname=name,
            networks=networks,
            dns=dns,
            netns=self._free.pop(0),
        )
        self.attachments[name] = attachment
        self.driver.attach(attachment)
        return attachment.netns

    def address(self, name: str, network: str) -> str:
        return self.driver.addresses(self.attachments[name].target)[network]

    def virtual(self, target: Incarnation) -> Mapping[str, str]:
        return next(each.addresses for each in self.driver.observe(target.stack) if each.id == target.id)

    def file(self, group: str, name: str) -> Path:
        return self.layout.group_run(self.attachments[group].target.id) / name

    def detach(self, name: str) -> None:
        attachment = self.attachments.pop(name)
        self.driver.detach(attachment.target)
        self._free.append(attachment.netns)

    def close(self) -> None:
        for name in list(self.attachments):
            self.detach(name)
        for target in reversed(self.made):
            self.driver.stop(target)
            self.driver.delete(target)
        self.made.clear()


def incarnation(kind: Kind, name: str, stack: str) -> Incarnation:
    return Incarnation(stack, Ref(kind, name), f"{next(_ids):012x}")


@contextlib.contextmanager
def machine(root: Path, wire: Wire, **more: str) -> Iterator[Machine]:
    root.mkdir(parents=True, exist_ok=True)
    each = Machine(root, wire, **more)
    try:
        yield each
    finally:
        each.close()
