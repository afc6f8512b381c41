"""What somebody else changes of our network is seen at the next look, told in words and mended in place."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.drivers.network.driver import NetworkDriver
from orchestrator.drivers.network.namespace import entered
from orchestrator.model.desired import NetworkSpec
from orchestrator.model.ids import Incarnation
from orchestrator.model.observed import Phase
from tests.kernel.network_lab import Machine, Wire, ask, machine, run, serve

pytestmark = pytest.mark.root
SPEC = NetworkSpec(members=("web", "web-1", "api-1"))


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    each = Wire(groups=2)
    yield each
    each.close()


class Shop:
    """Network `front` with web-1, which serves, and api-1, which asks for service web."""

    def __init__(self, host: Machine) -> None:
        self.host = host
        self.network = host.network("front", *SPEC.members)
        self.web, self.api = host.group("web-1", "front"), host.group("api-1", "front")
        self.service = host.service("web", "web-1", networks=("front",))
        self.server = serve(self.web, "web-1", 80)
        self.words = {
            "LINK": host.layout.link(self.target.id),
            "HUB": host.driver._effect._hub.name,
            "TABLE": host.layout.table,
            "ADDRESS": host.address("web-1", "front"),
            "SUBNET": str(host.driver._ipam.read("shop", "front").subnet),  # type: ignore[union-attr]
            "GATEWAY": host.driver._ipam.read("shop", "front").gateway,  # type: ignore[union-attr]
            "VIRTUAL": host.virtual(self.service)["front"],
        }

    @property
    def target(self) -> Incarnation:
        return self.host.attachments["web-1"].target

    def works(self) -> bool:
        answer = ask(self.api, self.words["VIRTUAL"], 80, timeout=0.5)
        return answer is not None and ask(self.host.wire.host, self.words["ADDRESS"], 80) is not None

    def sabotage(self, place: str, command: str) -> None:
        with entered(place):
            run(*(self.filled(word) for word in command.split()))

    def filled(self, text: str) -> str:
        for word, value in self.words.items():
            text = text.replace(word, value)
        return text

    def damage(self) -> tuple[str, ...]:
        """Of the group and of the network."""
        observed = self.host.driver.observe("shop")
        assert {each.phase for each in observed} == {Phase.RUNNING}
        return self.of_group() + tuple(word for each in observed for word in each.damage)

    def of_group(self) -> tuple[str, ...]:
        return self.host.driver.damage([self.target]).get(self.target.id, ())

    def mend(self) -> None:
        """In the order of a plan: a group needs its network."""
        if any(each.damage for each in self.host.driver.observe("shop")):
            self.host.driver.update(self.network, SPEC, (), ())
        for name in ("web-1", "api-1"):
            self.host.driver.mend(self.host.attachments[name])


@pytest.fixture
def shop(wire: Wire, tmp_path: Path) -> Iterator[Shop]:
    with machine(tmp_path, wire) as host:
        each = Shop(host)
        assert each.damage() == () and each.works()
        yield each
        each.server.close()


INSIDE = [
    (
        "ip link set eth0 down",
        ("eth0 inside", "neighbour inside", "route to SUBNET inside", "default route inside"),
    ),
    ("ip link set lo down", ("lo inside",)),
    ("ip link delete eth0", ("link",)),
    ("ip link set eth0 address 02:00:00:00:00:07", ("link",)),
    (
        "ip address flush dev eth0",
        ("address ADDRESS inside", "neighbour inside", "route to SUBNET inside", "default route inside"),
    ),
    ("ip route delete default", ("default route inside",)),
    ("ip route replace default via 169.254.1.7 dev eth0 onlink", ("default route inside",)),
    ("ip route delete SUBNET", ("route to SUBNET inside",)),
    ("ip neighbour delete 169.254.1.1 dev eth0", ("neighbour inside",)),
]
OUTSIDE_OF_IT = [
    ("ip link delete LINK", ("link",)),
    ("ip link set LINK down", ("LINK set down", "route to ADDRESS", "neighbour ADDRESS")),
    ("ip link set LINK group 0", ("link",)),
    ("ip route delete ADDRESS", ("route to ADDRESS",)),
    ("ip route replace ADDRESS dev HUB", ("route to ADDRESS",)),
    ("ip neighbour delete ADDRESS dev LINK", ("neighbour ADDRESS",)),
    (
        "ip neighbour replace ADDRESS dev LINK lladdr 02:00:00:00:00:07 nud permanent",
        ("neighbour ADDRESS",),
    ),
    ("sysctl -qw net.ipv4.conf.LINK.route_localnet=0", ("route_localnet of LINK",)),
    ("sysctl -qw net.ipv4.conf.LINK.rp_filter=0", ("rp_filter of LINK",)),
    ("sysctl -qw net.ipv4.conf.LINK.forwarding=0", ("forwarding of LINK",)),
]
SHARED = [
    ("ip link delete HUB", ("route to ADDRESS", "link HUB")),
    ("ip link set HUB down", ("link HUB", "route to SUBNET")),
    ("ip address delete GATEWAY/24 dev HUB", ("route to ADDRESS", "address GATEWAY", "route to SUBNET")),
    ("ip route delete SUBNET dev HUB", ("route to SUBNET",)),
    ("nft flush ruleset", ("table TABLE",)),
    ("nft delete table ip TABLE", ("table TABLE",)),
    ("nft flush chain ip TABLE filter_forward", ("table TABLE",)),
    ("nft insert rule ip TABLE filter_forward drop", ("table TABLE",)),
    ("nft add chain ip TABLE mine", ("table TABLE",)),
    ("nft add element ip TABLE networks { 192.0.2.0/24 }", ("table TABLE",)),
    ("nft delete element ip TABLE virtual_one { VIRTUAL }", ("table TABLE",)),
]


@pytest.mark.parametrize(
    ("inside", "command", "told"),
    [(True, *each) for each in INSIDE] + [(False, *each) for each in (*OUTSIDE_OF_IT, *SHARED)],
)
def test_each_damage_is_told_and_mended(
    shop: Shop, inside: bool, command: str, told: tuple[str, ...]
) -> None:
    shop.sabotage(shop.web if inside else shop.host.wire.host, command)
    assert shop.damage() == tuple(shop.filled(word) for word in told)
    shop.mend()
    assert shop.damage() == ()
    assert shop.works()


def test_forwarding_that_was_turned_off_is_on_again(shop: Shop) -> None:
    shop.sabotage(shop.host.wire.host, "sysctl -qw net.ipv4.ip_forward=0")
    # The kernel turns it off on every link as well.
    assert shop.damage() == (shop.filled("forwarding of LINK"), "ip_forward")
    shop.mend()
    assert shop.damage() == () and shop.works()


@pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf"])
@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: path.write_text("x"), lambda path: os.truncate(path, 0)]
)
def test_files_are_written_again(shop: Shop, name: str, change: Callable[[Path], object]) -> None:
    file = shop.host.file("web-1", name)
    text, inode = file.read_text(), file.stat().st_ino
    change(file)
    gone = not file.exists()
    assert shop.damage() == (name,)
    shop.mend()
    assert shop.damage() == () and file.read_text() == text
    assert gone or file.stat().st_ino == inode


def test_other_tables_and_links_are_none_of_our_business(shop: Shop) -> None:
    for command in (
        "nft add table ip foreign",
        "nft add chain ip foreign c",
        "nft delete table ip foreign",
        "ip link add other type veth",
        "ip link delete other",
    ):
        shop.sabotage(shop.host.wire.host, command)
        assert shop.damage() == ()


def test_another_process_sees_what_was_changed_while_nobody_looked(shop: Shop) -> None:
    def another() -> NetworkDriver:
        host = shop.host
        return NetworkDriver(
            host.layout, holder=host.holder, host_netns=host.wire.host, resolv=host.driver._resolv
        )

    shop.sabotage(shop.host.wire.host, "nft add table ip foreign")
    later = another()
    assert not [each for each in later.observe("shop") if each.damage]
    shop.sabotage(shop.host.wire.host, "nft flush chain ip TABLE filter_forward")
    shop.sabotage(shop.web, "ip route delete default")
    later = another()
    assert [each.damage for each in later.observe("shop") if each.damage] == [
        (f"table {shop.host.layout.table}",)
    ]
    assert later.damage([shop.target]) == {shop.target.id: ("default route inside",)}


def test_what_was_mended_goes_on_with_its_connections(shop: Shop) -> None:
    """Light damage is mended without a new link: nothing inside loses its socket or its address."""
    with entered(shop.web):
        before = run("ip", "-o", "link", "show", "eth0")
    shop.sabotage(shop.host.wire.host, "ip route delete ADDRESS")
    shop.mend()
    with entered(shop.web):
        assert run("ip", "-o", "link", "show", "eth0") == before


def test_looking_keeps_no_namespace_alive(shop: Shop) -> None:
    """A socket that listens in a namespace would: none is left once the groups are gone, by whoever's hand."""
    place = os.stat(shop.web).st_ino
    assert place in listening()
    other = NetworkDriver(shop.host.layout, holder=shop.host.holder, host_netns=shop.host.wire.host)
    other.detach(shop.target)
    shop.host.layout.group_run(shop.target.id).rmdir()
    assert shop.host.driver.damage([]) == {}
    assert place not in listening()


def listening() -> set[int]:
    """Inodes of the namespaces of this process's netlink sockets, by SIOCGSKNS (ip-netns's ioctl on sockets)."""
    gc.collect()  # drivers of earlier tests
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as each:
                if each.family == socket.AF_NETLINK:
                    namespace = fcntl.ioctl(each, 0x894C)
                    found.add(os.fstat(namespace).st_ino)
                    os.close(namespace)
    return found
