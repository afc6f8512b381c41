"""A manifest to the stack that it means: resources, needs and places.

In: `Manifest`. Out: `Stack`, or None with diagnostics. Pure: what is on this host is the drivers' to check. Cost is linear
in the number of containers and of their needs.
"""

from __future__ import annotations

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.manifest.load import Loaded, Manifest, absolute, by_place
from orchestrator.manifest.source import no_collection
from orchestrator.model.desired import (
    ContainerSpec,
    GroupSpec,
    Limits,
    Need,
    Spec,
    Stack,
    StackSpec,
    Until,
    VolumeMount,
    VolumeSpec,
)
from orchestrator.model.ids import Kind, Ref
from orchestrator.resolve import volumes
from orchestrator.resolve.containers import Surroundings, container_of, probed
from orchestrator.resolve.contents import Keyed, blobs_of, contents_of, unkeyed
from orchestrator.resolve.dependencies import Dependencies, Waits
from orchestrator.resolve.limits import Level, check_within, limits_of
from orchestrator.resolve.networks import named, networks_of, services_of
from orchestrator.resolve.places import (
    GROUP,
    SERVICE,
    SINGLE_GROUP,
    Fields,
    container_only,
    env_file_fields,
    fields_of,
    node_at,
    only,
)
from orchestrator.resolve.report import Report
from orchestrator.resolve.roots import Pins, spec_of
from orchestrator.resolve.units import Unit, ref_of, units_of


def resolve(
    manifest: Manifest, keyed: Keyed = unkeyed, pins: Pins | None = None
) -> tuple[Stack | None, tuple[Diagnostic, ...]]:
    """The stack, or None and why not. A failed manifest gives diagnostics alone. `keyed`: the digest of a secret.
    `pins`: what its images and recipes came down to; a stack without them is looked at and never applied."""
    report = Report(manifest)
    with no_collection():
        stack = _Resolving(manifest, report, keyed, pins or {}).stack()
    failed = bool(report.found) or manifest.failed
    return (None if failed else stack), by_place(report.found, tuple(manifest.folders))


def resolve_all(loaded: Loaded) -> tuple[tuple[Stack, ...], tuple[Diagnostic, ...]]:
    """All stacks that were read, and every diagnostic of reading and resolving, sorted by place."""
    stacks, found = [], list(loaded.diagnostics)
    for manifest in loaded.manifests:
        stack, diagnostics = resolve(manifest)
        found += diagnostics
        if stack is not None:
            stacks.append(stack)
    return tuple(stacks), by_place(found, tuple(loaded.sources))


class _Resolving:
    def __init__(self, manifest: Manifest, report: Report, keyed: Keyed, pins: Pins) -> None:
        self._manifest = manifest
        self._pins = pins
        self._contents = contents_of(manifest, keyed)
        self._report = report
        self._root = manifest.root
        self._top = Ref(Kind.STACK, manifest.name)
        self._resources: dict[Ref, Spec] = {}
        self._needs: dict[Ref, tuple[Need, ...]] = {}
        self._places: dict[tuple[Ref, str], Span] = {}
        self._written: dict[str, Fields] = {}  # unit -> where its keys stand
        self._networks = named("networks", manifest.content.networks, manifest.name, report)
        declared = manifest.content.volumes
        self._volumes = volumes.names_of(declared, named("volumes", declared, manifest.name, report))

    def stack(self) -> Stack:
        """Resources in the order of their kinds, within a kind as written."""
        content, report = self._manifest.content, self._report
        units = units_of(self._manifest, report)
        self._written = {unit.name: self._fields(*unit.path) for unit in units.values()}
        budget = limits_of(content.limits, ("limits",), report)
        self._add(self._top, StackSpec(limits=budget), (), self._stack_fields())
        containers = self._containers(units, ("the stack", budget, ("limits",)))
        for network, network_spec in networks_of(content.networks, units, report).items():
            ref = Ref(Kind.NETWORK, self._networks.get(network, network))
            self._add(ref, network_spec, (), self._fields("networks", network))
        for volume, volume_name in self._volumes.items():
            if volumes.INSTANCE not in volume_name:
                shared = volumes.spec_of(self._manifest, volume)
                self._add(Ref(Kind.VOLUME, volume_name), shared, (), self._fields("volumes", volume))
        for unit, name, container, _ in containers:
            for volume_name, written in volumes.own_of(container, unit.instances).items():
                place = self._fields("volumes", written) if written else self._fields(*unit.path_of(name))[:1]
                own = volumes.spec_of(self._manifest, written) if written else VolumeSpec()
                self._add(Ref(Kind.VOLUME, volume_name), own, (), place)
        for unit in units.values():
            self._groups(unit)
        for name, service_spec in services_of(units, self._networks, report).items():
            needs = (
                *(Need(Ref(Kind.NETWORK, each), Until.CREATED, True) for each in service_spec.networks),
                *(Need(Ref(Kind.GROUP, each), Until.STARTED) for each in service_spec.instances),
            )
            self._add(Ref(Kind.SERVICE, name), service_spec, needs, only(self._written[name], SERVICE))
        for unit, name, spec, waits in containers:
            self._instances(unit, name, spec, waits)
        used = {key: None for _, _, spec, _ in containers for key in spec.contents}
        return Stack(
            name=self._manifest.name,
            resources=self._resources,
            needs=self._needs,
            places=self._places,
            blobs=blobs_of(self._manifest, used),
        )

    def _containers(
        self, units: dict[str, Unit], budget: Level
    ) -> list[tuple[Unit, str, ContainerSpec, Waits]]:
        """Every container once, for all its replicas; adds the rootfs, declared and inline."""
        manifest, report = self._manifest, self._report
        declared = manifest.content.rootfs
        rootfs = {
            name: spec_of(each, manifest, ("rootfs", name), self._pins) for name, each in declared.items()
        }
        around = Surroundings(
            manifest=manifest,
            report=report,
            rootfs=rootfs,
            pins=self._pins,
            volumes=self._volumes,
            contents=self._contents,
        )
        dependencies = Dependencies(
            units, report, probed=lambda unit, name: probed(unit, name, around), partial=manifest.partial
        )
        found = []
        for unit in units.values():
            outer = self._outer(unit, budget)
            shared = dependencies.of_group(unit)
            for name in unit.containers:
                spec = container_of(unit, name, outer, around)
                found.append((unit, name, spec, dependencies.of_container(unit, name, shared)))
        for name, rootfs_spec in rootfs.items():
            fields = self._fields("rootfs", name) if name in declared else []
            self._add(
                Ref(Kind.ROOTFS, name),
                rootfs_spec,
                (),
                [*fields, *((("source", fields[0][1]),) if fields else ())],
            )
        return found

    def _outer(self, unit: Unit, budget: Level) -> tuple[Level, ...]:
        """The limits above a container: its group's, then the stack's."""
        if not unit.limits.model_fields_set:
            return (budget,)
        path = (*unit.path, "limits")
        level = (f'group "{unit.name}"', limits_of(unit.limits, path, self._report), path)
        check_within(level, (budget,), self._report)
        return (level, budget)

    def _groups(self, unit: Unit) -> None:
        single = unit.path[0] == "containers"
        fields = only(self._written[unit.name], SINGLE_GROUP if single else GROUP)
        # A top-level container's limits are the container's: its group has none of its own.
        limits = (
            Limits() if single else limits_of(unit.limits, (*unit.path, "limits"), Report(self._manifest))
        )
        networks = tuple(self._networks.get(each, each) for each in unit.networks)
        needs = (
            Need(self._top, Until.CREATED, True),
            *(Need(Ref(Kind.NETWORK, each), Until.CREATED, True) for each in networks),
        )
        for instance in unit.instances:
            spec = GroupSpec(
                service=unit.name,
                hostname=unit.keys.hostname or instance,
                networks=networks,
                dns=unit.keys.dns,
                limits=limits,
            )
            self._add(Ref(Kind.GROUP, instance), spec, needs, fields)

    def _instances(self, unit: Unit, name: str, spec: ContainerSpec, waits: Waits) -> None:
        fields = (
            self._container_fields(unit, name)
            + self._content_fields(spec)
            + self._bound_fields(unit, name, spec)
        )
        rootfs = Need(Ref(Kind.ROOTFS, spec.rootfs), Until.CREATED, True)
        for instance in unit.instances:
            own = volumes.named(spec, instance)
            mounted = dict.fromkeys(each.volume for each in own.mounts if isinstance(each, VolumeMount))
            needs = (
                Need(Ref(Kind.GROUP, instance), Until.STARTED, True),
                rootfs,
                *(Need(Ref(Kind.VOLUME, each), Until.CREATED, True) for each in mounted),
                *(
                    Need(ref_of(instance, each), until, restarts=follow)
                    for each, until, follow in waits.siblings
                ),
                *waits.outside,
            )
            self._add(ref_of(instance, name), own, needs, fields)

    def _add(self, ref: Ref, spec: Spec, needs: tuple[Need, ...], fields: Fields) -> None:
        self._resources[ref] = spec
        self._needs[ref] = needs
        for field, span in fields:
            self._places[ref, field] = span

    def _fields(self, *path: str) -> Fields:
        return fields_of(*node_at(self._root, *path))

    def _stack_fields(self) -> Fields:
        limits = [(name, span) for name, span in fields_of(None, self._root) if name.startswith("limits")]
        return [("", self._root.find("stack")), *limits]

    def _content_fields(self, spec: ContainerSpec) -> Fields:
        """A content was written where its secret or config is declared."""
        found = []
        for key in spec.contents:
            kind, _, name = key.partition("/")
            found.append((f"contents.{key}", self._root.find(f"{kind}s", name, "[key]")))
        return found

    def _bound_fields(self, unit: Unit, name: str, spec: ContainerSpec) -> Fields:
        """A bound file was written with its mount."""
        place = self._root.find(*unit.path_of(name), "mounts", "[key]")
        return [(f"bound.{source}", place) for source in spec.bound]

    def _container_fields(self, unit: Unit, name: str) -> Fields:
        path = unit.path_of(name)
        single = unit.path[0] == "containers"
        fields = container_only(self._written[unit.name]) if single else self._fields(*path)
        files = unit.containers[name].env_file
        if files:
            known = self._manifest.env_files
            entries = (
                each for file in files for each in known.get(absolute(self._manifest, file, *path), ())
            )
            fields += env_file_fields(entries, fields)
        return fields
