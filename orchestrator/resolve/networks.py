"""Networks, their members and subnets, and published ports.

In: units. Out: `NetworkSpec` and `ServiceSpec` values; clashes within the stack are reported. Clashes with this host are
the drivers' to find.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from orchestrator.manifest import pieces
from orchestrator.manifest.codes import Code
from orchestrator.model.desired import NetworkSpec, Protocol, Publish, ServiceSpec
from orchestrator.resolve.report import Path, Report, near
from orchestrator.resolve.units import Unit

DEFAULT = "default"
ANY = "0.0.0.0"


def networks_of(
    declared: Mapping[str, pieces.Network], units: Mapping[str, Unit], report: Report
) -> dict[str, NetworkSpec]:
    """Every declared network, and `default` where a group needs it, by the names written; members in that order."""
    members: dict[str, list[str]] = {name: [] for name in declared}
    for unit in units.values():
        for name in _joined(unit, declared, report):
            members.setdefault(name, []).extend((unit.name, *unit.instances))
    _check_subnets(declared, members, report)
    default = pieces.Network()
    return {
        name: NetworkSpec(
            subnet=declared.get(name, default).subnet,
            internal=declared.get(name, default).internal,
            members=tuple(names),
        )
        for name, names in members.items()
    }


def named(
    word: str,
    declared: Mapping[str, pieces.Network] | Mapping[str, pieces.Volume],
    stack: str,
    report: Report,
) -> dict[str, str]:
    """The names written -> those of refs: another stack's are `infra/edge`. `word`: the key, networks or volumes."""
    names: dict[str, str] = {}
    for name, each in declared.items():
        if each.external is not None and each.external.partition("/")[0] == stack:
            report.fail(
                Code.EXTERNAL,
                f'"{each.external}" is of this stack itself',
                (word, name, "external"),
                hint="leave external out",
            )
        elif each.external in names.values():
            first = next(other for other, found in names.items() if found == each.external)
            report.fail(
                Code.EXTERNAL,
                f'"{each.external}" is named "{first}" already',
                (word, name, "external"),
                hint="keep one of them",
                first=(word, first, "external"),
            )
        names[name] = each.external or name
    return names


def _joined(unit: Unit, declared: Mapping[str, pieces.Network], report: Report) -> list[str]:
    joined: list[str] = []
    for number, name in enumerate(unit.networks):
        path: Path = (*unit.path, "networks", number)
        if name in joined:
            report.fail(
                Code.VALUE, f'"{unit.name}" names network "{name}" twice', path, hint="keep one of them"
            )
        elif name in declared or name == DEFAULT:
            joined.append(name)
        elif not report.written("networks", name):
            word = "group" if unit.path[0] == "groups" else "container"
            report.fail(
                Code.UNKNOWN_NETWORK,
                f'{word} "{unit.name}" needs network "{name}", which is not declared',
                path,
                hint=near(name, declared, otherwise=f"declare it: networks: {{{name}: {{}}}}"),
            )
    return joined


def _check_subnets(
    declared: Mapping[str, pieces.Network], members: Mapping[str, list[str]], report: Report
) -> None:
    found = [(ipaddress.IPv4Network(each.subnet), name) for name, each in declared.items() if each.subnet]
    for subnet, name in found:
        path = ("networks", name, "subnet")
        if subnet.is_loopback or subnet.is_multicast or subnet.is_link_local or subnet.is_unspecified:
            report.fail(
                Code.SUBNET,
                f"subnet {subnet} cannot be used for a network",
                path,
                hint="take one of 10.0.0.0/8",
            )
        room, needed = max(0, subnet.num_addresses - 2), len(members.get(name, ()))
        if needed > room:
            fitting = 32 - (needed + 1).bit_length()
            report.fail(
                Code.SUBNET_FULL,
                f'subnet {subnet} has room for {room} addresses, and network "{name}" needs {needed}',
                path,
                hint=f"every group and every instance has one: take a /{fitting}",
            )
    found.sort(key=lambda each: (int(each[0].network_address), each[0].prefixlen))
    widest = found[0] if found else None
    for subnet, name in found[1:]:
        assert widest is not None
        if subnet.network_address <= widest[0].broadcast_address:
            report.fail(
                Code.SUBNET,
                f'subnet {subnet} of network "{name}" overlaps {widest[0]} of network "{widest[1]}"',
                ("networks", name, "subnet"),
                hint="give each network a subnet of its own, or leave subnet out",
                first=("networks", widest[1], "subnet"),
            )
        if subnet.broadcast_address > widest[0].broadcast_address:
            widest = (subnet, name)


def services_of(
    units: Mapping[str, Unit], names: Mapping[str, str], report: Report
) -> dict[str, ServiceSpec]:
    """The name and published ports of every group that joins a network. `names`: as of `named`."""
    taken: dict[tuple[int, str], list[tuple[str, Path]]] = {}
    services = {}
    for unit in units.values():
        published = tuple(
            each
            for number in range(len(unit.keys.publish))
            for each in _published(unit, number, taken, report)
        )
        if not unit.networks:
            if published:
                report.fail(
                    Code.PUBLISH_WITHOUT_NETWORK,
                    f'"{unit.name}" publishes ports and joins no network',
                    (*unit.path, "publish"),
                    hint="remove networks: [] to join the default network",
                )
            continue
        networks = tuple(dict.fromkeys(names.get(each, each) for each in unit.networks))
        services[unit.name] = ServiceSpec(networks=networks, instances=unit.instances, publish=published)
    return services


def _published(
    unit: Unit, number: int, taken: dict[tuple[int, str], list[tuple[str, Path]]], report: Report
) -> list[Publish]:
    written = unit.keys.publish[number]
    path: Path = (*unit.path, "publish", number)
    clash: tuple[int, Path] | None = None
    for port in written.port:
        owners = taken.setdefault((port, written.protocol), [])
        if clash is None:
            clash = next(
                (
                    (port, first)
                    for address, first in owners
                    if ANY in (address, written.address) or address == written.address
                ),
                None,
            )
        owners.append((written.address, path))
    if clash is not None:
        report.fail(
            Code.PORT_TAKEN,
            f"port {written.address}:{clash[0]}/{written.protocol} is published twice",
            path,
            hint="publish another port or on another address; 0.0.0.0 is every address",
            first=clash[1],
        )
    return [
        Publish(
            address=written.address,
            host_port=host,
            container_port=target,
            protocol=Protocol(written.protocol),
        )
        for host, target in zip(written.port, written.target, strict=True)
    ]
