"""Worlds that the contract suite runs against: drivers of every kind, and a small engine to bring whole stacks about.

To add one: a function from a folder to a context that yields a `World`, and a line in `WORLDS`. Commands in the suite
(sleep, true, false, sh -c "exit N") mean the same in the fake and in a `host` rootfs.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drivers import fake
from orchestrator.drivers.embedded.driver import EmbeddedDriver
from orchestrator.drivers.network.driver import NetworkDriver
from orchestrator.drivers.rootfs.driver import RootfsDriver
from orchestrator.drivers.volumes.driver import VolumeDriver
from orchestrator.execute.executor import Status, StepResult, execute
from orchestrator.model.desired import Spec, Stack, Stop
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation, Observed
from orchestrator.plan.changes import Plan, Policy
from orchestrator.plan.planner import plan
from orchestrator.ports.driver import Bound, Driver
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.client import Supervisor
from tests.properties.stacks import NAME, Group

# Where a world may differ from the suite: (world, test) -> why. Shown as expected failures, never as skips.
DIFFERENCES: Mapping[tuple[str, str], str] = {}

DEADLINE = 10.0


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(kw_only=True)
class World:
    """`drivers`: one for each Kind. `stack`: the name that tests use in this world."""

    name: str
    drivers: Mapping[Kind, Driver]
    stack: str = NAME
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    def observed(self, stack: str | None = None) -> Observed:
        distinct = {id(driver): driver for driver in self.drivers.values()}.values()
        return tuple(each for driver in distinct for each in driver.observe(stack or self.stack))

    def seen(self, ref: Ref) -> Observation | None:
        """The one observation of `ref`."""
        found = [each for each in self.observed() if each.ref == ref]
        assert len(found) <= 1, f"{ref} is there {len(found)} times"
        return found[0] if found else None

    def wait(self, ref: Ref, holds: Callable[[Observation | None], bool]) -> Observation:
        """Looks until it holds, at most `DEADLINE` seconds."""
        end = time.monotonic() + DEADLINE
        while True:
            found = self.seen(ref)
            if holds(found):
                assert found is not None
                return found
            assert time.monotonic() < end, f"{ref} is still {found}"
            time.sleep(0.01)

    def plan(self, stack: Stack | None, policy: Policy | None = None) -> Plan:
        return plan(stack, self.observed(), policy or Policy(), boottime(), name=self.stack)

    def run(self, made: Plan) -> list[StepResult]:
        results = execute(
            made,
            self.drivers,
            observed=self.observed(),
            pool=self.pool,
            width=4,
            ids=new_id,
            clock=boottime,
            cancelled=lambda: False,
        )
        return [each for each in results if each.status is not Status.STARTED]

    def apply(self, stack: Stack | None, policy: Policy | None = None) -> Plan:
        """One pass, every step of which must succeed."""
        made = self.plan(stack, policy)
        bad = [(str(each.step.ref), each.step.op.value, each.error) for each in self.run(made) if each.error]
        assert not bad, bad
        return made

    def incarnation(self, ref: Ref) -> Incarnation:
        found = self.seen(ref)
        return Incarnation(self.stack, ref, found.id if found else new_id())

    def driver(self, ref: Ref) -> Driver:
        return self.drivers[ref.kind]

    def make(self, stack: Stack, ref: Ref) -> Incarnation:
        """Creates `ref` alone, its needs being there."""
        target = Incarnation(self.stack, ref, new_id())
        self.driver(ref).create(target, self.spec(stack, ref), self.bound(stack, ref))
        return target

    def bound(self, stack: Stack, ref: Ref) -> list[Bound]:
        return [Bound(need=need, target=self.incarnation(need.ref)) for need in stack.needs[ref]]

    @staticmethod
    def spec(stack: Stack, ref: Ref) -> Spec:
        return stack.resources[ref]


def new_id() -> str:
    return secrets.token_hex(6)


def group_of(name: str, *command: str, **more: Any) -> Group:
    """A group of one container that ends quickly when stopped: a shell as PID 1 would not heed TERM."""
    keys = {"stop": Stop(grace=0.2), **more.pop("more", {})}
    return Group(name=name, command=command or ("sleep", "infinity"), more=keys, **more)


@contextmanager
def fake_world(folder: Path) -> Iterator[World]:
    driver = fake.FakeDriver(boottime)
    yield World(name="fake", drivers=fake.drivers(driver))


@contextmanager
def embedded_world(folder: Path) -> Iterator[World]:
    """The real thing, with a network namespace in the place of the host's."""
    name = f"contract{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    layout = Layout.at(folder)
    supervisor = Supervisor(layout)
    try:
        roots, volumes = RootfsDriver(layout), VolumeDriver(layout)
        network = NetworkDriver(layout, holder=supervisor, host_netns=f"/run/netns/{name}")
        runtime = EmbeddedDriver(layout, supervisor, roots=roots, volumes=volumes, network=network)
        found: tuple[Driver, ...] = (runtime, roots, volumes, network)
        yield World(name="embedded", drivers={kind: each for each in found for kind in each.kinds})
    finally:
        supervisor.stop()
        subprocess.run(["ip", "netns", "delete", name], check=True)


Make = Callable[[Path], AbstractContextManager[World]]
WORLDS: Mapping[str, tuple[Make, tuple[pytest.MarkDecorator, ...]]] = {
    "fake": (fake_world, ()),
    "embedded": (embedded_world, (pytest.mark.root,)),
}
