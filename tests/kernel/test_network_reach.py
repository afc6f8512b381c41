"""Who reaches whom: the network driver against the real kernel, in namespaces of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.drivers.network.namespace import entered, get_sysctl, set_sysctl
from orchestrator.model.desired import Protocol, Publish
from tests.kernel.network_lab import HOST, OUTSIDE, Machine, Server, Wire, ask, machine, run, serve

pytestmark = pytest.mark.root

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    each = Wire(groups=4)
    yield each
    each.close()


@pytest.fixture
def host(wire: Wire, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, wire) as each:
        yield each


@pytest.fixture
def server() -> Iterator[Serve]:
    made: list[Server] = []

    def make(place: str, name: str, port: int, **more: object) -> Server:
        made.append(serve(place, name, port, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_members_of_a_network_reach_each_other_from_their_own_address(host: Machine, server: Serve) -> None:
    host.network("front", "web-1", "db-1")
    web, db = host.group("web-1", "front"), host.group("db-1", "front")
    server(db, "db", 5432)
    answer = ask(web, host.address("db-1", "front"), 5432)
    assert answer == ("db", host.address("web-1", "front"))
    assert f"{host.address('db-1', 'front')} db-1\n" in host.file("web-1", "hosts").read_text()


def test_another_network_is_out_of_reach_and_a_member_of_both_uses_the_right_address(
    host: Machine, server: Serve
) -> None:
    host.network("front", "web-1", "api-1")
    host.network("back", "db-1", "api-1")
    web, db = host.group("web-1", "front"), host.group("db-1", "back")
    api = host.group("api-1", "front", "back")
    server(db, "db", 80)
    server(web, "web", 80)
    server(api, "api", 80)
    assert ask(web, host.address("db-1", "back"), 80) is None
    assert ask(web, host.address("api-1", "back"), 80) is None
    assert ask(api, host.address("db-1", "back"), 80) == ("db", host.address("api-1", "back"))
    assert ask(api, host.address("web-1", "front"), 80) == ("web", host.address("api-1", "front"))


def test_outbound_traffic_bears_the_hosts_address(host: Machine, server: Serve) -> None:
    host.network("front", "web-1")
    web = host.group("web-1", "front")
    server(host.wire.outside, "world", 80)
    assert ask(web, OUTSIDE, 80) == ("world", HOST)


def test_an_internal_network_has_no_way_out_not_even_to_the_host(host: Machine, server: Serve) -> None:
    host.network("back", "db-1", "api-1", internal=True)
    db, api = host.group("db-1", "back"), host.group("api-1", "back")
    world = server(host.wire.outside, "world", 80, udp=True).heard
    server(host.wire.outside, "world", 80)
    server(host.wire.host, "host", 80)
    server(db, "db", 80)
    assert ask(db, OUTSIDE, 80) is None
    assert ask(db, HOST, 80) is None
    gateway = host.address("db-1", "back").rpartition(".")[0] + ".1"
    assert ask(db, gateway, 80) is None
    assert ask(api, host.address("db-1", "back"), 80) == ("db", host.address("api-1", "back"))
    assert ask(host.wire.host, host.address("db-1", "back"), 80) == ("db", gateway)
    # Nor with a default route that it could not make for itself without NET_ADMIN.
    with entered(db):
        run("ip", "route", "add", "default", "via", "169.254.1.1", "dev", "eth0", "onlink")
    assert ask(db, OUTSIDE, 80, udp=True, timeout=0.3) is None
    assert ask(db, HOST, 80) is None
    assert world == []


def test_a_service_balances_for_containers_for_the_host_and_for_itself(host: Machine, server: Serve) -> None:
    host.network("front", "web", "web-1", "web-2", "api-1")
    api = host.group("api-1", "front")
    for name in ("web-1", "web-2"):
        server(host.group(name, "front"), name, 80)
    virtual = host.virtual(host.service("web", "web-1", "web-2", networks=("front",)))["front"]
    web = host.attachments["web-1"].netns
    for place in (api, host.wire.host, web):
        answers = [ask(place, virtual, 80) for _ in range(4)]
        assert sorted(each[0] for each in answers if each) == ["web-1", "web-1", "web-2", "web-2"]
    assert ask(api, virtual, 80) in [(name, host.address("api-1", "front")) for name in ("web-1", "web-2")]
    assert f"{virtual} web\n" in host.file("api-1", "hosts").read_text()


def test_a_service_of_one_is_its_own_client(host: Machine, server: Serve) -> None:
    host.network("front", "web", "web-1")
    web = host.group("web-1", "front")
    server(web, "web-1", 80)
    virtual = host.virtual(host.service("web", "web-1", networks=("front",)))["front"]
    answer = ask(web, virtual, 80)
    assert answer is not None and answer[0] == "web-1"


def test_a_service_of_another_network_is_out_of_reach(host: Machine, server: Serve) -> None:
    host.network("front", "api-1")
    host.network("back", "db", "db-1")
    api, db = host.group("api-1", "front"), host.group("db-1", "back")
    server(db, "db-1", 80)
    virtual = host.virtual(host.service("db", "db-1", networks=("back",)))["back"]
    assert ask(host.wire.host, virtual, 80) is not None
    assert ask(api, virtual, 80) is None


def test_an_address_without_a_group_refuses_at_once(host: Machine) -> None:
    host.network("front", "api-1", "web", "web-1")
    api = host.group("api-1", "front")
    virtual = host.virtual(host.service("web", networks=("front",)))["front"]
    with entered(api):
        import socket

        client = socket.socket()
    with client:
        client.settimeout(2)
        with pytest.raises(OSError) as caught:
            client.connect((virtual, 80))
    assert not isinstance(caught.value, TimeoutError)


def test_ports_on_127_0_0_1_reach_tcp_udp_and_ranges_from_the_host_alone(
    host: Machine, server: Serve
) -> None:
    host.network("front", "web", "web-1")
    web = host.group("web-1", "front")
    server(web, "tcp", 80)
    server(web, "udp", 53, udp=True)
    for port in (9000, 9001, 9002):
        server(web, f"range{port}", port)
    host.service(
        "web",
        "web-1",
        networks=("front",),
        publish=(
            Publish(host_port=8080, container_port=80),
            Publish(host_port=5353, container_port=53, protocol=Protocol.UDP),
            *(Publish(host_port=port - 1000, container_port=port) for port in (9000, 9001, 9002)),
        ),
    )
    here = host.wire.host
    assert (ask(here, "127.0.0.1", 8080) or ("",))[0] == "tcp"
    assert (ask(here, "127.0.0.1", 5353, udp=True) or ("",))[0] == "udp"
    assert [(ask(here, "127.0.0.1", port) or ("",))[0] for port in (8000, 8001, 8002)] == [
        "range9000",
        "range9001",
        "range9002",
    ]
    assert ask(host.wire.outside, HOST, 8080, timeout=0.4) is None


def test_a_neighbour_cannot_send_to_127_0_0_1(host: Machine, server: Serve) -> None:
    host.network("front", "web", "web-1")
    web = host.group("web-1", "front")
    heard = server(web, "udp", 53, udp=True).heard
    host.service(
        "web",
        "web-1",
        networks=("front",),
        publish=(Publish(host_port=5353, container_port=53, protocol=Protocol.UDP),),
    )
    local = server(host.wire.host, "local", 7777, udp=True, address="127.0.0.1").heard
    for place, via in ((host.wire.outside, HOST), (web, "169.254.1.1")):
        link = "up0" if place == host.wire.outside else "eth0"
        with entered(place):
            set_sysctl(f"ipv4/conf/{link}/route_localnet", "1")
            run("ip", "link", "set", "lo", "down")
            run("ip", "address", "flush", "dev", "lo")
            run("ip", "route", "add", "127.0.0.0/8", "via", via, "dev", link, "onlink")
            source = OUTSIDE if link == "up0" else host.address("web-1", "front")
        assert ask(place, "127.0.0.1", 5353, udp=True, timeout=0.3, source=source) is None
        assert ask(place, "127.0.0.1", 7777, udp=True, timeout=0.3, source=source) is None
        with entered(place):
            run("ip", "route", "delete", "127.0.0.0/8", "dev", link)
            if link == "eth0":
                run("ip", "link", "set", "lo", "up")
    assert heard == local == []


def test_ports_on_every_address_reach_from_outside_from_the_host_and_from_other_networks(
    host: Machine, server: Serve
) -> None:
    host.network("front", "web", "web-1", "web-2")
    host.network("other", "api-1")
    host.network("closed", "db-1", internal=True)
    for name in ("web-1", "web-2"):
        server(host.group(name, "front"), name, 80)
    api, db = host.group("api-1", "other"), host.group("db-1", "closed")
    host.service(
        "web",
        "web-1",
        "web-2",
        networks=("front",),
        publish=(Publish(address="0.0.0.0", host_port=80, container_port=80),),
    )
    answers = [ask(host.wire.outside, HOST, 80) for _ in range(2)]
    assert sorted(answers) == [("web-1", OUTSIDE), ("web-2", OUTSIDE)]  # type: ignore[type-var]
    assert ask(host.wire.host, HOST, 80) is not None
    assert ask(host.wire.host, "127.0.0.1", 80) is not None
    assert ask(api, HOST, 80) is not None
    assert ask(host.attachments["web-1"].netns, HOST, 80) is not None
    assert ask(db, HOST, 80) is None


def test_a_port_on_one_address_and_one_into_an_internal_network(host: Machine, server: Serve) -> None:
    host.network("back", "db", "db-1", internal=True)
    server(host.group("db-1", "back"), "db-1", 80)
    host.service(
        "db", "db-1", networks=("back",), publish=(Publish(address=HOST, host_port=81, container_port=80),)
    )
    assert ask(host.wire.outside, HOST, 81) is not None
    assert ask(host.wire.host, "127.0.0.1", 81) is None


def test_outside_reaches_no_address_of_ours_directly(host: Machine, server: Serve) -> None:
    host.network("front", "web-1")
    web = host.group("web-1", "front")
    heard = server(web, "web-1", 80, udp=True).heard
    address = host.address("web-1", "front")
    with entered(host.wire.outside):
        run("ip", "route", "add", f"{address}/32", "via", HOST)
    try:
        assert ask(host.wire.outside, address, 80, udp=True, timeout=0.3) is None
        assert heard == []
    finally:
        with entered(host.wire.outside):
            run("ip", "route", "delete", f"{address}/32")


@pytest.mark.parametrize("strict", ["1", "0"], ids=["with rp_filter", "by the rules alone"])
def test_a_spoofed_source_is_dropped(host: Machine, server: Serve, strict: str) -> None:
    host.network("front", "bad-1", "web-1", "db-1")
    bad, db = host.group("bad-1", "front"), host.group("db-1", "front")
    host.group("web-1", "front")
    stolen = host.address("web-1", "front")
    link = host.layout.link(host.attachments["bad-1"].target.id)
    with entered(host.wire.host):
        assert get_sysctl(f"ipv4/conf/{link}/rp_filter") == "1"
        set_sysctl(f"ipv4/conf/{link}/rp_filter", strict)
    with entered(bad):
        run("ip", "address", "add", f"{stolen}/32", "dev", "eth0")
    heard = server(db, "db", 80, udp=True).heard
    ask(bad, host.address("db-1", "front"), 80, udp=True, timeout=0.2, source=stolen)
    assert ask(bad, host.address("db-1", "front"), 80, udp=True) is not None
    assert heard == [host.address("bad-1", "front")]


def test_strangers_are_not_forwarded_where_forwarding_was_off(host: Machine, server: Serve) -> None:
    far = host._free.pop()
    name = Path(far).name
    with entered(host.wire.host):
        run("ip", "link", "add", "far0", "type", "veth", "peer", "name", "far0", "netns", name)
        run("ip", "address", "add", "203.0.113.1/24", "dev", "far0")
        run("ip", "link", "set", "far0", "up")
    with entered(far):
        run("ip", "address", "add", "203.0.113.9/24", "dev", "far0")
        run("ip", "link", "set", "far0", "up")
        run("ip", "route", "add", "default", "via", "203.0.113.1")
    try:
        heard = server(far, "far", 80, udp=True).heard
        host.network("front", "web-1")
        web = host.group("web-1", "front")
        with entered(host.wire.outside):
            run("ip", "route", "add", "203.0.113.0/24", "via", HOST)
        assert ask(host.wire.outside, "203.0.113.9", 80, udp=True, timeout=0.3) is None
        assert heard == []
        assert ask(web, "203.0.113.9", 80, udp=True) == ("far", "203.0.113.1")
    finally:
        with entered(host.wire.outside):
            run("ip", "route", "flush", "203.0.113.0/24")
        with entered(host.wire.host):
            run("ip", "link", "delete", "far0")
        host._free.append(far)


def test_the_gateway_forwards_to_a_resolver_that_only_the_host_reaches(
    wire: Wire, tmp_path: Path, server: Serve
) -> None:
    with machine(tmp_path / "m", wire, resolv="nameserver 127.0.0.53\nsearch example.org\n") as host:
        host.network("front", "web-1")
        host.network("back", "db-1", internal=True)
        web, db = host.group("web-1", "front"), host.group("db-1", "back")
        gateway = host.address("web-1", "front").rpartition(".")[0] + ".1"
        assert host.file("web-1", "resolv.conf").read_text() == f"nameserver {gateway}\n"
        server(wire.host, "resolver", 53, udp=True, address="127.0.0.53")
        server(wire.host, "resolver", 53, address="127.0.0.53")
        assert ask(web, gateway, 53, udp=True) == ("resolver", host.address("web-1", "front"))
        assert ask(web, gateway, 53) == ("resolver", host.address("web-1", "front"))
        assert ask(db, gateway, 53, udp=True, timeout=0.3) is None
        assert "nameserver" not in host.file("db-1", "resolv.conf").read_text()
