"""The network driver: kinds network and service, and the port by which groups are attached.

In: specs and incarnations. Out: records, allocations, and what `effect` and `groups` make of them. It works in one
network namespace, the process's own or the one given. Must not know how a container is run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

from orchestrator.drivers.network import checks, files
from orchestrator.drivers.network.conntrack import Tracking
from orchestrator.drivers.network.drain import Drains
from orchestrator.drivers.network.effect import Effect, reached
from orchestrator.drivers.network.groups import Groups
from orchestrator.drivers.network.hub import HUB
from orchestrator.drivers.network.ipam import DEFAULT_POOL, Allocation, Ipam, Read, located, routed
from orchestrator.drivers.network.namespace import entered, read_net, told
from orchestrator.drivers.network.ports import Holder, Ports, text
from orchestrator.drivers.network.rules import NetworkRules, Port, ServiceRules, Virtual
from orchestrator.drivers.records import Record, Records
from orchestrator.errors import StepError, UsageError
from orchestrator.model.codec import decode
from orchestrator.model.desired import NetworkSpec, ServiceSpec, Spec, Stack
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.ports.driver import Attachment, Bound, Problem
from orchestrator.ports.layout import Layout


class NetworkDriver:
    """`holder`: keeps published ports bound. `pool`: where subnets are cut from (CIDR). `host_netns`: path of the namespace
    that plays the host."""

    kinds = frozenset({Kind.NETWORK, Kind.SERVICE})

    def __init__(
        self,
        layout: Layout,
        *,
        holder: Holder,
        pool: str | None = None,
        host_netns: str | None = None,
        resolv: Sequence[str] = files.RESOLV,
    ) -> None:
        try:
            block = IPv4Network(pool) if pool else DEFAULT_POOL
        except ValueError as error:
            raise UsageError(
                f"address pool {pool}: {error}".lower(), hint="write it as 10.87.0.0/16"
            ) from error
        self._host = host_netns
        self._resolv = tuple(resolv)
        self._layout = layout
        self._records = Records(layout, self.kinds)
        boot_id = self._records.boot_id
        self._ipam = Ipam(layout, block, self._routes)
        self._effect = Effect(layout, host_netns, boot_id, lambda: files.name_servers(self._resolv)[1])
        self._groups = Groups(
            layout,
            self._ipam,
            self._effect,
            host_netns,
            boot_id,
            lambda: files.name_servers(self._resolv)[0],
            self._in_effect,
        )
        self._ports = Ports(host_netns, holder)
        self._drains = Drains(self._groups.register, self._effect, Tracking(host_netns))

    # the port of every driver

    def stacks(self) -> frozenset[str]:
        return self._records.stacks()

    def check(self, stack: Stack) -> Sequence[Problem]:
        networks = {
            ref: spec
            for ref, spec in stack.resources.items()
            if isinstance(spec, NetworkSpec) and ref.owner is None
        }
        services = {ref: spec for ref, spec in stack.resources.items() if isinstance(spec, ServiceSpec)}
        if not networks and not services:
            return ()
        own = {
            ref.name: each for ref in networks if (each := self._ipam.read(stack.name, ref.name)) is not None
        }
        found: list[Problem] = []
        if shutil.which("nft") is None:
            ref = next(iter((*networks, *services)))
            found.append(
                Problem(ref=ref, field="", message="the command nft is missing", hint="apt install nftables")
            )
        with told("cannot look at the network"):
            found += checks.subnets(networks, own, self._ipam.others(stack.name), self._routes())
            if any(spec.publish for spec in services.values()):
                with entered(self._host):
                    heard = checks.listeners({name: read_net(name) for name in checks.TABLES})
                    held = self._ports.held()
                    others = [each for each in heard if (each.protocol, each.address, each.port) not in held]
                    found += checks.ports(services, self._other_services(stack.name), others)
        return found

    def observe(self, stack: str) -> Sequence[Observation]:
        records = self._records.list(stack)
        if not records:
            return ()
        running, damage = self._effect.ids(), self._damage([each.target.id for each in records])
        read = self._ipam.look()
        return tuple(
            self._observation(each, running, damage.get(each.target.id, ()), read) for each in records
        )

    def create(self, target: Incarnation, spec: Spec, bound: Sequence[Bound]) -> None:
        self._records.write(target, spec, bound)
        if isinstance(spec, NetworkSpec):
            self._allocate(target, spec)

    def start(self, target: Incarnation) -> None:
        spec = self._spec(target)
        if target.ref.owner is not None:
            self._borrow(target, spec)
        elif isinstance(spec, NetworkSpec):
            self._effect.put(target.id, self._network_rules(target, spec))
        else:
            rules = self._service_rules(target, spec)
            self._hold(target, rules)
            self._effect.put(target.id, rules)

    def stop(self, target: Incarnation, *, fault: str | None = None) -> None:
        if target.ref.owner is None:
            found = self._effect.loaded().services.get(target.id)
            if found is not None:
                self._ports.let_go(found.ports)
            self._effect.put(target.id, None)

    def update(self, target: Incarnation, spec: Spec, fields: Sequence[str], bound: Sequence[Bound]) -> None:
        self._records.rewrite(target, spec=spec, bound=bound)
        loaded = self._effect.loaded()
        if isinstance(spec, NetworkSpec):
            self._allocate(target, spec)
            if any(self._damage([target.id]).values()):
                self._effect.mend()
            if target.id in loaded.networks:
                self._effect.put(target.id, self._network_rules(target, spec))
                if "internal" in fields:
                    self._groups.reroute(target.stack, target.ref.name)
            self._groups.rename(target.stack, target.ref.name)
        elif isinstance(spec, ServiceSpec) and target.id in loaded.services:
            rules = self._service_rules(target, spec)
            now, before = reached([rules]), reached([loaded.services[target.id]])
            ending = self._drains.of(now) if "ready" in fields else ()
            self._hold(target, rules)
            self._effect.put(target.id, rules, ending=ending)
            if before - now:
                self._drains.move(before - now)

    def delete(self, target: Incarnation) -> None:
        self.stop(target)
        if target.ref.owner is not None:
            self._borrow(target, NetworkSpec())
        elif target.ref.kind is Kind.NETWORK:
            with told(f"{target.ref}: cannot give its subnet back"):
                self._ipam.release(target.stack, target.ref.name, target.id)
        self._records.remove(target)

    # the port of groups

    def attach(self, attachment: Attachment) -> None:
        self._groups.attach(attachment)

    def detach(self, target: Incarnation) -> None:
        self._groups.detach(target)

    def rejoin(self, attachment: Attachment) -> None:
        self._groups.rejoin(attachment)

    def addresses(self, target: Incarnation) -> Mapping[str, str]:
        return self._groups.addresses(target)

    def attached(self, target: Incarnation) -> bool:
        return self._groups.attached(target)

    def damage(self, targets: Sequence[Incarnation]) -> Mapping[str, tuple[str, ...]]:
        return self._groups.damage(targets)

    def mend(self, attachment: Attachment) -> None:
        self._groups.mend(attachment)

    def drain(self, group: Incarnation, by: Ref, seconds: float) -> bool:
        return self._drains.begin(group, by, seconds)

    def undrain(self, group: Incarnation, by: Ref) -> None:
        self._drains.end(group, by)

    def forget(self, group: Incarnation) -> None:
        self._drains.forget(group)

    # what is in effect

    def _damage(self, ids: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """Of networks and services in effect; what all of them share is told at the first network."""
        loaded = self._effect.loaded()
        damage: dict[str, tuple[str, ...]] = {}
        networks = [id for id in ids if id in loaded.networks]
        if networks:
            lost = self._effect.lost([loaded.networks[id] for id in networks])
            damage = dict(zip(networks, lost, strict=True))
            damage[networks[0]] = (*self._effect.damage(), *damage[networks[0]])
        services = {id: loaded.services[id].ports for id in ids if id in loaded.services}
        missing = self._ports.missing(port for ports in services.values() for port in ports)
        for id, ports in services.items() if missing else ():
            damage[id] = tuple(f"port {text(each)}" for each in ports if each in missing)
        return damage

    def _observation(
        self, record: Record, effective: frozenset[str], damage: tuple[str, ...], read: Read
    ) -> Observation:
        target, spec = record.target, record.spec or {}
        running = target.id in effective
        if target.ref.owner is not None:
            running = self._borrowed(record, effective)
        elif target.ref.kind is Kind.NETWORK:
            running &= read(target.stack, target.ref.name) is not None
        return record.observation(
            Phase.RUNNING if running else Phase.CREATED,
            actual=self._reached(target, spec, read) if running and target.ref.kind is Kind.SERVICE else {},
            addresses=_virtual_addresses(target, spec, read),
            damage=damage,
        )

    def _reached(self, target: Incarnation, spec: Mapping[str, Any], read: Read) -> Mapping[str, Any]:
        """The instances that the rules send traffic to on every network of the service."""
        loaded = self._effect.loaded()
        rules = loaded.services.get(target.id)
        if rules is None or not rules.virtuals:
            return {}
        drained = loaded.drained()
        backends = [frozenset(each.backends) - drained for each in rules.virtuals]
        members = [
            each.members if (each := read(target.stack, name)) else {} for name in spec.get("networks", ())
        ]
        instances = spec.get("instances", ())
        return {
            "ready": [
                name
                for name in instances
                if all(
                    addresses.get(name) in reached
                    for addresses, reached in zip(members, backends, strict=False)
                )
            ]
        }

    def _hold(self, target: Incarnation, rules: ServiceRules) -> None:
        """Exactly the ports of these rules; first those go that were published until now, for one may take in another."""
        before = self._effect.loaded().services.get(target.id)
        with told(f"{target.ref}: cannot hold its ports"):
            if before is not None:
                places = {text(each) for each in rules.ports}
                self._ports.let_go(each for each in before.ports if text(each) not in places)
            self._ports.hold(rules.ports)

    # how specs become rules

    def _allocate(self, target: Incarnation, spec: NetworkSpec) -> Allocation:
        stack, name = target.stack, target.ref.name
        living = [each.networks[name] for each in self._groups.register.on(stack, name)]
        with told(f"{target.ref}: cannot allocate addresses"):
            return self._ipam.allocate(stack, name, target.id, spec.members, spec.subnet, living)

    def _borrow(self, target: Incarnation, spec: NetworkSpec | ServiceSpec) -> None:
        """Exactly the members of `spec` get addresses on another stack's network, if it is there; all on it hear."""
        stack, name = target.stack, target.ref.name
        assert isinstance(spec, NetworkSpec)
        if self._ipam.read(stack, name) is not None:
            self._allocate(target, spec)
            self._groups.rename(stack, name)

    def _borrowed(self, record: Record, effective: frozenset[str]) -> bool:
        """Whether another stack's network is in effect and knows all members of this one."""
        found = self._ipam.read(record.target.stack, record.target.ref.name)
        members = (record.spec or {}).get("members", ())
        return found is not None and found.id in effective and all(each in found.members for each in members)

    def _network_rules(self, target: Incarnation, spec: NetworkSpec) -> NetworkRules:
        found = self._ipam.read(target.stack, target.ref.name) or self._allocate(target, spec)
        return NetworkRules(subnet=str(found.subnet), gateway=found.gateway, internal=spec.internal)

    def _service_rules(self, target: Incarnation, spec: ServiceSpec) -> ServiceRules:
        stack, name = target.stack, target.ref.name
        virtuals, closed = [], []
        for network in spec.networks:
            rules = self._in_effect(stack, network)
            members = self._ipam.include(stack, network, (name, *spec.instances)).members
            backends = tuple(members[each] for each in _ready(spec))
            virtuals.append(Virtual(address=members[name], backends=backends))
            closed.append(rules.internal)
        # Published over the first network that knows a way back to everybody.
        reached = virtuals[closed.index(False) if False in closed else 0].backends if virtuals else ()
        ports = tuple(
            Port(
                address=each.address,
                host_port=each.host_port,
                container_port=each.container_port,
                protocol=each.protocol,
                backends=reached,
            )
            for each in spec.publish
        )
        return ServiceRules(virtuals=tuple(virtuals), ports=ports)

    def _in_effect(self, stack: str, network: str) -> NetworkRules:
        """The network's rules; brought into effect first where a member comes before its START step."""
        allocation = self._ipam.read(stack, network)
        if allocation is None:
            raise StepError(
                f"network {network!r} of stack {stack!r} has no subnet yet", hint="apply it again"
            )
        rules = self._effect.loaded().networks.get(allocation.id)
        owner, _ = located(stack, network)
        if rules is None and owner != stack:
            raise StepError(f"network {network} is not in effect", hint=f"apply stack {owner} first")
        if rules is None:
            target = Incarnation(stack, Ref(Kind.NETWORK, network), allocation.id)
            spec = self._spec(target)
            assert isinstance(spec, NetworkSpec)
            rules = self._network_rules(target, spec)
            self._effect.put(target.id, rules)
        return rules

    def _spec(self, target: Incarnation) -> NetworkSpec | ServiceSpec:
        record = self._records.read(target)
        if record is None or record.spec is None:
            raise StepError(f"{target.ref}: no readable record of {target.id}", hint="apply the stack again")
        if target.ref.kind is Kind.NETWORK:
            return decode(NetworkSpec, record.spec)
        return decode(ServiceSpec, record.spec)

    def _other_services(self, stack: str) -> list[tuple[str, ServiceSpec]]:
        return [
            (f"service {name}/{each.target.ref.name}", decode(ServiceSpec, each.spec))
            for name in sorted(self._records.stacks() - {stack})
            for each in self._records.list(name)
            if each.target.ref.kind is Kind.SERVICE and each.spec is not None
        ]

    def _routes(self) -> tuple[tuple[IPv4Network, str], ...]:
        """Routes of the host that are not ours; those of other instances are not ours either."""
        own = f"{HUB}{self._layout.instance}"
        with told("cannot read the host's routes"), entered(self._host):
            return routed(read_net("route"), lambda link: link == own or _is_group_link(link))


def _ready(spec: ServiceSpec) -> tuple[str, ...]:
    return spec.instances if spec.ready is None else spec.ready


def _is_group_link(name: str) -> bool:
    # Of any instance: a /32 within a subnet that its hub's route shows as a whole.
    return len(name) == 15 and name.startswith("orc") and "-" not in name


def _virtual_addresses(target: Incarnation, spec: Mapping[str, object], read: Read) -> Mapping[str, str]:
    networks = spec.get("networks", ())
    if target.ref.kind is not Kind.SERVICE or not isinstance(networks, list):
        return {}
    found = {name: read(target.stack, name) for name in networks}
    return {
        name: each.members[target.ref.name]
        for name, each in found.items()
        if each is not None and target.ref.name in each.members
    }
