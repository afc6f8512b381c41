"""Edits, faults, crashes and reboots in any order: the agent's loop over the invented world always settles, and stays so.

The engine is the real one (store, reconciler, keeping); processes, health and time are the fake's. A failing run prints the
steps that lead to it; `--hypothesis-seed` repeats them.
"""

from __future__ import annotations

import errno
import itertools
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.control.keeping import Keeping, Look
from orchestrator.control.outcome import Settled, Stalled
from orchestrator.control.reconciler import Reconciler
from orchestrator.drivers import fake
from orchestrator.errors import StepError
from orchestrator.model.desired import ContainerSpec, Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health, Phase
from orchestrator.plan.changes import Policy
from orchestrator.ports.layout import Layout
from orchestrator.state import document
from orchestrator.state.store import Store
from tests.properties.engine import Inline
from tests.properties.stacks import NAME, stacks

PASSES = 120
OPS = ("create", "start", "stop", "update", "delete")


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="orc-machine-"))
        self.now = 1000.0
        self.fake = fake.FakeDriver(lambda: self.now)
        self.layout = Layout.at(self.folder)
        self.store = Store(self.layout.database, clock=lambda: self.now + self.jump)
        self.numbers = itertools.count(1)
        self.jump = 1.7e9  # wall clock less boot clock
        self.wish: Stack | None = None
        self.harmed = False  # something ended that should not have: it may have used up its starts
        self.agent()

    def teardown(self) -> None:
        try:
            self.it_settles_and_stays_so()
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    def agent(self) -> None:
        """A new agent, which knows nothing."""
        reconciler = Reconciler(
            store=self.store,
            drivers=fake.drivers(self.fake),
            layout=self.layout,
            pool=Inline(),
            width=1,
            ids=lambda: f"{next(self.numbers):012x}",
            clock=lambda: self.now,
            wall=lambda: self.now + self.jump,
            command="test",
        )
        self.reconciler = reconciler
        self.keeping = Keeping(reconciler, NAME, lambda name, targets: None)

    def look(self) -> Look | None:
        """One pass; None: the agent died in the middle of it."""
        events = self.keeping.look(Policy(), lambda: False, timeout=0.0)
        try:
            while True:
                next(events)
        except StopIteration as end:
            found: Look = end.value
            return found
        except fake.Crash:
            self.fake.crash_at = None
            self.agent()
            return None

    # what people do

    @initialize(stack=stacks())
    def first(self, stack: Stack) -> None:
        self.edit(stack)
        self.it_settles_and_stays_so()

    @rule(stack=stacks())
    def edit(self, stack: Stack) -> None:
        data = document.encode(stack)
        self.store.commit_revision(NAME, data, document.digest(data))
        self.wish = stack

    @rule(really=st.integers(0, 4))
    def delete(self, really: int) -> None:
        if not really:
            self.store.forget(NAME)
            self.wish = None

    # what the world does

    @rule()
    def pass_over(self) -> None:
        self.look()

    @rule(seconds=st.sampled_from((0.1, 1.0, 8.0, 61.0, 3600.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.running())
    @rule(data=st.data(), code=st.sampled_from((0, 1, 137)))
    def a_process_ends(self, data: st.DataObject, code: int) -> None:
        self.fake.exit(data.draw(st.sampled_from(self.running())), code)
        self.harmed = True

    @precondition(lambda self: self.running())
    @rule(data=st.data(), health=st.sampled_from((Health.HEALTHY, Health.UNHEALTHY, Health.UNKNOWN)))
    def health_changes(self, data: st.DataObject, health: Health) -> None:
        ref = data.draw(st.sampled_from(self.running()))
        spec = self.fake.thing(ref).spec
        if isinstance(spec, ContainerSpec) and spec.health:
            self.fake.set_health(ref, health)
            self.harmed = True

    @precondition(lambda self: self.wish is not None)
    @rule(
        data=st.data(), op=st.sampled_from(OPS), code=st.sampled_from((errno.EIO, errno.ENOENT, errno.ENOSPC))
    )
    def a_call_will_fail(self, data: st.DataObject, op: str, code: int) -> None:
        assert self.wish is not None
        ref = data.draw(st.sampled_from(sorted(self.wish.resources)))
        self.fake.failures[op, ref] = [StepError("planted", errno=code)]

    @rule(after=st.integers(1, 60))
    def the_agent_dies(self, after: int) -> None:
        self.fake.crash_at = self.fake.boundaries + after
        self.look()
        self.fake.crash_at = None
        self.agent()

    @rule(by=st.sampled_from((-3600.0, 3600.0, -3.2e8, 2147483648.0)))
    def the_clock_jumps(self, by: float) -> None:
        self.jump += by

    @rule()
    def the_host_reboots(self) -> None:
        self.fake.reboot()
        self.harmed = True  # a job that was cut off by it four times has failed
        self.now = 5.0
        self.agent()

    # what must hold

    @invariant()
    def nothing_runs_twice(self) -> None:
        running = self.running()
        assert len(running) == len(set(running)), running

    @rule()
    def it_settles_and_stays_so(self) -> None:
        self.fake.failures.clear()
        self.keeping.fresh()
        end: Settled | Stalled | None = None
        for _ in range(PASSES):
            look = self.look()
            assert look is not None
            if not look.again and look.end is not None and not look.done.plan.steps:
                end = look.end
                break
            if not look.again:
                self.now = max(look.due, self.now + 0.5)
            self.probe_well()
        assert end is not None, f"it does not settle: {look and look.pending}"
        if not self.harmed:
            assert isinstance(end, Settled), end
        calls = len(self.fake.trace)
        for _ in range(4):
            self.now += 20.0
            look = self.look()
            assert look is not None and not look.done.plan.steps, look and look.done.plan.changes
        assert len(self.fake.trace) == calls
        self.stands()

    def stands(self) -> None:
        """Every wish has its one incarnation, and nothing else but data is there."""
        wanted = set(self.wish.resources) if self.wish else set()
        found = [target.ref for target in self.fake.things]
        assert len(found) == len(set(found))
        assert {ref for ref in found if ref.kind is not Kind.VOLUME} <= wanted
        if not self.harmed:
            assert wanted <= set(found)

    # parts

    def running(self) -> list[Ref]:
        return sorted(
            target.ref
            for target, thing in self.fake.things.items()
            if target.ref.kind is Kind.CONTAINER and thing.phase is Phase.RUNNING
        )

    def probe_well(self) -> None:
        for thing in self.fake.things.values():
            if thing.phase is Phase.RUNNING and isinstance(thing.spec, ContainerSpec) and thing.spec.health:
                thing.health = Health.HEALTHY


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
