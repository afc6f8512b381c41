"""The engine around the fake driver, one pass at a time, for tests."""

from __future__ import annotations

import itertools
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from orchestrator.drivers import fake
from orchestrator.execute.executor import Status, StepResult, execute
from orchestrator.model.desired import ContainerSpec, Stack
from orchestrator.model.ids import Ref
from orchestrator.model.observed import Health, Observed, Phase
from orchestrator.plan.changes import Plan, Policy
from orchestrator.plan.planner import plan
from tests.properties.stacks import NAME


class Inline(Executor):
    """A pool that runs each call at once, in the order given: no threads, same run every time."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@dataclass
class Engine:
    now: float = 1000.0
    counter: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.fake = fake.FakeDriver(lambda: self.now)

    def observed(self) -> Observed:
        return tuple(self.fake.observe(NAME))

    def plan(self, stack: Stack | None, policy: Policy | None = None) -> Plan:
        return plan(stack, self.observed(), policy or Policy(), self.now, name=NAME)

    def run(self, plan: Plan) -> list[StepResult]:
        found = execute(
            plan,
            fake.drivers(self.fake),
            observed=self.observed(),
            pool=Inline(),
            width=1,
            ids=lambda: f"{next(self.counter):012x}",
            clock=lambda: self.now,
            cancelled=lambda: False,
        )
        return [each for each in found if each.status is not Status.STARTED]

    def once(self, stack: Stack | None, policy: Policy | None = None) -> list[StepResult]:
        return self.run(self.plan(stack, policy))

    def settle(self, stack: Stack | None, policy: Policy | None = None, *, passes: int = 20) -> Plan:
        """Passes until nothing is left to do; the world makes every probe succeed and time goes on between them."""
        for _ in range(passes):
            found = self.plan(stack, policy)
            if found.empty:
                return found
            self.run(found)
            self.now += 5
            self.probe_well()
        return self.plan(stack, policy)

    def probe_well(self) -> None:
        for thing in self.fake.things.values():
            if thing.phase is Phase.RUNNING and isinstance(thing.spec, ContainerSpec) and thing.spec.health:
                thing.health = Health.HEALTHY

    def ids(self) -> dict[Ref, str]:
        return {target.ref: target.id for target in self.fake.things}

    def pids(self) -> dict[Ref, int | None]:
        return {target.ref: thing.pid for target, thing in self.fake.things.items()}
