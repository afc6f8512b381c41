"""Stacks for tests, built the way `resolve` builds them: by hand, and by hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from orchestrator.model.desired import (
    ConfigMount,
    ContainerSpec,
    Content,
    GroupSpec,
    Health,
    HostRoot,
    Job,
    Limits,
    Mount,
    Need,
    NetworkSpec,
    RootfsSpec,
    ServiceSpec,
    Spec,
    Stack,
    StackSpec,
    TcpProbe,
    Until,
    Update,
    VolumeMount,
    VolumeSpec,
)
from orchestrator.model.ids import Kind, Ref

NAME = "shop"
PROBE = Health(probe=TcpProbe(port=80))


@dataclass(frozen=True, kw_only=True)
class Group:
    """What a manifest would say of one group of one container."""

    name: str
    replicas: int = 1
    networks: tuple[str, ...] = ("default",)
    needs: Mapping[str, Until] | None = None
    follows: bool = False  # the needs say `on_restart: restart`
    volume: str | None = None
    job: bool = False
    probed: bool = False
    command: tuple[str, ...] = ("sleep", "infinity")
    memory: int | None = None
    hostname: str | None = None
    site: Content | None = None  # a config that it mounts
    more: Mapping[str, Any] | None = None


def container(name: str, number: int = 1) -> Ref:
    return Ref(Kind.CONTAINER, f"{name}-{number}/{name}")


def group(name: str, number: int = 1) -> Ref:
    return Ref(Kind.GROUP, f"{name}-{number}")


def service(name: str) -> Ref:
    return Ref(Kind.SERVICE, name)


def network(name: str) -> Ref:
    return Ref(Kind.NETWORK, name)


def volume(name: str) -> Ref:
    return Ref(Kind.VOLUME, name)


ROOTFS = Ref(Kind.ROOTFS, "base")
BUDGET = Ref(Kind.STACK, NAME)


def stack(*groups: Group, memory: int | None = None) -> Stack:
    """Budget, rootfs `base`, networks, volumes, and for each group its instances, containers and service."""
    resources: dict[Ref, Spec] = {BUDGET: StackSpec(limits=Limits(memory=memory))}
    resources[ROOTFS] = RootfsSpec(source=HostRoot())
    needs: dict[Ref, tuple[Need, ...]] = {}
    members: dict[str, list[str]] = {}
    for each in groups:
        for name in each.networks:
            members.setdefault(name, []).extend(
                [*(group(each.name, n + 1).name for n in range(each.replicas)), each.name]
            )
    for name in sorted(members):
        resources[network(name)] = NetworkSpec(members=tuple(members[name]))
    for each in groups:
        if each.volume:
            resources[volume(each.volume)] = VolumeSpec()
    replicas = {each.name: each.replicas for each in groups}
    for each in groups:
        _add(each, replicas, resources, needs)
    return Stack(name=NAME, resources=resources, needs={ref: needs.get(ref, ()) for ref in resources})


def _add(
    each: Group, replicas: Mapping[str, int], resources: dict[Ref, Spec], needs: dict[Ref, tuple[Need, ...]]
) -> None:
    numbers = range(1, each.replicas + 1)
    networks = tuple(Need(network(name), Until.CREATED, True) for name in each.networks)
    targets = tuple(
        Need(container(name, number), until, restarts=each.follows)
        for name, until in (each.needs or {}).items()
        for number in range(1, replicas[name] + 1)
    )
    mounts: tuple[Mount, ...] = (VolumeMount(volume=each.volume, target="/data"),) if each.volume else ()
    if each.site:
        mounts += (ConfigMount(config="site", target="/site"),)
    for number in numbers:
        own, inner = group(each.name, number), container(each.name, number)
        resources[own] = GroupSpec(
            service=each.name, hostname=each.hostname or own.name, networks=each.networks
        )
        needs[own] = (Need(BUDGET, Until.CREATED, True), *networks)
        spec = ContainerSpec(
            rootfs="base",
            command=each.command,
            mounts=mounts,
            contents={"config/site": each.site} if each.site else {},
            limits=Limits(memory=each.memory),
            job=Job() if each.job else None,
            health=PROBE if each.probed else None,
        )
        resources[inner] = replace(spec, **(each.more or {}))
        volumes = (Need(volume(each.volume), Until.CREATED, True),) if each.volume else ()
        needs[inner] = (
            Need(own, Until.STARTED, True),
            Need(ROOTFS, Until.CREATED, True),
            *volumes,
            *targets,
        )
    if each.networks:
        names = tuple(group(each.name, number).name for number in numbers)
        resources[service(each.name)] = ServiceSpec(networks=each.networks, instances=names)
        started = tuple(Need(group(each.name, number), Until.STARTED) for number in numbers)
        needs[service(each.name)] = (*networks, *started)


SITES = tuple(Content(digest=digest, update=update) for digest in "ab" for update in Update)
NAMES = ("alpha", "beta", "gamma", "delta")


@st.composite
def groups(draw: st.DrawFn) -> tuple[Group, ...]:
    """Up to four groups; each may depend on those before it."""
    found: list[Group] = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4)):
        earlier = draw(st.lists(st.sampled_from(found), unique_by=lambda each: each.name)) if found else []
        needs = {}
        for other in earlier:
            choices = [Until.STARTED]
            choices += [Until.HEALTHY] if other.probed else []
            choices += [Until.COMPLETED] if other.job else []
            needs[other.name] = draw(st.sampled_from(choices))
        job = draw(st.booleans())
        found.append(
            Group(
                name=name,
                replicas=draw(st.integers(1, 2)),
                networks=tuple(draw(st.lists(st.sampled_from(("front", "back")), unique=True))),
                needs=needs,
                follows=draw(st.booleans()),
                volume=draw(st.sampled_from((None, "data"))),
                job=job,
                probed=not job and draw(st.booleans()),
                command=("true",)
                if job
                else draw(st.sampled_from((("sleep", "infinity"), ("sh", "-c", "exec x")))),
                memory=draw(st.sampled_from((None, 1 << 26, 1 << 27))),
                site=draw(st.sampled_from((None, *SITES))),
            )
        )
    return tuple(found)


def stacks() -> st.SearchStrategy[Stack]:
    return st.builds(
        lambda many, memory: stack(*many, memory=memory), groups(), st.sampled_from((None, 1 << 30))
    )


def without(whole: Stack, *refs: Ref) -> Stack:
    """The stack with some resources taken out, as an edit of the manifest would."""
    kept = {ref: spec for ref, spec in whole.resources.items() if ref not in refs}
    return replace(whole, resources=kept, needs={ref: whole.needs.get(ref, ()) for ref in kept})
