"""Subnets and addresses: the same for the same history, stable, never twice."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.drivers.network.ipam import DEFAULT_POOL, Ipam, routed
from orchestrator.errors import HostError, StepError
from orchestrator.ports.layout import Layout


def ipam(root: Path, *, pool: str | None = None, taken: tuple[str, ...] = (), instance: str = "main") -> Ipam:
    layout = Layout(root / "state", root / "run", instance)
    routes = tuple((IPv4Network(each), "eth0") for each in taken)
    return Ipam(layout, IPv4Network(pool) if pool else DEFAULT_POOL, lambda: routes)


def test_members_get_addresses_in_order_after_the_gateway(tmp_path: Path) -> None:
    each = ipam(tmp_path).allocate("shop", "front", "a", ("web", "web-1"), None, ())
    assert (str(each.subnet), each.gateway) == ("10.87.0.0/24", "10.87.0.1")
    assert each.members == {"web": "10.87.0.2", "web-1": "10.87.0.3"}


def test_networks_get_the_first_free_subnet_around_the_hosts_routes(tmp_path: Path) -> None:
    pools = ipam(tmp_path, taken=("10.87.1.0/24", "10.0.0.0/24"))
    found = [str(pools.allocate("shop", name, name, (), None, ()).subnet) for name in ("a", "b", "c")]
    assert found == ["10.87.0.0/24", "10.87.2.0/24", "10.87.3.0/24"]
    pools.release("shop", "b", "b")
    assert str(pools.allocate("other", "d", "d", (), None, ()).subnet) == "10.87.2.0/24"


def test_a_subnet_is_as_big_as_its_members_need_with_some_room(tmp_path: Path) -> None:
    pools = ipam(tmp_path)
    for count, prefix in ((200, 24), (203, 23), (800, 22), (1000, 21)):
        members = tuple(f"m{number}" for number in range(count))
        each = pools.allocate("shop", f"n{count}", "x", members, None, ())
        assert (each.subnet.prefixlen, len(set(each.members.values()))) == (prefix, count)


def test_another_instance_begins_elsewhere_in_the_pool(tmp_path: Path) -> None:
    found = {
        str(ipam(tmp_path / name, instance=name).allocate("s", "n", "x", (), None, ()).subnet)
        for name in ("main", "1a2b3c4d", "99999999")
    }
    assert len(found) == 3


def test_addresses_stay_with_their_names_and_are_read_again_by_others(tmp_path: Path) -> None:
    first = ipam(tmp_path).allocate("shop", "front", "a", ("web-1", "web-2", "web-3"), None, ())
    later = ipam(tmp_path).allocate("shop", "front", "a", ("api-1", "web-3", "web-1"), None, ())
    assert later.members == {
        "api-1": first.members["web-2"],
        "web-3": first.members["web-3"],
        "web-1": first.members["web-1"],
    }
    assert ipam(tmp_path).read("shop", "front") == later


def test_an_attached_address_is_held_until_it_is_free(tmp_path: Path) -> None:
    pools = ipam(tmp_path)
    old = pools.allocate("shop", "front", "a", ("web-1",), None, ()).members["web-1"]
    later = pools.allocate("shop", "front", "a", ("api-1",), None, (old,))
    assert later.held == {"web-1": old} and later.members["api-1"] != old
    assert pools.include("shop", "front", ("web-1",)).members["web-1"] == old
    last = pools.allocate("shop", "front", "a", ("api-1", "job-1"), None, ())
    assert last.held == {} and last.members["job-1"] == old


def test_a_pinned_subnet_is_taken_and_a_changed_one_begins_anew(tmp_path: Path) -> None:
    pools = ipam(tmp_path)
    assert pools.allocate("shop", "front", "a", ("w",), "10.9.0.0/29", ()).members == {"w": "10.9.0.2"}
    assert pools.allocate("shop", "front", "b", ("w",), "10.9.1.0/29", ()).members == {"w": "10.9.1.2"}
    pools.release("shop", "front", "a")  # the older incarnation no longer holds it
    assert pools.read("shop", "front") is not None
    pools.release("shop", "front", "b")
    assert pools.read("shop", "front") is None


def test_a_full_subnet_and_a_used_up_pool_are_errors_with_a_way_on(tmp_path: Path) -> None:
    pools = ipam(tmp_path, pool="10.1.0.0/24")
    with pytest.raises(StepError, match="room for 5 members, 6 are asked for") as full:
        pools.allocate("shop", "front", "a", tuple("abcdef"), "10.9.0.0/29", ())
    assert full.value.hint == "pin a bigger `subnet:`"
    pools.allocate("shop", "one", "a", (), None, ())
    with pytest.raises(HostError, match=r"no free /24 for shop\.two in the address pool 10\.1\.0\.0/24"):
        pools.allocate("shop", "two", "b", (), None, ())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    pools = ipam(tmp_path)
    pools.allocate("shop", "front", "a", (), None, ())
    (tmp_path / "state/networks/shop.front.json").write_text("{")
    with pytest.raises(HostError, match=r"shop\.front\.json cannot be read"):
        pools.read("shop", "front")


def test_the_hosts_routes_are_read_without_default_and_our_own() -> None:
    text = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "orc-main\t0000570A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert routed(text, lambda link: link == "orc-main") == ((IPv4Network("192.0.2.0/24"), "eth0"),)


names = st.lists(st.sampled_from([f"m{number}" for number in range(12)]), unique=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(names, st.integers(0, 12)), max_size=6))
def test_no_address_is_given_twice_while_it_is_used(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[list[str], int]]
) -> None:
    pools = ipam(tmp_path_factory.mktemp("ipam"))
    attached: dict[str, str] = {}
    for members, count in history:
        each = pools.allocate("s", "n", "x", tuple(members), "10.9.0.0/27", attached.values())
        for name, address in attached.items():
            assert {**each.held, **each.members}.get(name) == address
        used = [*each.members.values(), *each.held.values()]
        assert len(used) == len(set(used)) and list(each.members) == members
        attached = dict(list({**each.held, **each.members}.items())[:count])


def test_stacks_that_share_a_network_see_their_own_names_bare_and_never_clash(tmp_path: Path) -> None:
    pools = ipam(tmp_path)
    with pytest.raises(StepError, match="network infra/edge is not there"):
        pools.allocate("shop", "infra/edge", "x", ("web",), None, ())
    pools.allocate("infra", "edge", "a", ("web", "db"), None, ())
    shop = pools.allocate("shop", "infra/edge", "x", ("web", "api"), None, ())
    pools.include("other", "infra/edge", ("web",))
    assert shop.own == ("web", "api") and shop.id == "a"
    owner, seen = pools.read("infra", "edge"), pools.read("shop", "infra/edge")
    assert owner and seen
    assert list(owner.members) == ["web", "db", "web.shop", "api.shop", "web.other"]
    assert list(seen.members) == ["web.infra", "db.infra", "web", "api", "web.other"]
    assert list(seen.members.values()) == list(owner.members.values())
    assert len(set(owner.members.values())) == 5


def test_each_stack_changes_its_own_names_alone_and_frees_them_when_it_goes(tmp_path: Path) -> None:
    pools = ipam(tmp_path)
    pools.allocate("infra", "edge", "a", ("web", "db"), None, ())
    before = pools.allocate("shop", "infra/edge", "x", ("web", "api"), None, ()).members
    pools.allocate("infra", "edge", "a", ("web", "new"), None, ())
    after = pools.allocate("shop", "infra/edge", "x", ("api", "more"), None, (before["web"],))
    assert after.members["api"] == before["api"] and after.held == {"web": before["web"]}
    held = pools.read("infra", "edge")
    assert held and held.held == {"web.shop": before["web"]}
    pools.allocate("infra", "edge", "a", ("web",), None, ())
    held = pools.read("infra", "edge")
    assert held and held.held == {"web.shop": before["web"]}, (
        "only its own stack knows whether it is still used"
    )
    pools.allocate("shop", "infra/edge", "x", (), None, ())
    left = pools.read("infra", "edge")
    assert left and (list(left.members), left.held) == (["web"], {})
