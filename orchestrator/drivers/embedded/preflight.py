"""What of a stack this host cannot do with the embedded runtime, found before anything is touched.

In: a stack and the host's cgroup hierarchies. Out: `Problem`s. Reads the host, changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.drivers import secrets
from orchestrator.drivers.embedded import limits as values
from orchestrator.drivers.embedded.devices import disk_number
from orchestrator.drivers.embedded.hierarchies import CONTROLLERS, Hierarchies
from orchestrator.drivers.embedded.inits import host_init
from orchestrator.errors import UsageError
from orchestrator.model.desired import BindMount, ContainerSpec, GroupSpec, Limits, Stack, StackSpec
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.signals import signal_number
from orchestrator.ports.driver import Problem
from orchestrator.ports.layout import Layout

# Mounting over these would take away what the container's own set-up relies on (CVE-2019-16884).
_KERNEL = ("/proc", "/sys")
_OURS = ("/", "/dev", "/dev/pts", "/dev/mqueue")


def problems(stack: Stack, layout: Layout, host: Hierarchies) -> Iterator[Problem]:
    """All of them, in the stack's order."""
    yield from _host(Ref(Kind.STACK, stack.name), host)
    for ref, spec in stack.resources.items():
        if isinstance(spec, StackSpec | GroupSpec | ContainerSpec):
            yield from _limits(ref, spec.limits, layout, host)
        if isinstance(spec, ContainerSpec):
            yield from _container(ref, spec)
            yield from _secrets(ref, spec)
    yield from _nested_cpus(stack, host)


def _host(ref: Ref, host: Hierarchies) -> Iterator[Problem]:
    if os.geteuid() != 0:
        yield Problem(ref=ref, field="", message="containers need root", hint="run it with sudo")
    if host.unified is None:
        yield Problem(
            ref=ref,
            field="",
            message="no cgroup v2 hierarchy is mounted",
            hint="mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    elif host.version("pids") is None:
        yield Problem(ref=ref, field="", message="this host has no pids cgroup controller")


def _limits(ref: Ref, limits: Limits, layout: Layout, host: Hierarchies) -> Iterator[Problem]:
    for field, message in missing(host, limits):
        yield Problem(ref=ref, field=field, message=message)
    if limits.cpuset is not None:
        wrong = _cpuset(limits.cpuset)
        if wrong:
            yield Problem(ref=ref, field="limits.cpuset", message=wrong)
    for each in limits.io:
        try:
            disk_number(each.device, os.fspath(layout.state))
        except ValueError as error:
            yield Problem(ref=ref, field="limits.io", message=str(error))


def missing(host: Hierarchies, limits: Limits) -> Iterator[tuple[str, str]]:
    """(field, message) for each limit that this host cannot enforce, by controller."""
    versions: Mapping[str, int | None] = {each: host.version(each) for each in CONTROLLERS}
    for name, controller in values.CONTROLLER_OF.items():
        if getattr(limits, name) in (None, ()):
            continue
        field = f"limits.{name}"
        if versions[controller] is None:
            yield field, f"this host has no {controller} cgroup controller"
        elif versions[controller] == 1 and name == "memory_high":
            yield field, "the memory controller is on cgroup v1 here, which has no memory_high"
        elif versions[controller] == 1 and name == "swap" and limits.swap:
            if limits.memory is None:
                yield (
                    field,
                    "the memory controller is on cgroup v1 here, where swap is limited only together with memory",
                )
            elif not os.path.exists(f"{host.v1['memory']}/memory.memsw.limit_in_bytes"):  # noqa: PTH110
                yield field, "the memory controller of this host does not account swap"


def _cpuset(text: str) -> str | None:
    try:
        asked = values.cpus(text)
    except ValueError:
        return f'cpuset "{text}" is not a list of CPUs like 0-2,5'
    online = values.cpus(Path("/sys/devices/system/cpu/online").read_text())
    absent = sorted(asked - online)
    if absent:
        return f"this host has no CPU {', '.join(map(str, absent))}"
    return None if asked else "cpuset is empty"


def _container(ref: Ref, spec: ContainerSpec) -> Iterator[Problem]:
    if spec.init and host_init() is None:
        yield Problem(
            ref=ref,
            field="init",
            message="this host has no catatonit or tini for `init: true`",
            hint="apt install catatonit",
        )
    try:
        signal_number(spec.stop.signal)
    except UsageError as error:
        yield Problem(ref=ref, field="stop.signal", message=error.message, hint=error.hint)
    for each in spec.mounts:
        target = os.path.normpath(each.target)
        if target in _OURS or any(target == top or target.startswith(top + "/") for top in _KERNEL):
            yield Problem(
                ref=ref,
                field="mounts",
                message=f"{each.target} is the runtime's own and cannot be mounted over",
            )
        if isinstance(each, BindMount) and not Path(each.source).exists():
            yield Problem(
                ref=ref,
                field="mounts",
                message=f"bind: {each.source}: no such file or directory",
                hint="make it first",
            )


def _secrets(ref: Ref, spec: ContainerSpec) -> Iterator[Problem]:
    for key, content in spec.contents.items():
        if content.source is None:
            continue
        try:
            secrets.read(content.source)
        except OSError as error:
            yield Problem(
                ref=ref,
                field=f"contents.{key}",
                message=f"{key.replace('/', ' ', 1)}: {content.source}: {(error.strerror or str(error)).lower()}",
                hint="put its file back",
            )


def _nested_cpus(stack: Stack, host: Hierarchies) -> Iterator[Problem]:
    """v1 refuses a cpu quota above the one around it; v2 takes it and lets the smaller one hold."""
    if host.version("cpu") != 1:
        return
    total = Ref(Kind.STACK, stack.name)
    for ref, spec in stack.resources.items():
        if not isinstance(spec, GroupSpec | ContainerSpec) or spec.limits.cpus is None:
            continue
        around = [total]
        if isinstance(spec, ContainerSpec):
            around.append(Ref(Kind.GROUP, ref.name.partition("/")[0]))
        for each in around:
            bound = _cpus(stack, each)
            if bound is not None and spec.limits.cpus > bound:
                yield Problem(
                    ref=ref,
                    field="limits.cpus",
                    message=f"cpus {spec.limits.cpus:g} is more than the {bound:g} of {each}, which cgroup v1 here refuses",
                )


def _cpus(stack: Stack, ref: Ref) -> float | None:
    spec = stack.resources.get(ref)
    return spec.limits.cpus if isinstance(spec, StackSpec | GroupSpec) else None
