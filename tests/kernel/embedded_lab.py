"""A small world for tests of the embedded runtime: real drivers on an instance of the test's own, one group a container."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.drivers.embedded.driver import EmbeddedDriver
from orchestrator.drivers.network.driver import NetworkDriver
from orchestrator.drivers.records import Records
from orchestrator.drivers.rootfs.driver import RootfsDriver
from orchestrator.drivers.volumes.driver import VolumeDriver
from orchestrator.model.desired import (
    ContainerSpec,
    GroupSpec,
    HostRoot,
    Limits,
    Need,
    RootfsSpec,
    RootSource,
    Spec,
    StackSpec,
    Until,
    VolumeSpec,
)
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation
from orchestrator.ports.driver import Bound, ExecRequest
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.client import Supervisor


def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Ask again until it holds; AssertionError past `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.01)


def bound(*targets: Incarnation) -> list[Bound]:
    return [Bound(need=Need(each.ref, Until.CREATED, True), target=each) for each in targets]


class Lab:
    """One stack `lab` with a rootfs `base`; every container lies in a group of its own unless one is given."""

    def __init__(self, folder: Path, source: RootSource | None = None) -> None:
        self.layout = Layout.at(folder)
        self.supervisor = Supervisor(self.layout)
        self.roots = RootfsDriver(self.layout)
        self.volumes = VolumeDriver(self.layout)
        self.network = NetworkDriver(self.layout, holder=self.supervisor)
        self._ids = itertools.count(1)
        self.driver = self.another()
        self.stack = self.incarnation(Kind.STACK, "lab")
        self.driver.create(self.stack, StackSpec(), ())
        self.driver.start(self.stack)
        self.base = self.rootfs("base", source or HostRoot())

    def another(self) -> EmbeddedDriver:
        """The driver as another process has it: nothing remembered."""
        return EmbeddedDriver(
            self.layout, self.supervisor, roots=self.roots, volumes=self.volumes, network=self.network
        )

    def incarnation(self, kind: Kind, name: str) -> Incarnation:
        return Incarnation("lab", Ref(kind, name), f"{next(self._ids):012x}")

    def rootfs(self, name: str, source: RootSource) -> Incarnation:
        target = self.incarnation(Kind.ROOTFS, name)
        self.roots.create(target, RootfsSpec(source=source), ())
        return target

    def volume(self, name: str) -> Incarnation:
        target = self.incarnation(Kind.VOLUME, name)
        self.volumes.create(target, VolumeSpec(), ())
        return target

    def group(self, name: str, limits: Limits | None = None) -> Incarnation:
        target = self.incarnation(Kind.GROUP, name)
        spec = GroupSpec(service=name, hostname=name, limits=limits or Limits())
        self.driver.create(target, spec, bound(self.stack))
        self.driver.start(target)
        return target

    def create(
        self,
        spec: ContainerSpec,
        *,
        group: Incarnation | None = None,
        base: Incarnation | None = None,
        volumes: tuple[Incarnation, ...] = (),
    ) -> Incarnation:
        group = group or self.group(f"g-{next(self._ids)}")
        target = self.incarnation(Kind.CONTAINER, f"{group.ref.name}/c")
        self.driver.create(target, spec, bound(group, base or self.base, *volumes))
        return target

    def run(self, *command: str, spec: ContainerSpec | None = None, **where: object) -> Incarnation:
        """A container of `command`, launched."""
        whole = replace(spec or ContainerSpec(rootfs="base", command=()), command=command)
        target = self.create(whole, **where)  # type: ignore[arg-type]
        self.driver.start(target)
        return target

    def shell(self, script: str, spec: ContainerSpec | None = None, **where: object) -> Incarnation:
        return self.run("sh", "-c", script, spec=spec, **where)

    def output(self, script: str, spec: ContainerSpec | None = None, **where: object) -> str:
        """What a shell script prints in a container of its own, once it has ended."""
        target = self.shell(script, spec, **where)
        until(lambda: self.observe(target).pid is None)
        return self.logs(target)

    def update(self, target: Incarnation, spec: Spec, *fields: str) -> None:
        """With the needs that it has."""
        found = Records(self.layout, self.driver.kinds).read(target)
        assert found is not None
        needs = [
            Bound(need=each, target=Incarnation(target.stack, each.ref, found.ids[each.ref]))
            for each in found.needs
        ]
        self.driver.update(target, spec, fields, needs)

    def logs(self, target: Incarnation) -> str:
        files = sorted(self.layout.logs(target.stack, target.ref).glob("*.log"))
        return "".join(each.read_text() for each in files)

    def observe(self, target: Incarnation) -> Observation:
        return next(each for each in self.another().observe(target.stack) if each.id == target.id)

    def exec(
        self, target: Incarnation, *command: str, timeout: float | None = 10.0, **more: object
    ) -> tuple[int, str]:
        """Exit code and standard output."""
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        try:
            request = ExecRequest(command=command, env={}, **more)  # type: ignore[arg-type]
            code = self.driver.exec(target, request, (null, write, null), timeout)
            os.close(write)
            write = -1
            with open(read, closefd=False) as file:
                return code, file.read()
        finally:
            for each in (read, write, null):
                if each >= 0:
                    os.close(each)

    def close(self) -> None:
        """Everything away, dependents first."""
        driver = self.another()
        order = {Kind.CONTAINER: 0, Kind.GROUP: 1, Kind.STACK: 2}
        for stack in sorted(driver.stacks()):
            for each in sorted(driver.observe(stack), key=lambda found: order[found.ref.kind]):
                driver.delete(Incarnation(stack, each.ref, each.id))
        for other in (self.roots, self.volumes):
            for stack in other.stacks():
                for each in other.observe(stack):
                    other.delete(Incarnation(stack, each.ref, each.id))
        with suppress(OSError):
            self.supervisor.stop()
