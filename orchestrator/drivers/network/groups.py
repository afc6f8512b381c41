"""Groups on their networks: the veth pair, addresses, routes and neighbours.

In: `Attachment`s. Out: links in two namespaces, files in the group's run folder; what of them somebody else changed, and
mended again under the running containers.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from orchestrator.drivers.network import files, netlink
from orchestrator.drivers.network.attached import STATE, Attached, Register
from orchestrator.drivers.network.damage import CONF, GATEWAY, LINK, PEER, Damage, Wanted, Way
from orchestrator.drivers.network.effect import Effect
from orchestrator.drivers.network.group_files import GroupFiles
from orchestrator.drivers.network.ipam import Ipam
from orchestrator.drivers.network.namespace import entered, link_exists, link_index, set_sysctl, told
from orchestrator.drivers.network.rules import NetworkRules
from orchestrator.errors import StepError
from orchestrator.model.ids import Incarnation
from orchestrator.ports.driver import Attachment
from orchestrator.ports.layout import Layout


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
        self._in_effect = in_effect
        # All of it runs under the kernel's one RTNL mutex anyway, and a write to a sysctl like disable_ipv6 does not sleep
        # for that mutex: the call is restarted until it is free (restart_syscall in net/ipv6/addrconf.c).
        self._rtnl = threading.Lock()
        self._damage = Damage(host)
        self.register = Register(layout, boot_id)
        self._files = GroupFiles(self.register, ipam, upstream)

    def attach(self, attachment: Attachment) -> None:
        """Put the group on its networks; over whatever a killed attach left."""
        target = attachment.target
        with told(f"{target.ref}: cannot attach to its networks"):
            joined = {name: self._in_effect(target.stack, name) for name in attachment.networks}
            attached = self._attached(attachment)
            folder = self._layout.group_run(target.id)
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._files.write(attached, joined)
            with self._rtnl:
                if joined:
                    self._outside(attached, joined)
                self._inside(attached, joined)
            self.register.store(attached)

    def rejoin(self, attachment: Attachment) -> None:
        """Join and leave networks while the group runs: what it stays on is not touched, so connections go on there."""
        target = attachment.target
        old = self.register.read(target.id)
        if old is None:
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
            self._files.write(new, joined)
            self.register.store(new)
            for network in old.networks:
                if network not in new.networks:
                    self._free(target.stack, network)

    def mend(self, attachment: Attachment) -> None:
        """Make what somebody else changed as it was; nothing where all is right."""
        target = attachment.target
        each = self.register.read(target.id)
        wrong = self.damage((target,)).get(target.id)
        if each is None or not wrong:
            return
        with told(f"{target.ref}: cannot mend its network"):
            joined = {name: self._in_effect(target.stack, name) for name in each.networks}
            with self._rtnl:
                if LINK in wrong:
                    self._outside(each, joined)
                elif joined:
                    self._again(each, joined)
                self._inside(each, joined)
            self._files.write(each if each.dns is not None else self._attached(attachment), joined)

    def damage(self, targets: Sequence[Incarnation]) -> Mapping[str, tuple[str, ...]]:
        """id -> what somebody else changed of an attached group, in words."""
        with told("cannot look at the groups' networks"):
            there = self.register.changed()
            if (
                there is not None
            ):  # somebody else may have removed groups: what listens in a namespace keeps it alive
                self._damage.keep(there)
                self._files.keep(there)
            loaded = self._effect.loaded().networks
            found, read = [], self._ipam.look()
            for target in targets:
                each = self.register.read(target.id)
                if each is not None:
                    allocated = self._files.allocated(each, read)
                    joined = {name: loaded[a.id] for name, a in allocated.items() if a.id in loaded}
                    found.append((each, allocated, joined))
            wrong = dict(self._damage.of([self._wanted(each, joined) for each, _, joined in found]))
            upstream = self._files.upstream()
            for each, allocated, joined in found:
                bad = self._files.wrong(each, allocated, joined, upstream)
                if bad:
                    wrong[each.id] = (*wrong.get(each.id, ()), *bad)
        return wrong

    def detach(self, target: Incarnation) -> None:
        """Take the group off; what is gone already is fine."""
        with told(f"{target.ref}: cannot detach from its networks"):
            folder = self._layout.group_run(target.id)
            attached = self.register.read(target.id)
            self._unlink(target)
            self._damage.forget(target.id)
            for name in (STATE, *files.NAMES):
                (folder / name).unlink(missing_ok=True)
            for network in attached.networks if attached else ():
                self._free(target.stack, network)

    def addresses(self, target: Incarnation) -> Mapping[str, str]:
        attached = self.register.read(target.id)
        return {
            name: address
            for name, address in (attached.networks.items() if attached else ())
            if (found := self._ipam.read(target.stack, name)) is not None
            and found.members.get(target.ref.name) == address
        }

    def attached(self, target: Incarnation) -> bool:
        """Whether it was attached in this boot; what became of that since is `damage`."""
        return self.register.read(target.id) is not None

    def rename(self, stack: str, network: str) -> None:
        """The network's members changed: rewrite the hosts files of all who are on it."""
        with told(f"network/{network}: cannot rewrite hosts files"):
            for each in self.register.sharing(stack, network):
                self._files.write_hosts(each)

    def reroute(self, stack: str, network: str) -> None:
        """The network was opened or closed: default routes follow."""
        with told(f"network/{network}: cannot change routes"):
            for each in self.register.sharing(stack, network):
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
            dns=tuple(attachment.dns),
        )

    def _free(self, stack: str, network: str) -> None:
        found = self._ipam.read(stack, network)
        if found is not None and found.held:
            living = [each.networks[network] for each in self.register.on(stack, network)]
            self._ipam.allocate(stack, network, found.id, found.own, None, living)

    def _wanted(self, each: Attached, joined: Mapping[str, NetworkRules]) -> Wanted:
        mine, theirs = _macs(each.id)
        ways = (
            Way(
                address=address,
                gateway=joined[name].gateway,
                subnet=joined[name].subnet,
                internal=joined[name].internal,
            )
            for name, address in each.networks.items()
            if name in joined
        )
        return Wanted(
            id=each.id,
            netns=each.netns,
            link=self._layout.link(each.id),
            mark=self._effect.group,
            mac=mine,
            peer_mac=theirs,
            ways=tuple(ways),
        )

    def _outside(self, each: Attached, joined: Mapping[str, NetworkRules]) -> None:
        """The host's half: the pair itself, and the way to every address of the group."""
        link = self._layout.link(each.id)
        mine, theirs = _macs(each.id)
        netns = os.open(each.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with entered(self._host), netlink.Socket() as host:
                pair = netlink.veth(link, mine, self._effect.group, PEER, theirs, netns)
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
                host.run([netlink.up(index, alias=alias, conf=CONF), *_ways(each, joined, index)])
        finally:
            os.close(netns)

    def _again(self, each: Attached, joined: Mapping[str, NetworkRules]) -> None:
        """The host's half of a link that stays, written over what is there."""
        with entered(self._host), netlink.Socket() as host:
            index = link_index(self._layout.link(each.id)) or 0
            host.run([netlink.up(index, conf=CONF), *_ways(each, joined, index)])

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
                index = link_index(PEER)
                if index is None:
                    raise StepError(
                        f"{each.ref}: {each.netns} has no {PEER}", call="if_nametoindex", argument=PEER
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
