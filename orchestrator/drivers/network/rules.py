"""The nftables table of one instance as text: a pure function of what is in effect.

In: `Rules` (networks, services, marks). Out: text for `nft -f -`, the same for the same input, that replaces the whole
table in one transaction. Links of ours are known by their link group (ip-link(8)), which no other instance has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

from orchestrator.model.desired import Protocol

FAMILY_MARK, FAMILY_MASK = 0x4F520000, 0xFFFF0000  # link groups of all instances of ours
_LOOPBACK = "127."


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


def render(rules: Rules) -> str:
    """The transaction: the table as it was away, the table as it shall be in."""
    parts = [*_sets(rules), *_service_chains(), *_nat(rules), *_filters(rules)]
    body = indent("\n".join(parts), "\t")
    return f"table ip {rules.table}\ndelete table ip {rules.table}\ntable ip {rules.table} {{\n{body}}}\n"


def remove(table: str) -> str:
    """The transaction that removes the table, there or not."""
    return f"table ip {table}\ndelete table ip {table}\n"


def _sets(rules: Rules) -> Iterable[str]:
    networks = rules.networks
    # By what must be unique: two incarnations of one service may be in effect side by side.
    virtuals = list({each.address: each for service in rules.services for each in service.virtuals}.values())
    ports = list(
        {_place(each): each for service in rules.services for each in service.ports if each.backends}.values()
    )
    reached = {b for virtual in virtuals for b in virtual.backends} | {
        b for port in ports for b in port.backends
    }
    backends = sorted(reached, key=_order)
    yield _set("networks", "ipv4_addr", [each.subnet for each in networks], interval=True)
    yield _set("open_networks", "ipv4_addr", [n.subnet for n in networks if not n.internal], interval=True)
    pairs = [f"{each.subnet} . {each.subnet}" for each in networks]
    yield _set("same_network", "ipv4_addr . ipv4_addr", pairs, interval=True)
    yield _set("itself", "ipv4_addr . ipv4_addr", [f"{each} . {each}" for each in backends])
    gateways = {each.subnet: each.gateway for each in networks}
    yield _map("gateways", "ipv4_addr : ipv4_addr", gateways, interval=True)
    one = {each.address: each.backends[0] for each in virtuals if len(each.backends) == 1}
    many = {each.address: f"jump {_virtual_chain(each)}" for each in virtuals if len(each.backends) > 1}
    yield _map("virtual_one", "ipv4_addr : ipv4_addr", one)
    # A map of verdicts comes after the chains that it names.
    yield from _chains_of_virtuals(virtuals)
    yield from _chains_of_ports(ports)
    yield _map("virtual_many", "ipv4_addr : verdict", many)
    place = "inet_proto . ipv4_addr . inet_service : verdict"
    local = {
        _place(each): f"jump {_port_chain(each)}" for each in ports if each.address.startswith(_LOOPBACK)
    }
    other = {
        _place(each): f"jump {_port_chain(each)}"
        for each in ports
        if each.address != "0.0.0.0" and not each.address.startswith(_LOOPBACK)
    }
    anywhere = {
        f"{each.protocol} . {each.host_port}": f"jump {_port_chain(each)}"
        for each in ports
        if each.address == "0.0.0.0"
    }
    yield _map("local_ports", place, local)
    yield _map("address_ports", place, other)
    yield _map("any_ports", "inet_proto . inet_service : verdict", anywhere)


def _chains_of_virtuals(virtuals: Sequence[Virtual]) -> Iterable[str]:
    for each in virtuals:
        if len(each.backends) > 1:
            yield _chain(_virtual_chain(each), [f"dnat to {_balance(each.backends)}"])


def _chains_of_ports(ports: Sequence[Port]) -> Iterable[str]:
    chains = {
        _port_chain(
            each
        ): f"meta l4proto {each.protocol} dnat to {_balance(each.backends)}:{each.container_port}"
        for each in ports
    }
    for name, rule in chains.items():
        yield _chain(name, [rule])


def _service_chains() -> Iterable[str]:
    yield _chain("virtual", ["dnat to ip daddr map @virtual_one", "ip daddr vmap @virtual_many"])
    yield _chain(
        "public",
        [
            "meta l4proto . ip daddr . th dport vmap @address_ports",
            "meta l4proto . th dport vmap @any_ports",
        ],
    )


def _nat(rules: Rules) -> Iterable[str]:
    ours = f"{rules.group:#x}"
    before = [f"iifgroup {ours} ip saddr . ip daddr @same_network jump virtual"]
    gateways = [each.gateway for each in rules.networks if not each.internal]
    if rules.resolver and gateways:
        to = f"ip daddr {{ {', '.join(gateways)} }} meta l4proto {{ tcp, udp }} th dport 53"
        before.append(f"iifgroup {ours} ip saddr @open_networks {to} dnat to {rules.resolver}")
    # 127.0.0.0/8 is published by the output chain alone: here a neighbour on the wire could reach it.
    before.append("ip daddr != 127.0.0.0/8 fib daddr type local jump public")
    yield _chain("nat_prerouting", before, "nat hook prerouting priority -100")
    yield _chain(
        "nat_output",
        [
            "ip daddr @networks jump virtual",
            "fib daddr type local meta l4proto . ip daddr . th dport vmap @local_ports",
            "fib daddr type local jump public",
        ],
        "nat hook output priority -100",
    )
    from_us = "snat to ip daddr map @gateways"
    yield _chain(
        "nat_postrouting",
        [
            f"oifgroup {ours} ip saddr 127.0.0.0/8 {from_us}",
            f"oifgroup {ours} ip saddr . ip daddr @itself {from_us}",
            # An internal network knows no way back to anybody else.
            f"oifgroup {ours} ct status dnat ip saddr != @networks ip daddr != @open_networks {from_us}",
            f"oifgroup != {ours} ip saddr @open_networks masquerade",
        ],
        "nat hook postrouting priority 100",
    )


def _filters(rules: Rules) -> Iterable[str]:
    ours = f"{rules.group:#x}"
    yield _chain(
        "guard_prerouting",
        [
            f"iifgroup != {ours} accept",
            # Our links have route_localnet set: CVE-2020-8558.
            "ip daddr 127.0.0.0/8 drop",
            "ip saddr 127.0.0.0/8 drop",
            "fib saddr . iif oif missing drop",
        ],
        "filter hook prerouting priority -300",
    )
    yield _chain(
        "filter_input",
        [f"iifgroup {ours} ip saddr != @open_networks ct state new reject with icmp type admin-prohibited"],
        "filter hook input priority 0",
    )
    yield _chain("filter_forward", [*_guard(rules), *_forward(rules, ours)], "filter hook forward priority 0")
    yield _chain(
        "filter_output",
        ["ct status dnat accept", f"oifname {rules.hub} reject with icmp type host-unreachable"],
        "filter hook output priority 0",
    )


def _guard(rules: Rules) -> Iterable[str]:
    if rules.guard:
        mask, mark = f"{FAMILY_MASK:#x}", f"{FAMILY_MARK:#x}"
        yield f"meta iifgroup & {mask} != {mark} meta oifgroup & {mask} != {mark} drop"


def _forward(rules: Rules, ours: str) -> Iterable[str]:
    return (
        f"iifgroup != {ours} oifgroup != {ours} accept",
        "ct state established,related accept",
        f"iifgroup {ours} oifname {rules.hub} reject with icmp type host-unreachable",
        f"iifgroup {ours} oifgroup {ours} ip saddr . ip daddr @same_network accept",
        f"iifgroup {ours} oifgroup != {ours} ip saddr @open_networks accept",
        f"iifgroup {ours} ip saddr @open_networks ct status dnat accept",
        f"iifgroup {ours} reject with icmp type admin-prohibited",
        f"oifname != {rules.hub} ct status dnat accept",
        "drop",
    )


def _balance(backends: Sequence[str]) -> str:
    if len(backends) == 1:
        return backends[0]
    numbered = ", ".join(f"{number} : {each}" for number, each in enumerate(backends))
    return f"numgen inc mod {len(backends)} map {{ {numbered} }}"


def _virtual_chain(each: Virtual) -> str:
    return f"v_{each.address.replace('.', '_')}"


def _port_chain(each: Port) -> str:
    return f"p_{each.protocol}_{each.address.replace('.', '_')}_{each.host_port}"


def _place(each: Port) -> str:
    return f"{each.protocol} . {each.address} . {each.host_port}"


def _order(address: str) -> tuple[int, ...]:
    return tuple(int(each) for each in address.split("."))


def _set(name: str, type: str, elements: Sequence[str], *, interval: bool = False) -> str:
    return _block(f"set {name}", _declared(type, elements, interval))


def _map(name: str, type: str, elements: Mapping[str, str], *, interval: bool = False) -> str:
    pairs = [f"{key} : {value}" for key, value in elements.items()]
    return _block(f"map {name}", _declared(type, pairs, interval))


def _declared(type: str, elements: Sequence[str], interval: bool) -> list[str]:
    lines = [f"type {type}"]
    if interval:
        lines.append("flags interval")
    if elements:
        lines.append("elements = {\n" + indent(",\n".join(elements), "\t") + "\n}")
    return lines


def _chain(name: str, rules: Sequence[str], hook: str = "") -> str:
    return _block(f"chain {name}", [*([f"type {hook}; policy accept;"] if hook else []), *rules])


def _block(head: str, lines: Sequence[str]) -> str:
    return f"{head} {{\n{indent(chr(10).join(lines), chr(9))}\n}}\n"
