"""Groups as written: a `Unit` is a group, or a top-level container, which is a group of one.

In: a manifest. Out: units by name, in the order written; names that clash are reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.manifest.codes import Code
from orchestrator.manifest.load import Manifest
from orchestrator.manifest.pieces import Dependency, Limits
from orchestrator.manifest.schema import ContainerKeys, GroupKeys
from orchestrator.model.ids import Kind, Ref
from orchestrator.resolve.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A group before it becomes instances. `path` is its place; `limits` and `depends_on` are those of the group itself."""

    name: str
    path: tuple[str, ...]
    keys: GroupKeys
    containers: Mapping[str, ContainerKeys]
    limits: Limits
    depends_on: Mapping[str, Dependency]

    @property
    def instances(self) -> tuple[str, ...]:
        return tuple(f"{self.name}-{number}" for number in range(1, self.keys.replicas + 1))

    def path_of(self, container: str) -> tuple[str, ...]:
        return self.path if self.path[0] == "containers" else (*self.path, "containers", container)

    @property
    def networks(self) -> tuple[str, ...]:
        return ("default",) if self.keys.networks is None else self.keys.networks


def ref_of(instance: str, container: str) -> Ref:
    """`container/web-1/server`."""
    return Ref(Kind.CONTAINER, f"{instance}/{container}")


def units_of(manifest: Manifest, report: Report) -> dict[str, Unit]:
    """All units by name."""
    content = manifest.content
    units = {
        name: Unit(
            name=name,
            path=("containers", name),
            keys=single,
            containers={name: single},
            limits=Limits(),
            depends_on={},
        )
        for name, single in content.containers.items()
    }
    for name, group in content.groups.items():
        if name in units:
            report.fail(
                Code.NAME_TAKEN,
                f'"{name}" is a container and a group',
                ("groups", name, "[key]"),
                hint="groups and containers share one name space: rename one",
                first=("containers", name, "[key]"),
            )
            continue
        units[name] = Unit(
            name=name,
            path=("groups", name),
            keys=group,
            containers=group.containers,
            limits=group.limits,
            depends_on=group.depends_on,
        )
    for unit in units.values():
        found = re.fullmatch(r"(.+)-([1-9][0-9]*)", unit.name)
        if found and found[1] in units:
            report.fail(
                Code.INSTANCE_NAME,
                f'"{unit.name}" is the name of an instance of "{found[1]}"',
                (*unit.path, "[key]"),
                hint="rename one of them",
                first=(*units[found[1]].path, "[key]"),
            )
    return units
