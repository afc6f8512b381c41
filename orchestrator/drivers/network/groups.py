"""Groups on their networks: the veth pair, addresses, routes and neighbours, and the files that name the others.

In: `Attachment`s. Out: links in two namespaces, files in the group's run folder. `network.json` there is written last:
with it and the link a group is attached, whatever else a killed attach left is made anew.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.drivers.network import files, netlink
from orchestrator.drivers.network.effect import Effect
from orchestrator.drivers.network.ipam import Ipam, located
from orchestrator.drivers.network.namespace import entered, link_exists, link_index, set_sysctl, told
from orchestrator.drivers.network.rules import NetworkRules
from orchestrator.errors import StepError
from orchestrator.model.ids import Incarnation
from orchestrator.ports.driver import Attachment
from orchestrator.ports.layout import Layout

GATEWAY = "169.254.1.1"  # every group's next hop, an address that nobody has
_PEER = "eth0"
_STATE = "network.json"
_CONF = (
    (netlink.FORWARDING, 1),
    (netlink.RP_FILTER, 1),
    (netlink.ROUTE_LOCALNET, 1),
    (netlink.ACCEPT_REDIRECTS, 0),
    (netlink.SEND_REDIRECTS, 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A group as attached in this boot: network -> address, in the order of its networks."""

    boot: str
    stack: str
    ref: str
    id: str
    hostname: str
    netns: str
    networks: Mapping[str, str]


class Groups:
    """Attaches and detaches. `in_effect(stack, network)` brings a network into effect and gives its rules."""

    def __init__(
        self,
        layout: Layout,
        ipam: Ipam,
        effect: Effect,
        host: str | None,
        boot_id: str,
        upstream: Callable[[], Sequence[str]],
        in_effect: Callable[[str, str], NetworkRules],
    ) -> None:
        self._layout = layout
        self._ipam = ipam
        self._effect = effect
        self._host = host
        self._boot_id = boot_id
        self._upstream = upstream
        self._in_effect = in_effect
        # All of it runs under the kernel's one RTNL mutex anyway, and a write to a sysctl like disable_ipv6 does not sleep
        # for that mutex: the call is restarted until it is free (restart_syscall in net/ipv6/addrconf.c).
        self._rtnl = threading.Lock()

    def attach(self, attachment: Attachment) -> None:
        """Put the group on its networks; over whatever a killed attach left."""
        target = attachment.target
        with told(f"{target.ref}: cannot attach to its networks"):
            joined = {name: self._in_effect(target.stack, name) for name in attachment.networks}
            attached = self._attached(attachment)
            folder = self._layout.group_run(target.id)
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            files.write(folder / "hostname", f"{attachment.hostname}\n")
            self._write_hosts(attached)
            self._write_resolv(attachment, joined)
            with self._rtnl:
                if joined:
                    self._outside(attached, joined)
                self._inside(attached, joined)
            self._store(attached)

    def rejoin(self, attachment: Attachment) -> None:
        """Join and leave networks while the group runs: what it stays on is not touched, so connections go on there."""
        target = attachment.target
        old = self._read(target.id)
        if old is None or not self.attached(target):
            self.attach(attachment)
            return
        with told(f"{target.ref}: cannot change its networks"):
            joined = {name: self._in_effect(target.stack, name) for name in attachment.networks}
            new = self._attached(attachment)
            with self._rtnl:
                if not new.networks:
                    self._unlink(target)
                else:
                    if not old.networks:
                        self._outside(new, joined)
                    else:
                        self._reroute(old, new, joined)
                    self._inside(new, joined, gone=_gone(old, new))
            self._write_hosts(new)
            self._write_resolv(attachment, joined)
            self._store(new)
            for network in old.networks:
                if network not in new.networks:
                    self._free(target.stack, network)

    def detach(self, target: Incarnation) -> None:
        """Take the group off; what is gone already is fine."""
        with told(f"{target.ref}: cannot detach from its networks"):
            folder = self._layout.group_run(target.id)
            attached = self._read(target.id)
            self._unlink(target)
            for name in (_STATE, *files.NAMES):
                (folder / name).unlink(missing_ok=True)
            for network in attached.networks if attached else ():
                self._free(target.stack, network)

    def addresses(self, target: Incarnation) -> Mapping[str, str]:
        attached = self._read(target.id)
        return {
            name: address
            for name, address in (attached.networks.items() if attached else ())
            if (found := self._ipam.read(target.stack, name)) is not None
            and found.members.get(target.ref.name) == address
        }

    def attached(self, target: Incarnation) -> bool:
        found = self._read(target.id)
        if found is None:
            return False
        if not found.networks:
            return True
        with told(f"{target.ref}: cannot look at its link"), entered(self._host):
            return link_exists(self._layout.link(target.id))

    def on(self, stack: str, network: str) -> Iterator[Attached]:
        """The stack's attached groups of a network."""
        return (each for each in self._all() if each.stack == stack and network in each.networks)

    def _all(self) -> Iterator[Attached]:
        try:
            ids = sorted(os.listdir(self._layout.run / "groups"))  # noqa: PTH208
        except FileNotFoundError:
            return
        for id in ids:
            found = self._read(id)
            if found is not None:
                yield found

    def sharing(self, stack: str, network: str) -> Iterator[Attached]:
        """The attached groups of a network, of whatever stack."""
        place = located(stack, network)
        for each in self._all():
            if any(located(each.stack, name) == place for name in each.networks):
                yield each

    def rename(self, stack: str, network: str) -> None:
        """The network's members changed: rewrite the hosts files of all who are on it."""
        with told(f"network/{network}: cannot rewrite hosts files"):
            for each in self.sharing(stack, network):
                self._write_hosts(each)

    def reroute(self, stack: str, network: str) -> None:
        """The network was opened or closed: default routes follow."""
        with told(f"network/{network}: cannot change routes"):
            for each in self.sharing(stack, network):
                self._inside(each, {name: self._in_effect(each.stack, name) for name in each.networks})

    def _attached(self, attachment: Attachment) -> Attached:
        """As the attachment wants it; what has no address yet gets one."""
        target = attachment.target
        return Attached(
            boot=self._boot_id,
            stack=target.stack,
            ref=str(target.ref),
            id=target.id,
            hostname=attachment.hostname,
            netns=attachment.netns,
            networks={
                name: self._ipam.include(target.stack, name, (target.ref.name,)).members[target.ref.name]
                for name in attachment.networks
            },
        )

    def _store(self, each: Attached) -> None:
        files.write(self._layout.group_run(each.id) / _STATE, json.dumps(asdict(each)))

    def _free(self, stack: str, network: str) -> None:
        found = self._ipam.read(stack, network)
        if found is not None and found.held:
            living = [each.networks[network] for each in self.on(stack, network)]
            self._ipam.allocate(stack, network, found.id, found.own, None, living)

    def _write_hosts(self, each: Attached) -> None:
        members = [
            found.members
            for name in each.networks
            if (found := self._ipam.read(each.stack, name)) is not None
        ]
        own = next(iter(each.networks.values()), "127.0.0.1")
        files.write(self._layout.group_run(each.id) / "hosts", files.hosts(each.hostname, own, members))

    def _write_resolv(self, attachment: Attachment, joined: Mapping[str, NetworkRules]) -> None:
        gateway = next((each.gateway for each in joined.values() if not each.internal), None)
        text = files.resolv_conf(attachment.dns, self._upstream(), gateway)
        files.write(self._layout.group_run(attachment.target.id) / "resolv.conf", text)

    def _outside(self, each: Attached, joined: Mapping[str, NetworkRules]) -> None:
        """The host's half: the pair itself, and the way to every address of the group."""
        link = self._layout.link(each.id)
        mine, theirs = _macs(each.id)
        netns = os.open(each.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with entered(self._host), netlink.Socket() as host:
                pair = netlink.veth(link, mine, self._effect.group, _PEER, theirs, netns)
                try:
                    host.run([pair])
                except netlink.NetlinkError as error:
                    if error.errno != errno.EEXIST:
                        raise
                    host.run([netlink.remove_link(link)])
                    host.run([pair])
                set_sysctl(f"ipv6/conf/{link}/disable_ipv6", "1")
                index = link_index(link) or 0
                alias = f"orchestrator/{self._layout.instance}/{each.stack}/{each.ref}"
                host.run([netlink.up(index, alias=alias, conf=_CONF), *_ways(each, joined, index)])
        finally:
            os.close(netns)

    def _reroute(self, old: Attached, new: Attached, joined: Mapping[str, NetworkRules]) -> None:
        """The host's half of a link that stays: ways to what came, none to what went."""
        with entered(self._host), netlink.Socket() as host:
            index = link_index(self._layout.link(new.id)) or 0
            messages = list(_ways(new, joined, index))
            for address in _gone(old, new):
                messages.append(netlink.remove_route(address, 32, index))
                messages.append(netlink.remove_neighbour(address, index))
            host.run(messages)

    def _unlink(self, target: Incarnation) -> None:
        """Without the host's end its peer is gone as well; one that is gone already is fine."""
        link = self._layout.link(target.id)
        with entered(self._host):
            if link_exists(link):
                with netlink.Socket() as host:
                    host.run([netlink.remove_link(link)])

    def _inside(
        self, each: Attached, joined: Mapping[str, NetworkRules], *, gone: Sequence[str] = ()
    ) -> None:
        """The group's half; run again it replaces what is there. With an address the kernel removes routes from it."""
        with entered(each.netns), netlink.Socket() as inner:
            set_sysctl("ipv6/conf/all/disable_ipv6", "1")
            messages = [netlink.up(1)]
            if joined:
                index = link_index(_PEER)
                if index is None:
                    raise StepError(
                        f"{each.ref}: {each.netns} has no {_PEER}", call="if_nametoindex", argument=_PEER
                    )
                messages += [netlink.up(index), *self._routes(each, joined, index)]
                messages += [netlink.remove_address(address, 32, index) for address in gone]
            inner.run(messages)

    def _routes(
        self, each: Attached, joined: Mapping[str, NetworkRules], index: int
    ) -> Iterator[netlink.Message]:
        mine, _ = _macs(each.id)
        for address in each.networks.values():
            yield netlink.address(address, 32, index)
        yield netlink.neighbour(GATEWAY, mine, index)
        for name, address in each.networks.items():
            base, _, prefix = joined[name].subnet.partition("/")
            yield netlink.route(base, int(prefix), index, source=address, via=GATEWAY)
        way_out = next((each.networks[name] for name, rules in joined.items() if not rules.internal), None)
        if way_out is None:
            yield netlink.remove_route("0.0.0.0", 0, index)
        else:
            yield netlink.route("0.0.0.0", 0, index, source=way_out, via=GATEWAY)

    def _read(self, id: str) -> Attached | None:
        path = Path(self._layout.group_run(id), _STATE)
        try:
            data = json.loads(path.read_text())
            return Attached(**data) if data["boot"] == self._boot_id else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, LookupError, TypeError):
            return None  # cut off while it was written: not attached


def _ways(each: Attached, joined: Mapping[str, NetworkRules], index: int) -> Iterator[netlink.Message]:
    """The host's ways to the group's addresses."""
    _, theirs = _macs(each.id)
    for name, address in each.networks.items():
        yield netlink.route(address, 32, index, source=joined[name].gateway)
        yield netlink.neighbour(address, theirs, index)


def _gone(old: Attached, new: Attached) -> tuple[str, ...]:
    kept = frozenset(new.networks.values())
    return tuple(address for address in old.networks.values() if address not in kept)


def _macs(id: str) -> tuple[bytes, bytes]:
    """(the host's end, the group's end): locally administered, from the incarnation's id."""
    raw = bytes.fromhex(id)
    return bytes((raw[0] & 0xF0 | 0x2, *raw[1:])), bytes((raw[0] & 0xF0 | 0x6, *raw[1:]))
