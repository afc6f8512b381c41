"""How networks, services and attachments come, change and go, and what is left: nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.drivers.network.driver import NetworkDriver
from orchestrator.drivers.network.namespace import entered, get_sysctl, link_exists, link_index, set_sysctl
from orchestrator.errors import StepError
from orchestrator.model.desired import NetworkSpec, Protocol, Publish, ServiceSpec, Stack
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Phase
from orchestrator.ports.driver import Attachment
from tests.kernel.network_lab import Machine, Wire, ask, incarnation, machine, run, serve

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    each = Wire(groups=6)
    yield each
    each.close()


@pytest.fixture
def host(wire: Wire, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, wire) as each:
        yield each


def world(wire: Wire) -> dict[str, str]:
    with entered(wire.host):
        return {
            # Without carrier and duplicate address detection, which settle in their own time.
            "links": " ".join(line.split()[1] for line in run("ip", "-o", "link").splitlines()),
            "addresses": run("ip", "-4", "-o", "address"),
            "routes": run("ip", "-4", "route", "show", "table", "all").replace(" linkdown", ""),
            "neighbours": run("ip", "neighbour", "show", "nud", "permanent"),
            "rules": run("nft", "list", "ruleset"),
            "forwarding": get_sysctl("ipv4/ip_forward"),
        }


def phases(host: Machine, stack: str = "shop") -> dict[str, Phase]:
    return {str(each.ref): each.phase for each in host.driver.observe(stack)}


def update(host: Machine, target: Incarnation, spec: NetworkSpec | ServiceSpec, *fields: str) -> None:
    host.driver.update(target, spec, fields, ())


def test_what_was_made_is_gone_after_delete(wire: Wire, tmp_path: Path) -> None:
    before = world(wire)
    with machine(tmp_path, wire) as host:
        host.network("front", "web", "web-1", "web-2")
        for name in ("web-1", "web-2"):
            host.group(name, "front")
        publish = (Publish(host_port=8080, container_port=80),)
        service = host.service("web", "web-1", "web-2", networks=("front",), publish=publish)
        assert phases(host) == {"network/front": Phase.RUNNING, "service/web": Phase.RUNNING}
        assert "p_tcp_127_0_0_1_8080" in world(wire)["rules"]
        host.driver.delete(service)
        host.made.remove(service)
        assert "p_tcp_127_0_0_1_8080" not in world(wire)["rules"]
        assert phases(host) == {"network/front": Phase.RUNNING}
        assert world(wire)["forwarding"] == "1"
    assert world(wire) == before
    assert host.driver.stacks() == frozenset() and host.driver.observe("shop") == ()
    left = [each.name for each in tmp_path.rglob("*") if each.is_file()]
    assert sorted(left) == [".lock", ".lock", "resolv.conf"]
    with entered(wire.groups[0]):
        assert not link_exists("eth0")


def test_another_boot_has_nothing_in_effect_and_keeps_addresses(
    host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = host.network("front", "web", "web-1")
    host.group("web-1", "front")
    address = host.address("web-1", "front")
    again = NetworkDriver(host.layout, holder=host.holder, host_netns=host.wire.host)
    for part in (again._effect, again._groups, again._groups.register):
        monkeypatch.setattr(part, "_boot_id", "another")
    target = host.attachments["web-1"].target
    assert {each.phase for each in again.observe("shop")} == {Phase.CREATED}
    assert not again.attached(target) and not again.addresses(target)
    again.start(network)
    again.attach(host.attachments["web-1"])
    assert again.addresses(target) == {"front": address}
    again.stop(network)


def test_closing_and_opening_a_network_is_live(host: Machine) -> None:
    network = host.network("front", "web-1")
    web = host.group("web-1", "front")
    outside = serve(host.wire.outside, "world", 80)
    try:
        for internal in (True, False):
            update(host, network, NetworkSpec(members=("web-1",), internal=internal), "internal")
            with entered(web):
                assert ("default" in run("ip", "route")) is not internal
            assert (ask(web, "198.51.100.9", 80) is None) is internal
    finally:
        outside.close()


def test_new_members_appear_in_hosts_on_the_same_inode_and_old_ones_keep_their_address(host: Machine) -> None:
    network = host.network("front", "web", "web-1", "web-2")
    host.group("web-1", "front")
    host.group("web-2", "front")
    old = host.address("web-2", "front")
    hosts = host.file("web-1", "hosts")
    inode = hosts.stat().st_ino
    update(host, network, NetworkSpec(members=("web", "web-1", "api-1")), "members")
    text = hosts.read_text()
    assert hosts.stat().st_ino == inode
    assert " api-1\n" in text and " web-2\n" not in text
    assert old not in text  # web-2 is still attached: nobody else gets its address
    host.detach("web-2")
    update(host, network, NetworkSpec(members=("web", "web-1", "api-1", "job-1")), "members")
    assert f"{old} job-1\n" in hosts.read_text()


def test_a_service_follows_its_instances_and_ports_live(host: Machine) -> None:
    host.network("front", "web", "web-1", "web-2")
    servers = [serve(host.group(name, "front"), name, 80) for name in ("web-1", "web-2")]
    try:
        service = host.service("web", "web-1", networks=("front",))
        virtual = host.virtual(service)["front"]
        publish = (Publish(host_port=8081, container_port=80),)
        update(
            host,
            service,
            ServiceSpec(networks=("front",), instances=("web-1", "web-2"), publish=publish),
            "instances",
            "publish",
        )
        for address, port in ((virtual, 80), ("127.0.0.1", 8081)):
            answers = {(ask(host.wire.host, address, port) or ("",))[0] for _ in range(2)}
            assert answers == {"web-1", "web-2"}
        update(host, service, ServiceSpec(networks=("front",), instances=("web-2",)), "instances", "publish")
        assert [(ask(host.wire.host, virtual, 80) or ("",))[0] for _ in range(2)] == ["web-2", "web-2"]
        assert ask(host.wire.host, "127.0.0.1", 8081) is None
    finally:
        for each in servers:
            each.close()


def test_an_attach_that_was_killed_is_made_anew(host: Machine) -> None:
    host.network("front", "web-1", "web-2")
    host.group("web-1", "front")
    attachment = host.attachments["web-1"]
    host.file("web-1", "network.json").write_text('{"boot": "')
    assert not host.driver.attached(attachment.target)
    host.driver.attach(attachment)
    assert host.driver.attached(attachment.target)
    with entered(host.wire.host):
        run("ip", "link", "delete", host.layout.link(attachment.target.id))
    host.driver.attach(attachment)
    other = serve(host.group("web-2", "front"), "web-2", 80)
    try:
        assert ask(attachment.netns, host.address("web-2", "front"), 80) is not None
    finally:
        other.close()


def test_every_operation_may_come_twice(host: Machine) -> None:
    network = host.network("front", "web", "web-1")
    service = host.service("web", "web-1", networks=("front",))
    host.driver.create(network, NetworkSpec(members=("web", "web-1")), ())
    host.driver.start(network)
    host.driver.start(service)
    host.group("web-1", "front")
    before = world(host.wire)
    host.driver.start(service)
    assert world(host.wire) == before
    target = host.attachments["web-1"].target
    for _ in range(2):
        host.driver.detach(target)
    for each in (service, service, network, network):
        host.driver.stop(each)
        host.driver.delete(each)


def test_a_group_on_no_network_has_loopback_alone(host: Machine) -> None:
    place = host.group("job-1")
    with entered(place):
        assert "lo" in run("ip", "-br", "link", "show", "up")
        assert not link_exists("eth0")
    assert host.driver.attached(host.attachments["job-1"].target)
    assert host.file("job-1", "hosts").read_text() == "127.0.0.1 localhost\n127.0.0.1 job-1\n"
    assert host.file("job-1", "hostname").read_text() == "job-1\n"
    assert world(host.wire)["rules"] == ""


def test_dns_is_what_the_user_says_else_what_the_host_uses(host: Machine) -> None:
    host.network("front", "web-1", "web-2")
    host.group("web-1", "front")
    host.group("web-2", "front", dns=("192.0.2.1", "192.0.2.2"))
    assert host.file("web-1", "resolv.conf").read_text() == "nameserver 203.0.113.53\n"
    text = host.file("web-2", "resolv.conf").read_text()
    assert text == "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"


def test_the_link_is_marked_and_ipv6_is_off(host: Machine) -> None:
    host.network("front", "web-1")
    web = host.group("web-1", "front")
    with entered(host.wire.host):
        link = run("ip", "link", "show", host.layout.link(host.attachments["web-1"].target.id))
    assert f"alias orchestrator/{host.layout.instance}/shop/group/web-1" in link
    with entered(web):
        assert run("ip", "-6", "address") == ""


def test_many_threads_attach_and_start_at_once_and_stay_where_they_were(host: Machine) -> None:
    names = tuple(f"web-{number}" for number in range(1, 7))
    network = host.network("front", *names, *(f"s{number}" for number in range(30)))
    del network
    home = os.readlink("/proc/self/ns/net")
    seen: set[str] = set()

    def attach(job: tuple[str, str]) -> None:
        name, place = job
        each = Attachment(
            target=incarnation(Kind.GROUP, name, "shop"),
            service="web",
            hostname=name,
            networks=("front",),
            dns=(),
            netns=place,
        )
        host.attachments[name] = each
        host.driver.attach(each)
        seen.add(os.readlink("/proc/thread-self/ns/net"))

    services = [incarnation(Kind.SERVICE, f"s{number}", "shop") for number in range(30)]
    host.made.extend(services)
    for number, each in enumerate(services):
        host.driver.create(each, ServiceSpec(networks=("front",), instances=(names[number % 6],)), ())
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(attach, zip(names, host.wire.groups, strict=True)))
        list(pool.map(host.driver.start, services))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("orchestrator.drivers.network.groups.link_index", lost)
            failures = list(pool.map(lambda each: refused(host, each), host.attachments.values()))
        seen.update(pool.map(lambda _: os.readlink("/proc/thread-self/ns/net"), range(30)))
    assert len(failures) == 6 and all("no such link any more" in each for each in failures)
    assert seen == {home}
    for each in host.attachments.values():
        host.driver.attach(each)
    assert set(phases(host).values()) == {Phase.RUNNING}
    assert all(host.driver.attached(each.target) for each in host.attachments.values())


def lost(name: str) -> int | None:
    if name == "eth0":
        raise OSError(19, "No such link any more")
    return link_index(name)


def refused(host: Machine, attachment: Attachment) -> str:
    with pytest.raises(StepError) as caught:
        host.driver.attach(attachment)
    return caught.value.message


def test_two_instances_side_by_side_share_nothing(wire: Wire, tmp_path: Path) -> None:
    before = world(wire)
    with machine(tmp_path / "a", wire) as one:
        one.network("front", "web-1")
        first = one.group("web-1", "front")
        with machine(tmp_path / "b", wire) as two:
            two._free = [each for each in two._free if each != first]
            two.network("front", "web-1", "web-2")
            second, third = two.group("web-1", "front"), two.group("web-2", "front")
            address = two.address("web-1", "front")
            assert address.rpartition(".")[0] != one.address("web-1", "front").rpartition(".")[0]
            servers = [serve(second, "two", 80), serve(wire.outside, "world", 80)]
            assert ask(third, address, 80) == ("two", two.address("web-2", "front"))
            assert ask(third, "198.51.100.9", 80) is not None
            assert ask(first, "198.51.100.9", 80) is not None
            assert ask(first, address, 80, timeout=0.4) is None
            servers[0].close()
        assert ask(first, "198.51.100.9", 80) is not None
        servers[1].close()
    assert world(wire) == before


def test_the_last_instance_turns_forwarding_off_again(wire: Wire, tmp_path: Path) -> None:
    with machine(tmp_path / "a", wire) as one:
        one.network("front", "web-1")
        with machine(tmp_path / "b", wire) as two:
            two.network("front", "web-1")
            one.close()
            assert world(wire)["forwarding"] == "1"
            assert "1330774016" in world(wire)["rules"]  # the mark of all instances, in the guard alone
    assert world(wire)["forwarding"] == "0"


def test_forwarding_that_was_on_stays_on_and_is_not_ours_to_guard(wire: Wire, tmp_path: Path) -> None:
    with entered(wire.host):
        set_sysctl("ipv4/ip_forward", "1")
    try:
        with machine(tmp_path, wire) as host:
            host.network("front", "web-1")
            assert "1330774016" not in world(wire)["rules"]
        assert world(wire)["forwarding"] == "1"
    finally:
        with entered(wire.host):
            set_sysctl("ipv4/ip_forward", "0")


def problems(host: Machine, stack: Stack) -> list[str]:
    return [f"{each.ref} {each.field}: {each.message}" for each in host.driver.check(stack)]


def stack_of(name: str, **specs: NetworkSpec | ServiceSpec) -> Stack:
    kinds = {NetworkSpec: Kind.NETWORK, ServiceSpec: Kind.SERVICE}
    resources = {Ref(kinds[type(spec)], each): spec for each, spec in specs.items()}
    return Stack(name=name, resources=resources, needs={})


def test_a_subnet_that_the_host_or_another_stack_uses_is_found_before(host: Machine) -> None:
    found = problems(host, stack_of("a", front=NetworkSpec(subnet="198.51.100.128/25")))
    assert found == [
        "network/front subnet: subnet 198.51.100.128/25 clashes with 198.51.100.0/24, a route of this host over up0"
    ]
    host.network("front", "web-1", subnet="10.99.0.0/24")
    assert problems(host, stack_of("shop", front=NetworkSpec(subnet="10.99.0.0/24"))) == []
    found = problems(host, stack_of("b", back=NetworkSpec(subnet="10.99.0.0/25")))
    assert found == ["network/back subnet: subnet 10.99.0.0/25 clashes with 10.99.0.0/24, network shop/front"]


@pytest.mark.parametrize("protocol", Protocol)
def test_a_port_that_somebody_has_is_found_before_with_its_owner(host: Machine, protocol: Protocol) -> None:
    wanted = Publish(host_port=8080, container_port=80, protocol=protocol)
    stack = stack_of("shop", web=ServiceSpec(networks=("front",), publish=(wanted,)))
    assert problems(host, stack) == []
    with serving(host.wire.host, protocol):
        [found] = problems(host, stack)
    comm = Path("/proc/self/comm").read_text().strip()
    assert found == (
        f"service/web publish: port 127.0.0.1:8080/{protocol} is already taken by {comm} (pid {os.getpid()})"
    )


def serving(place: str, protocol: Protocol) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    with entered(place):
        each = socket.socket(socket.AF_INET, kind)
    each.bind(("0.0.0.0", 8080))
    if protocol is Protocol.TCP:
        each.listen()
    return each


def test_a_port_of_another_stack_and_an_address_that_is_not_here_are_found_before(host: Machine) -> None:
    host.network("front", "web", "web-1")
    publish = (Publish(host_port=8080, container_port=80),)
    host.service("web", "web-1", networks=("front",), publish=publish)
    wide = Publish(address="0.0.0.0", host_port=8080, container_port=80)
    far = Publish(address="203.0.113.77", host_port=80, container_port=80)
    found = problems(host, stack_of("b", api=ServiceSpec(networks=("front",), publish=(wide, far))))
    assert found == [
        "service/api publish: port 0.0.0.0:8080/tcp is already taken by service shop/web of ours",
        "service/api publish: address 203.0.113.77 is not one of this host's",
    ]


def test_rules_that_nft_refuses_fail_every_waiting_start_with_its_words(
    host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = host.network("front", "web", "web-1")
    host.driver.stop(network)
    monkeypatch.setattr("orchestrator.drivers.network.effect.whole", lambda table: "nonsense\n")
    barrier = threading.Barrier(2)

    def start(_: int) -> str:
        barrier.wait()
        with pytest.raises(StepError) as caught:
            host.driver.start(network)
        return caught.value.message

    with ThreadPoolExecutor(2) as pool:
        messages = list(pool.map(start, range(2)))
    assert all(each.startswith("nft refused the rules:") and "syntax error" in each for each in messages)
    monkeypatch.undo()
    host.driver.start(network)
    assert phases(host) == {"network/front": Phase.RUNNING}
