"""The nftables table of one instance: a pure function of what is in effect.

In: `Rules` (networks, services, marks). Out: a `Table` (`nft` makes text of it), the same for the same input. Links of
ours are known by their link group (ip-link(8)), which no other instance has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.drivers.network.nft import Chain, Set, Table
from orchestrator.model.desired import Protocol

FAMILY_MARK, FAMILY_MASK = 0x4F520000, 0xFFFF0000  # link groups of all instances of ours
_ANY = "0.0.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRules:
    subnet: str
    gateway: str
    internal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Virtual:
    """A service's address on one network, and the instances' addresses there."""

    address: str
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One published port."""

    address: str
    host_port: int
    container_port: int
    protocol: Protocol
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRules:
    virtuals: tuple[Virtual, ...] = ()
    ports: tuple[Port, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`group`: the link group of this instance. `hub`: the link that holds the gateway addresses. `guard`: forwarding
    was off before us, so only our packets are forwarded. `resolver`: the host's loopback name server to forward to."""

    table: str
    group: int
    hub: str
    guard: bool = False
    resolver: str | None = None
    networks: tuple[NetworkRules, ...] = ()
    services: tuple[ServiceRules, ...] = ()


def table(rules: Rules) -> Table:
    """The whole table as it shall be."""
    # By what must be unique: two incarnations of one service may be in effect side by side.
    virtuals = list({each.address: each for service in rules.services for each in service.virtuals}.values())
    published = {_place(each): each for service in rules.services for each in service.ports}.values()
    ports = [each for each in published if each.backends]
    closed = [each for each in published if not each.backends and each.protocol is Protocol.UDP]
    return Table(
        name=rules.table,
        sets={**_networks(rules.networks), **_services(virtuals, ports, closed)},
        chains={
            **{
                _virtual_chain(v): Chain((f"dnat to {_balance(v.backends)}",))
                for v in virtuals
                if len(v.backends) > 1
            },
            **{_port_chain(each): _port_rule(each) for each in ports},
            "virtual": Chain(("dnat to ip daddr map @virtual_one", "ip daddr vmap @virtual_many")),
            "public": Chain(
                (
                    "meta l4proto . ip daddr . th dport vmap @address_ports",
                    "meta l4proto . th dport vmap @any_ports",
                )
            ),
            **_nat(rules),
            **_filters(rules),
        },
    )


def _networks(networks: Sequence[NetworkRules]) -> Mapping[str, Set]:
    pair = "ipv4_addr . ipv4_addr"
    return {
        "networks": _set("ipv4_addr", [each.subnet for each in networks], interval=True),
        "open_networks": _set("ipv4_addr", [n.subnet for n in networks if not n.internal], interval=True),
        "same_network": _set(pair, [f"{each.subnet} . {each.subnet}" for each in networks], interval=True),
        "gateways": Set(
            "ipv4_addr : ipv4_addr", {each.subnet: each.gateway for each in networks}, interval=True
        ),
    }


def _services(
    virtuals: Sequence[Virtual], ports: Sequence[Port], closed: Sequence[Port]
) -> Mapping[str, Set]:
    """`closed`: ports of UDP that nobody takes."""
    reached = {b for virtual in virtuals for b in virtual.backends} | {
        b for port in ports for b in port.backends
    }
    place = "inet_proto . ipv4_addr . inet_service : verdict"
    return {
        "itself": _set("ipv4_addr . ipv4_addr", [f"{each} . {each}" for each in sorted(reached, key=_order)]),
        "virtual_one": Set(
            "ipv4_addr : ipv4_addr", {v.address: v.backends[0] for v in virtuals if len(v.backends) == 1}
        ),
        "virtual_many": Set(
            "ipv4_addr : verdict",
            {v.address: f"jump {_virtual_chain(v)}" for v in virtuals if len(v.backends) > 1},
        ),
        "local_ports": Set(place, _jumps(p for p in ports if _loopback(p))),
        "address_ports": Set(place, _jumps(p for p in ports if not _loopback(p) and p.address != _ANY)),
        # The sockets that hold ports of UDP (`ports`) would swallow what no instance takes.
        "closed_ports": _set("ipv4_addr . inet_service", [f"{p.address} . {p.host_port}" for p in closed]),
        "closed_any_ports": _set("inet_service", [str(p.host_port) for p in closed if p.address == _ANY]),
        "any_ports": Set(
            "inet_proto . inet_service : verdict",
            {f"{p.protocol} . {p.host_port}": f"jump {_port_chain(p)}" for p in ports if p.address == _ANY},
        ),
    }


def _nat(rules: Rules) -> Mapping[str, Chain]:
    ours = f"{rules.group:#x}"
    before = [f"iifgroup {ours} ip saddr . ip daddr @same_network jump virtual"]
    gateways = [each.gateway for each in rules.networks if not each.internal]
    if rules.resolver and gateways:
        to = f"ip daddr {{ {', '.join(gateways)} }} meta l4proto {{ tcp, udp }} th dport 53"
        before.append(f"iifgroup {ours} ip saddr @open_networks {to} dnat to {rules.resolver}")
    # 127.0.0.0/8 is published by the output chain alone: here a neighbour on the wire could reach it.
    before.append("ip daddr != 127.0.0.0/8 fib daddr type local jump public")
    output = (
        "ip daddr @networks jump virtual",
        "fib daddr type local meta l4proto . ip daddr . th dport vmap @local_ports",
        "fib daddr type local jump public",
    )
    from_us = "snat to ip daddr map @gateways"
    after = (
        f"oifgroup {ours} ip saddr 127.0.0.0/8 {from_us}",
        f"oifgroup {ours} ip saddr . ip daddr @itself {from_us}",
        # An internal network knows no way back to anybody else.
        f"oifgroup {ours} ct status dnat ip saddr != @networks ip daddr != @open_networks {from_us}",
        f"oifgroup != {ours} ip saddr @open_networks masquerade",
    )
    return {
        "nat_prerouting": Chain(tuple(before), "nat hook prerouting priority -100"),
        "nat_output": Chain(output, "nat hook output priority -100"),
        "nat_postrouting": Chain(after, "nat hook postrouting priority 100"),
    }


def _filters(rules: Rules) -> Mapping[str, Chain]:
    ours = f"{rules.group:#x}"
    guard = (
        f"iifgroup != {ours} accept",
        # Our links have route_localnet set: CVE-2020-8558.
        "ip daddr 127.0.0.0/8 drop",
        "ip saddr 127.0.0.0/8 drop",
        "fib saddr . iif oif missing drop",
    )
    to_host = (
        f"iifgroup {ours} ip saddr != @open_networks ct state new reject with icmp type admin-prohibited"
    )
    nobody = "reject with icmp type port-unreachable"
    closed = (f"ip daddr . udp dport @closed_ports {nobody}", f"udp dport @closed_any_ports {nobody}")
    from_host = ("ct status dnat accept", f"oifname {rules.hub} reject with icmp type port-unreachable")
    return {
        "guard_prerouting": Chain(guard, "filter hook prerouting priority -300"),
        "filter_input": Chain((to_host, *closed), "filter hook input priority 0"),
        "filter_forward": Chain(
            (*_strangers(rules), *_forward(rules, ours)), "filter hook forward priority 0"
        ),
        "filter_output": Chain(from_host, "filter hook output priority 0"),
    }


def _strangers(rules: Rules) -> Iterable[str]:
    if rules.guard:
        mask, mark = f"{FAMILY_MASK:#x}", f"{FAMILY_MARK:#x}"
        yield f"meta iifgroup & {mask} != {mark} meta oifgroup & {mask} != {mark} drop"


def _forward(rules: Rules, ours: str) -> Iterable[str]:
    return (
        f"iifgroup != {ours} oifgroup != {ours} accept",
        "ct state established,related accept",
        f"iifgroup {ours} oifname {rules.hub} reject with icmp type port-unreachable",
        f"iifgroup {ours} oifgroup {ours} ip saddr . ip daddr @same_network accept",
        f"iifgroup {ours} oifgroup != {ours} ip saddr @open_networks accept",
        f"iifgroup {ours} ip saddr @open_networks ct status dnat accept",
        f"iifgroup {ours} reject with icmp type admin-prohibited",
        f"oifname != {rules.hub} ct status dnat accept",
        "drop",
    )


def _set(type: str, elements: Iterable[str], *, interval: bool = False) -> Set:
    return Set(type, dict.fromkeys(elements, ""), interval=interval)


def _jumps(ports: Iterable[Port]) -> Mapping[str, str]:
    return {_place(each): f"jump {_port_chain(each)}" for each in ports}


def _port_rule(each: Port) -> Chain:
    return Chain((f"meta l4proto {each.protocol} dnat to {_balance(each.backends)}:{each.container_port}",))


def _balance(backends: Sequence[str]) -> str:
    if len(backends) == 1:
        return backends[0]
    numbered = ", ".join(f"{number} : {each}" for number, each in enumerate(backends))
    return f"numgen inc mod {len(backends)} map {{ {numbered} }}"


def _loopback(each: Port) -> bool:
    return each.address.startswith("127.")


def _virtual_chain(each: Virtual) -> str:
    return f"v_{each.address.replace('.', '_')}"


def _port_chain(each: Port) -> str:
    return f"p_{each.protocol}_{each.address.replace('.', '_')}_{each.host_port}"


def _place(each: Port) -> str:
    return f"{each.protocol} . {each.address} . {each.host_port}"


def _order(address: str) -> tuple[int, ...]:
    return tuple(int(each) for each in address.split("."))
