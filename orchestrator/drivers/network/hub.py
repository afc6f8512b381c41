"""The hub: a link without carrier that holds the gateway address, and so the route, of every network of one instance.

In: networks, in the network namespace of the calling thread. Out: the link as it should be, what of it somebody else
changed. Its tag tells other instances whether forwarding was off before us.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network

from orchestrator.drivers.network import look, netlink
from orchestrator.drivers.network.namespace import get_sysctl, link_exists, link_index, set_sysctl
from orchestrator.drivers.network.rules import NetworkRules

HUB = "orc-"  # prefix of every instance's hub; a group's link has no dash


class Hub:
    """`group`: the mark of all links of this instance."""

    def __init__(self, instance: str, group: int) -> None:
        self.name = f"{HUB}{instance}"
        self._group = group

    def connect(
        self, old: Mapping[str, NetworkRules], new: Mapping[str, NetworkRules], *, guard: bool, anew: bool
    ) -> None:
        """It holds exactly the gateways of `new`. The kernel makes the subnet's route with the address, and not again
        where somebody took the route alone: hence `anew`."""
        before = {each.gateway: each for each in old.values()}
        after = {each.gateway: each for each in new.values()}
        if before == after and not anew and link_exists(self.name):
            return
        with netlink.Socket() as each:
            index = link_index(self.name)
            if index is None:
                mac = bytes((0x02, 0, *self._group.to_bytes(4, "big")))
                each.run([netlink.veth(self.name, mac, self._group, f"{self.name}-x")])
                set_sysctl(f"ipv6/conf/{self.name}/disable_ipv6", "1")
                set_sysctl(f"ipv4/conf/{self.name}/tag", str(int(guard)))
                index = link_index(self.name) or 0
            gone = [net for gateway, net in before.items() if gateway not in after]
            each.run(
                [
                    *(netlink.remove_address(*_place(net), index) for net in gone),
                    netlink.up(index),
                    *(netlink.address(*_place(net), index) for net in after.values()),
                    *(_route(net, index) for net in after.values() if anew),
                ]
            )

    def remove(self) -> None:
        if link_exists(self.name):
            with netlink.Socket() as each:
                each.run([netlink.remove_link(self.name)])

    def is_up(self) -> bool:
        with netlink.Socket() as each:
            [link] = each.ask([look.link(self.name)])
        return link is not None and look.link_of(link).up

    def lost(self, networks: Sequence[NetworkRules]) -> tuple[tuple[str, ...], ...]:
        """For each network what somebody else changed of its place here, in words."""
        with netlink.Socket() as each:
            [link] = each.ask([look.link(self.name)])
            if link is None:
                return tuple(() for _ in networks)  # that is damage of its own
            index = look.link_of(link).index
            answers = each.ask(
                [
                    question
                    for network in networks
                    for question in (look.way(network.gateway), look.way(network.subnet.partition("/")[0]))
                ]
            )
        found = []
        for network, gateway, subnet in zip(networks, answers[::2], answers[1::2], strict=True):
            wrong = [] if _leads(gateway, index, 32) else [f"address {network.gateway}"]
            if not _leads(subnet, index, IPv4Network(network.subnet).prefixlen):
                wrong.append(f"route to {network.subnet}")
            found.append(tuple(wrong))
        return tuple(found)

    def others(self) -> list[str]:
        """The hubs of other instances."""
        names = os.listdir("/proc/sys/net/ipv4/conf")  # noqa: PTH208
        ours = (self.name, f"{self.name}-x")
        return [each for each in names if each.startswith(HUB) and each not in ours]

    def guarded(self) -> bool:
        """Whether forwarding is on because of an instance of ours alone."""
        return any(_tagged(each) for each in (self.name, *self.others()))


def _tagged(hub: str) -> bool:
    try:
        return get_sysctl(f"ipv4/conf/{hub}/tag") == "1"
    except FileNotFoundError:
        return False  # no such hub (any more)


def _place(network: NetworkRules) -> tuple[str, int]:
    return network.gateway, IPv4Network(network.subnet).prefixlen


def _route(network: NetworkRules, index: int) -> netlink.Message:
    base, _, prefix = network.subnet.partition("/")
    return netlink.route(base, int(prefix), index, source=network.gateway)


def _leads(answer: bytes | None, index: int, prefix: int) -> bool:
    """Whether the route that was found is of this prefix length and goes out of this link."""
    route = look.route_of(answer) if answer is not None else None
    return route is not None and (route.index, route.prefix) == (index, prefix)
