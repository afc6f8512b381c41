"""What is found before anything is touched: subnets and ports that somebody has."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from orchestrator.drivers.network.checks import Listener, listeners, ports, subnets
from orchestrator.drivers.network.driver import NetworkDriver
from orchestrator.drivers.network.ipam import Allocation
from orchestrator.errors import UsageError
from orchestrator.model.desired import NetworkSpec, Protocol, Publish, ServiceSpec, Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.client import Supervisor

WEB = Ref(Kind.SERVICE, "web")
FRONT, BACK = Ref(Kind.NETWORK, "front"), Ref(Kind.NETWORK, "back")
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(local: str, state: str, inode: int) -> str:
    return f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1 0\n"


def test_listeners_are_waiting_sockets_of_ipv4_and_of_both() -> None:
    tables = {
        "tcp": HEAD + line("0100007F:1F90", "0A", 1) + line("0100007F:1F91", "01", 2),
        "udp": HEAD + line("00000000:0035", "07", 3),
        "tcp6": HEAD
        + line("00000000000000000000000000000000:0050", "0A", 4)
        + line("00000000000000000000000001000000:0051", "0A", 5)
        + line("0000000000000000FFFF00000100007F:0052", "0A", 6),
        "udp6": "",
    }
    assert listeners(tables) == (
        Listener(Protocol.TCP, "127.0.0.1", 8080, "1"),
        Listener(Protocol.UDP, "0.0.0.0", 53, "3"),
        Listener(Protocol.TCP, "0.0.0.0", 80, "4"),
        Listener(Protocol.TCP, "127.0.0.1", 82, "6"),
    )


def messages(
    *publish: Publish, heard: tuple[Listener, ...] = (), others: tuple[Publish, ...] = ()
) -> list[str]:
    other = [("service b/api", ServiceSpec(networks=("n",), publish=others))]
    spec = ServiceSpec(networks=("front",), publish=publish)
    return [each.message for each in ports({WEB: spec}, other, heard)]


def test_ports_clash_where_address_and_protocol_meet() -> None:
    port = Publish(host_port=80, container_port=80)
    heard = Listener(Protocol.TCP, "0.0.0.0", 80, "no such inode")
    assert messages(port, heard=(heard,)) == ["port 127.0.0.1:80/tcp is already taken by another process"]
    assert messages(port, heard=(Listener(Protocol.UDP, "0.0.0.0", 80, "1"),)) == []
    assert messages(port, heard=(Listener(Protocol.TCP, "127.0.0.2", 80, "1"),)) == []
    assert messages(port, others=(Publish(address="127.0.0.2", host_port=80, container_port=1),)) == []
    assert messages(port, others=(port,)) == [
        "port 127.0.0.1:80/tcp is already taken by service b/api of ours"
    ]
    assert messages(port, port) == ["port 127.0.0.1:80/tcp is already taken by service/web"]


def test_a_group_without_networks_cannot_publish() -> None:
    spec = ServiceSpec(publish=(Publish(host_port=80, container_port=80),))
    [problem] = ports({WEB: spec}, (), ())
    assert problem.field == "publish" and "without networks" in problem.message


def test_subnets_clash_within_a_stack_and_must_hold_their_members() -> None:
    wished = {
        FRONT: NetworkSpec(subnet="10.9.0.0/29", members=tuple("abcdef")),
        BACK: NetworkSpec(subnet="10.9.0.0/24"),
    }
    found = [(each.ref, each.message) for each in subnets(wished, {}, (), ())]
    assert found == [
        (FRONT, "subnet 10.9.0.0/29 has room for 5 members, 6 are asked for"),
        (BACK, "subnet 10.9.0.0/24 clashes with 10.9.0.0/29, network front"),
    ]


def test_what_was_allocated_clashes_with_a_route_that_came_later() -> None:
    own = {"front": Allocation(id="x", subnet=IPv4Network("10.87.0.0/24"))}
    route = (IPv4Network("10.0.0.0/8"), "vpn0")
    [problem] = subnets({FRONT: NetworkSpec()}, own, (), (route,))
    assert problem.message == "subnet 10.87.0.0/24 clashes with 10.0.0.0/8, a route of this host over vpn0"
    assert list(subnets({FRONT: NetworkSpec()}, {}, (), (route,))) == []


def test_what_is_no_subnet_is_said() -> None:
    [problem] = subnets({FRONT: NetworkSpec(subnet="10.9.0.1/24")}, {}, (), ())
    assert problem.message.startswith("10.9.0.1/24 is not an ipv4 subnet")


def test_a_pool_that_is_no_subnet_and_a_missing_nft_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.at(tmp_path)
    with pytest.raises(UsageError, match="address pool nonsense"):
        NetworkDriver(layout, holder=Supervisor(layout), pool="nonsense")
    monkeypatch.setenv("PATH", str(tmp_path))
    stack = Stack(name="shop", resources={FRONT: NetworkSpec()}, needs={})
    [problem] = NetworkDriver(layout, holder=Supervisor(layout)).check(stack)
    assert (problem.ref, problem.message, problem.hint) == (
        FRONT,
        "the command nft is missing",
        "apt install nftables",
    )
