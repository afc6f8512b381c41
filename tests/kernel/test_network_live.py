"""Groups join and leave networks, and ports come and go, while what runs there goes on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.drivers.network.namespace import entered, link_exists
from orchestrator.model.desired import NetworkSpec, Publish, ServiceSpec
from orchestrator.model.ids import Incarnation
from orchestrator.model.observed import Phase
from tests.kernel.network_lab import OUTSIDE, Machine, Wire, ask, machine, run, serve

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    each = Wire(groups=4)
    yield each
    each.close()


@pytest.fixture
def host(wire: Wire, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, wire) as each:
        yield each


def rejoin(host: Machine, name: str, *networks: str) -> None:
    host.attachments[name] = replace(host.attachments[name], networks=networks)
    host.driver.rejoin(host.attachments[name])


def as_attached(host: Machine, name: str) -> dict[str, str]:
    """All that an attachment makes: both ends in the kernel, and the files."""
    each = host.attachments[name]
    link = host.layout.link(each.target.id)
    found = {}
    with entered(host.wire.host):
        if link_exists(link):
            found["ways"] = run("ip", "-4", "route", "show", "dev", link)
            found["neighbours"] = "\n".join(
                sorted(run("ip", "neighbour", "show", "dev", link, "nud", "permanent").splitlines())
            )
    with entered(each.netns):
        found["addresses"] = "\n".join(
            sorted(line.split()[3] for line in run("ip", "-4", "-o", "address").splitlines())
        )
        found["routes"] = run("ip", "-4", "route", "show", "table", "all")
    return found | {file: host.file(name, file).read_text() for file in ("hosts", "resolv.conf", "hostname")}


@contextmanager
def conversation(server: str, port: int, client: str, to: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection from `client` to a server at `port` that sends back what it hears."""
    with entered(server):
        listening = socket.create_server(("0.0.0.0", port))
    with entered(client):
        ours = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listening, ours:
        listening.settimeout(5)
        ours.settimeout(5)
        ours.connect(to)
        theirs, _ = listening.accept()

        def echo() -> None:
            while heard := theirs.recv(64):
                theirs.sendall(heard)

        thread = threading.Thread(target=echo)
        thread.start()
        try:
            yield ours
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            theirs.close()


def goes_on(connection: socket.socket, word: str) -> bool:
    connection.sendall(word.encode())
    return connection.recv(64).decode() == word


def test_a_connection_over_a_network_that_stays_survives_joining_and_leaving_others(host: Machine) -> None:
    host.network("front", "web-1", "db-1")
    host.network("back", "web-1", "db-1")
    web, db = host.group("web-1", "front"), host.group("db-1", "front", "back")
    with conversation(db, 5432, web, (host.address("db-1", "front"), 5432)) as connection:
        assert goes_on(connection, "before")
        assert ask(web, host.address("db-1", "back"), 5432, timeout=0.3) is None
        rejoin(host, "web-1", "back", "front")
        assert goes_on(connection, "joined")
        with conversation(db, 5433, web, (host.address("db-1", "back"), 5433)) as other:
            assert goes_on(other, "over back")
        rejoin(host, "web-1", "front")
        assert goes_on(connection, "left")
        assert ask(web, host.address("db-1", "back"), 5433, timeout=0.3) is None


def test_every_move_ends_in_what_a_new_attachment_would_be(host: Machine) -> None:
    """Routes, the default route's source, neighbours, files; from loopback alone and back to it."""
    host.network("shut", "web-1", "db-1", internal=True)
    host.network("front", "web-1", "db-1")
    host.network("back", "web-1", "db-1")
    host.group("db-1", "shut", "front", "back")
    host.group("web-1")
    files = {name: host.file("web-1", name).stat().st_ino for name in ("hosts", "resolv.conf")}
    moves = (("shut",), ("shut", "front"), ("back", "front"), ("front",), ("shut", "back"), ())
    for networks in moves:
        rejoin(host, "web-1", *networks)
        rejoin(host, "web-1", *networks)  # as after a kill before it was recorded
        moved = as_attached(host, "web-1")
        assert list(host.driver.addresses(host.attachments["web-1"].target)) == list(networks)
        assert ("ways" in moved) is bool(networks)
        assert files == {name: host.file("web-1", name).stat().st_ino for name in files}
        host.driver.attach(host.attachments["web-1"])
        assert as_attached(host, "web-1") == moved


def test_the_way_out_follows_the_first_open_network(host: Machine) -> None:
    host.network("shut", "web-1", internal=True)
    host.network("front", "web-1")
    web = host.group("web-1", "shut")
    server = serve(host.wire.outside, "world", 8081)
    try:
        assert ask(web, OUTSIDE, 8081, timeout=0.3) is None
        rejoin(host, "web-1", "shut", "front")
        assert ask(web, OUTSIDE, 8081) is not None
        rejoin(host, "web-1", "shut")
        assert ask(web, OUTSIDE, 8081, timeout=0.3) is None
    finally:
        server.close()


def test_an_address_that_was_left_is_free_once_its_network_has_forgotten_the_name(host: Machine) -> None:
    front = host.network("front", "web-1", subnet="10.85.1.0/29")
    host.network("back", "web-1")
    host.group("web-1", "front", "back")
    left = host.address("web-1", "front")
    update(host, front, "db-1")  # the planner's order: the network's members first
    rejoin(host, "web-1", "back")
    update(host, front, "db-1", "api-1")
    host.group("db-1", "front")
    host.group("api-1", "front")
    assert host.address("api-1", "front") == left


def update(host: Machine, network: Incarnation, *members: str, subnet: str | None = "10.85.1.0/29") -> None:
    spec = NetworkSpec(members=members, subnet=subnet)
    host.driver.update(network, spec, ("members",), ())


def test_an_allocation_that_was_lost_is_made_again_and_is_seen_by_its_groups(host: Machine) -> None:
    front = host.network("front", "web-1", "db-1")
    web = host.group("db-1", "front")
    target = host.attachments["db-1"].target
    before = dict(host.driver.addresses(target))
    next(host.layout.networks.glob("*.front.json")).unlink()
    assert [each.phase for each in host.driver.observe("shop")] == [Phase.CREATED]
    assert host.driver.addresses(target) == {}
    update(host, front, "db-1", subnet=None)  # the rest of its members left with it: another address
    host.driver.start(front)
    assert [each.phase for each in host.driver.observe("shop")] == [Phase.RUNNING]
    assert host.driver.addresses(target) == {}
    rejoin(host, "db-1", "front")
    assert host.driver.addresses(target) not in ({}, before)
    with entered(web):
        assert run("ip", "-4", "-o", "address").count("inet") == 2  # loopback's, and one of ours


def test_ports_come_and_go_and_connections_through_others_go_on(host: Machine) -> None:
    host.network("front", "web", "web-1")
    web = host.group("web-1", "front")
    kept, old = Publish(host_port=8080, container_port=80), Publish(host_port=8081, container_port=90)
    service = host.service("web", "web-1", networks=("front",), publish=(kept, old))
    server = serve(web, "web", 90)

    def publish(*ports: Publish) -> None:
        spec = ServiceSpec(networks=("front",), instances=("web-1",), publish=ports)
        host.driver.update(service, spec, ("publish",), ())

    def reached(port: int) -> bool:
        return ask(host.wire.host, "127.0.0.1", port, timeout=0.3) is not None

    try:
        with conversation(web, 80, host.wire.host, ("127.0.0.1", 8080)) as connection:
            assert goes_on(connection, "before") and reached(8081)
            publish(kept, replace(old, host_port=8082))
            assert goes_on(connection, "changed") and reached(8082) and not reached(8081)
            publish(kept, replace(old, host_port=8082), old)
            assert goes_on(connection, "added") and reached(8082) and reached(8081)
            publish(kept)
            assert goes_on(connection, "removed") and not reached(8082) and not reached(8081)
    finally:
        server.close()


def test_groups_of_two_stacks_meet_on_a_network_of_one_of_them(host: Machine) -> None:
    host.network("edge", "web", "web-1", stack="infra")
    host.network("own", "db-1")
    host.network("infra/edge", "api", "api-1")
    web, db = host.group("web-1", "edge", stack="infra"), host.group("db-1", "own")
    api = host.group("api-1", "infra/edge")
    service = host.service("api", "api-1", networks=("infra/edge",))
    server, other = serve(web, "web", 80), serve(api, "api", 80)
    try:
        there = host.address("web-1", "edge")
        assert ask(api, there, 80) == ("web", host.address("api-1", "infra/edge"))
        assert ask(web, host.virtual(service)["infra/edge"], 80) == ("api", there)
        assert ask(db, there, 80, timeout=0.3) is None
    finally:
        server.close()
        other.close()
    assert f"{there} web-1.infra web-1\n" in host.file("api-1", "hosts").read_text()
    assert (
        f"{host.address('api-1', 'infra/edge')} api-1.shop api-1\n" in host.file("web-1", "hosts").read_text()
    )
    borrowed = next(each for each in host.made if each.ref.owner)
    host.detach("api-1")
    for target in (service, borrowed):
        host.driver.stop(target)
        host.driver.delete(target)
        host.made.remove(target)
    assert "api" not in host.file("web-1", "hosts").read_text()
    assert {str(each.ref): each.phase for each in host.driver.observe("infra")} == {
        "network/edge": Phase.RUNNING
    }
