"""Traffic goes to the instances that are ready, and to nobody at once where there are none."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.drivers.network.namespace import entered
from orchestrator.errors import StepError
from orchestrator.model.desired import Protocol, Publish, ServiceSpec, Stack
from orchestrator.model.ids import Incarnation
from tests.kernel.network_lab import HOST, Machine, Wire, ask, machine, serve

pytestmark = pytest.mark.root
PORTS = tuple(
    Publish(address=address, host_port=8080, container_port=80, protocol=protocol)
    for address in ("127.0.0.1", HOST)
    for protocol in Protocol
)
WEB = ServiceSpec(networks=("front",), instances=("web-1", "web-2"), publish=PORTS)


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    each = Wire(groups=3)
    yield each
    each.close()


@pytest.fixture
def host(wire: Wire, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, wire) as each:
        each.network("front", "web", "web-1", "web-2", "api-1")
        yield each


def become(host: Machine, target: Incarnation, *ready: str) -> None:
    host.driver.update(target, replace(WEB, ready=ready), ("ready",), ())


def actual(host: Machine, target: Incarnation) -> object:
    return next(each.actual["ready"] for each in host.driver.observe("shop") if each.id == target.id)


def refused(place: str, address: str, port: int, *, udp: bool) -> bool:
    """Whether the answer is no, and comes at once."""
    with entered(place):
        each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    began = time.monotonic()
    with each:
        each.settimeout(5)
        try:
            each.connect((address, port))
            each.send(b"?")
            each.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return time.monotonic() - began < 4
    return False


def test_only_ready_instances_are_reached(host: Machine) -> None:
    servers = [serve(host.group(name, "front"), name, 80) for name in ("web-1", "web-2")]
    asker = host.group("api-1", "front")
    service = host.service("web", "web-1", "web-2", networks=("front",), publish=PORTS)
    virtual = host.virtual(service)["front"]
    try:
        for ready in (("web-1", "web-2"), ("web-2",), ("web-1",), ("web-1", "web-2")):
            become(host, service, *ready)
            assert actual(host, service) == list(ready)
            for place, address, port in (
                (asker, virtual, 80),
                (host.wire.host, "127.0.0.1", 8080),
                (host.wire.outside, HOST, 8080),
            ):
                answers = {(ask(place, address, port) or ("nobody",))[0] for _ in range(2)}
                assert answers == set(ready)
    finally:
        for each in servers:
            each.close()


@pytest.mark.parametrize("udp", [False, True])
def test_with_nobody_ready_everybody_is_refused_at_once(host: Machine, udp: bool) -> None:
    for name in ("web-1", "web-2"):
        host.group(name, "front")
    asker = host.group("api-1", "front")
    service = host.service("web", "web-1", "web-2", networks=("front",), publish=PORTS)
    become(host, service)
    assert actual(host, service) == []
    virtual = host.virtual(service)["front"]
    assert refused(asker, virtual, 80, udp=udp)
    assert refused(host.wire.host, virtual, 80, udp=udp)
    assert refused(host.wire.host, "127.0.0.1", 8080, udp=udp)
    assert refused(host.wire.outside, HOST, 8080, udp=udp)


def test_a_published_port_is_bound_for_as_long_as_it_is_published(host: Machine) -> None:
    service = host.service("web", "web-1", "web-2", networks=("front",), publish=PORTS)
    assert [taken(host, each) for each in PORTS] == [True] * len(PORTS)
    host.driver.update(service, replace(WEB, publish=PORTS[:1]), ("publish",), ())
    assert [taken(host, each) for each in PORTS] == [True, False, False, False]
    wide = (replace(PORTS[0], address="0.0.0.0"),)  # what it takes in must be let go first
    host.driver.update(service, replace(WEB, publish=wide), ("publish",), ())
    assert taken(host, PORTS[0])
    host.driver.stop(service)
    assert not taken(host, PORTS[0]) and not host.holder.fds


def test_a_port_that_nobody_holds_any_more_is_told_and_bound_again(host: Machine) -> None:
    service = host.service("web", "web-1", "web-2", networks=("front",), publish=PORTS)
    host.holder.let_go(list(host.holder.fds))
    assert damage(host, service) == tuple(f"port {each.address}:8080/{each.protocol}" for each in PORTS)
    host.driver.update(service, replace(WEB, publish=PORTS), (), ())
    assert damage(host, service) == () and all(taken(host, each) for each in PORTS)


@pytest.mark.parametrize("protocol", Protocol)
def test_a_stranger_on_the_port_is_named_and_ours_is_none(host: Machine, protocol: Protocol) -> None:
    port = Publish(host_port=8080, container_port=80, protocol=protocol)
    stranger = binding(host, port)
    if protocol is Protocol.TCP:
        stranger.listen()
    with pytest.raises(StepError) as caught:
        host.service("web", "web-1", networks=("front",), publish=(port,))
    comm = Path("/proc/self/comm").read_text().strip()
    said = f"port 127.0.0.1:8080/{protocol} is already taken by {comm} (pid {os.getpid()})"
    assert caught.value.message == said
    stranger.close()
    host.driver.start(host.made[-1])
    wish = Stack(name="shop", resources={host.made[-1].ref: replace(WEB, publish=(port,))}, needs={})
    assert not host.driver.check(wish)


def taken(host: Machine, port: Publish) -> bool:
    try:
        binding(host, port).close()
    except OSError:
        return True
    return False


def binding(host: Machine, port: Publish) -> socket.socket:
    """As servers bind, ready to take over what is in TIME_WAIT."""
    with entered(host.wire.host):
        tcp = port.protocol is Protocol.TCP
        each = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(tcp))
    try:
        each.bind((port.address, port.host_port))
    except OSError:
        each.close()
        raise
    return each


def damage(host: Machine, target: Incarnation) -> tuple[str, ...]:
    return next(each.damage for each in host.driver.observe("shop") if each.id == target.id)
