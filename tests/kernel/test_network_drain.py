"""An instance that stops leaves its services first, has time for open connections, and leaves no flow behind."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.drivers.network.conntrack import Tracking
from orchestrator.drivers.network.namespace import entered
from orchestrator.model.desired import Protocol, Publish, ServiceSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from tests.kernel.network_lab import Machine, Wire, machine, serve

pytestmark = pytest.mark.root
BY = Ref(Kind.CONTAINER, "web-1/server")
WEB = ServiceSpec(
    networks=("front",),
    instances=("web-1", "web-2", "web-3"),
    publish=(
        Publish(host_port=8080, container_port=80),
        Publish(host_port=5353, container_port=53, protocol=Protocol.UDP),
    ),
)


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    each = Wire(groups=4)
    yield each
    each.close()


class Shop:
    def __init__(self, host: Machine) -> None:
        self.host = host
        host.network("front", "web", *WEB.instances, "api-1")
        self.groups = {name: host.group(name, "front") for name in (*WEB.instances, "api-1")}
        self.service = host.service("web", *WEB.instances, networks=("front",), publish=WEB.publish)
        self.virtual = host.virtual(self.service)["front"]
        self.flows = Tracking(host.wire.host)

    def target(self, name: str) -> Incarnation:
        return self.host.attachments[name].target

    def ready(self) -> object:
        return next(each.actual["ready"] for each in self.host.driver.observe("shop") if each.actual)

    def update(self, *ready: str) -> None:
        self.host.driver.update(self.service, replace(WEB, ready=ready), ("ready",), ())


@pytest.fixture
def shop(wire: Wire, tmp_path: Path) -> Iterator[Shop]:
    with machine(tmp_path, wire) as host:
        yield Shop(host)


@contextlib.contextmanager
def serving(shop: Shop, port: int, *, udp: bool = False) -> Iterator[None]:
    servers = [serve(shop.groups[name], name, port, udp=udp) for name in WEB.instances]
    try:
        yield
    finally:
        for each in servers:
            each.close()


def client(place: str, address: str, port: int, *, udp: bool = False) -> socket.socket:
    with entered(place):
        each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    each.settimeout(2)
    each.connect((address, port))
    return each


def test_a_drained_instance_is_out_until_its_container_runs_again(shop: Shop) -> None:
    driver, web = shop.host.driver, shop.target("web-1")
    driver.drain(web, BY, 1.0)
    assert shop.ready() == ["web-2", "web-3"]
    with serving(shop, 80):
        for address, port in ((shop.virtual, 80), ("127.0.0.1", 8080)):
            answers = set()
            for _ in range(6):
                with client(shop.host.wire.host, address, port) as each:
                    answers.add(each.recv(64).split()[0].decode())
            assert answers == {"web-2", "web-3"}
    driver.undrain(web, BY)
    assert shop.ready() == ["web-1", "web-2", "web-3"]


def test_a_drained_instance_is_in_again_once_the_service_says_so(shop: Shop) -> None:
    shop.host.driver.drain(shop.target("web-1"), BY, 1.0)
    shop.update("web-1", "web-3")
    assert shop.ready() == ["web-1", "web-3"]


def test_without_flows_nobody_waits(shop: Shop) -> None:
    began = time.monotonic()
    assert not shop.host.driver.drain(shop.target("web-1"), BY, 30.0)
    assert time.monotonic() - began < 15


def test_an_open_connection_has_time_and_ends_the_waiting(shop: Shop) -> None:
    listener = socket_in(shop.groups["web-1"], 80)
    shop.update("web-1")
    with client(shop.groups["api-1"], shop.virtual, 80) as asking:
        served, _ = listener.accept()
        done = threading.Event()
        drained = threading.Thread(
            target=lambda: (shop.host.driver.drain(shop.target("web-1"), BY, 30.0), done.set())
        )
        drained.start()
        while shop.ready() != []:
            assert not done.is_set()
        served.sendall(b"late")  # the connection goes on while its instance is out already
        assert asking.recv(8) == b"late" and not done.is_set()
        served.close()
        assert asking.recv(8) == b""
    drained.join(20)
    assert done.is_set()
    listener.close()


def test_the_time_ends_though_a_connection_does_not(shop: Shop) -> None:
    listener = socket_in(shop.groups["web-1"], 80)
    shop.update("web-1")
    with client(shop.groups["api-1"], shop.virtual, 80):
        assert shop.host.driver.drain(shop.target("web-1"), BY, 0.1)
        address = shop.host.address("web-1", "front")
        assert [each.server for each in shop.flows.flows([address])] == [address]
        shop.host.driver.forget(shop.target("web-1"))
        assert not shop.flows.flows([address])
    listener.close()


@pytest.mark.parametrize("by_drain", [True, False])
def test_datagrams_of_one_flow_move_to_another_instance(shop: Shop, by_drain: bool) -> None:
    with serving(shop, 53, udp=True), client(shop.host.wire.host, "127.0.0.1", 5353, udp=True) as asking:
        names = []
        for _ in range(2):
            asking.send(b"?")
            names.append(asking.recv(64).split()[0].decode())
            assert names[0] == names[-1]  # conntrack keeps a flow where it is
        rest = tuple(each for each in WEB.instances if each != names[0])
        if by_drain:
            shop.host.driver.drain(shop.target(names[0]), BY, 30.0)
        else:
            shop.update(*rest)
        asking.send(b"?")
        assert asking.recv(64).split()[0].decode() in rest


def test_no_request_fails_while_an_instance_goes_and_comes(shop: Shop) -> None:
    """Unhealthy by its own word, then stopped with a drain, then back: asked all the time by three sides."""
    ended = threading.Event()
    failed: list[str] = []
    served: list[str] = []
    sides = ((shop.groups["api-1"], shop.virtual, 80), (shop.host.wire.host, "127.0.0.1", 8080))

    def ask_all_the_time(place: str, address: str, port: int) -> None:
        while not ended.is_set():
            try:
                with client(place, address, port) as each:
                    served.append(each.recv(64).split()[0].decode())
            except (OSError, IndexError) as error:
                failed.append(f"{address}: {error!r}")

    with serving(shop, 80):
        askers = [threading.Thread(target=ask_all_the_time, args=side) for side in sides]
        for each in askers:
            each.start()
        for _ in range(2):
            shop.update("web-1", "web-2")
            shop.host.driver.drain(shop.target("web-3"), Ref(Kind.CONTAINER, "web-3/server"), 1.0)
            before = served.count("web-3")
            target = len(served) + 20
            while len(served) < target and not failed:
                time.sleep(0.01)
            assert served.count("web-3") <= before + len(sides)  # what was under way when the count was taken
            shop.update("web-1", "web-2", "web-3")
        ended.set()
        for each in askers:
            each.join()
    assert not failed
    assert set(served) == set(WEB.instances)


def socket_in(place: str, port: int) -> socket.socket:
    with entered(place):
        each = socket.socket()
    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    each.bind(("0.0.0.0", port))
    each.listen()
    return each
