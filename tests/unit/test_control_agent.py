"""The agent keeps stacks of an invented world, tells those who follow, and goes on whatever one stack does."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.control.agent import Agent, sole
from orchestrator.control.attempts import Verdict
from orchestrator.control.events import Event, Following, Interrupted, Superseded, TimedOut, Waiting
from orchestrator.control.outcome import Settled, Stalled
from orchestrator.control.probes import HealthChange, Prober
from orchestrator.control.reconciler import Planned, Queued, Reconciler, Stepped
from orchestrator.control.resident import Resident
from orchestrator.drivers import fake
from orchestrator.errors import ConflictError, HostError, StepError
from orchestrator.model.desired import CommandProbe, Health, NetworkSpec, Stack, Until
from orchestrator.model.ids import Kind
from orchestrator.model.observed import Phase
from orchestrator.ports.layout import Layout
from orchestrator.state import document
from orchestrator.state.locks import StackLock
from orchestrator.state.store import Store
from tests.properties.stacks import NAME, Group, container, network, stack
from tests.waiting import until


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Near(Resident):
    """The agent is a thread of ours: there is nothing to start."""

    def ensure(self) -> None:
        pass


class World:
    def __init__(self, folder: Path) -> None:
        self.fake = fake.FakeDriver(boottime)
        self.layout = Layout.at(folder)
        self.layout.run.mkdir(parents=True)
        self.store = Store(self.layout.database, clock=time.time)
        self.healthy = True
        self.resident = Near(layout=self.layout, command=(), env={}, version="")
        self.pool = ThreadPoolExecutor(4)
        self.prober = Prober(clock=boottime, run_command=lambda target, probe: Verdict(self.healthy, "asked"))
        self._numbers = itertools.count(1)
        self.agent: Agent | None = None
        self._thread: threading.Thread | None = None
        self._looked = threading.Event()

    def start(self) -> None:
        """An agent that knows nothing of an earlier one."""
        self.prober = Prober(clock=boottime, run_command=lambda target, probe: Verdict(self.healthy, "asked"))
        self.prober.__enter__()
        reconciler = Reconciler(
            store=self.store,
            drivers=fake.drivers(self.fake),
            layout=self.layout,
            pool=self.pool,
            width=4,
            ids=self._id,
            clock=boottime,
            wall=time.time,
            command="agent",
        )
        self._looked.clear()
        self.agent = Agent(reconciler, prober=self.prober, ends=None, stacks=self._stacks, about={})
        self._thread = threading.Thread(target=self.agent.run)
        self._thread.start()
        until(self.layout.agent_socket.exists)
        assert self._looked.wait(20), "what is committed from now on it hears of by word alone"

    def _stacks(self) -> frozenset[str]:
        names = frozenset(self.store.stacks())
        self._looked.set()
        return names

    def stop(self) -> None:
        if self.agent is not None and self._thread is not None:
            self.agent.stop()
            self._thread.join(20)
            assert not self._thread.is_alive()
            self.prober.__exit__(None, None, None)
            self.agent = None

    def _id(self) -> str:
        id = f"{next(self._numbers):012x}"
        self.layout.container_run(id).mkdir(parents=True)
        return id

    def commit(self, wish: Stack) -> int:
        data = document.encode(wish)
        return self.store.commit_revision(wish.name, data, document.digest(data))

    def follow(self, revision: int, *, timeout: float | None = 20.0, stack: str = NAME) -> list[Event]:
        return list(self.resident.follow(Following(name=stack, revision=revision, timeout=timeout)))

    def apply(self, wish: Stack) -> list[Event]:
        return self.follow(self.commit(wish), stack=wish.name)


def count(world: World) -> int:
    return sum(each.ref.kind is Kind.CONTAINER for each in world.fake.observe(NAME))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        made.pool.shutdown()
        made.store.close()


PROBED = {"health": Health(probe=CommandProbe(command=("ok",)), interval=1.0, timeout=0.5)}


def test_a_follower_hears_everything_in_order_and_how_it_ends(world: World) -> None:
    wish = stack(Group(name="db", more=PROBED), Group(name="web", replicas=2, needs={"db": Until.HEALTHY}))
    events = world.apply(wish)
    assert isinstance(events[0], Planned) and isinstance(events[-1], Settled)
    started = [
        each.result.step.ref
        for each in events
        if isinstance(each, Stepped) and each.result.status == "done" and each.result.step.op == "start"
    ]
    assert next(ref for ref in started if ref.kind is Kind.CONTAINER) == container("db")
    waits = [each for each in events if isinstance(each, Waiting)]
    assert waits and waits[0].pending[container("web", 1)] == "waits until container/db-1/db is healthy"
    assert any(isinstance(each, HealthChange) and each.new == "healthy" for each in events)
    assert [type(each) for each in world.apply(wish)] == [Settled]


def test_what_ends_by_itself_is_brought_back_without_anybody_asking(world: World) -> None:
    world.apply(stack(Group(name="web")))
    thing = world.fake.thing(container("web"))
    before = thing.starts
    world.fake.exit(container("web"), code=1)
    assert world.agent is not None
    world.agent.nudge(NAME)
    until(lambda: thing.phase is Phase.RUNNING and thing.starts == before + 1)


def test_a_newer_revision_overtakes_one_that_waits(world: World) -> None:
    world.healthy = False
    first = world.commit(stack(Group(name="db", more=PROBED)))
    events: list[Event] = []
    follower = threading.Thread(target=lambda: events.extend(world.follow(first)))
    follower.start()
    until(lambda: count(world) == 1)
    assert isinstance(world.apply(stack(Group(name="db")))[-1], Settled)
    follower.join(20)
    assert isinstance(events[-1], Superseded) and events[-1].number == first + 1


def test_one_broken_stack_does_not_hold_up_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    observe = world.fake.observe

    def broken(name: str) -> object:
        if name == "bad":
            raise HostError("no space left")
        return observe(name)

    monkeypatch.setattr(world.fake, "observe", broken)
    bad = Stack(name="bad", resources=stack(Group(name="web")).resources, needs={})
    number = world.commit(bad)
    world.resident.nudge("bad")
    assert isinstance(world.apply(stack(Group(name="web")))[-1], Settled)
    status = world.resident.status()
    assert status and status["stacks"]["bad"]["standing"] == "troubled: no space left"
    monkeypatch.setattr(world.fake, "observe", observe)
    assert isinstance(world.follow(number, stack="bad")[-1], Settled)


def test_who_uses_things_of_another_stack_hears_when_that_brings_or_changes_them(world: World) -> None:
    shop = world.commit(stack(Group(name="web", networks=("infra/edge",))))
    assert isinstance(world.follow(shop, timeout=0.5)[-1], TimedOut)
    edge = network("edge")
    infra = Stack(name="infra", resources={edge: NetworkSpec()}, needs={edge: ()})
    world.apply(infra)
    assert isinstance(world.follow(shop)[-1], Settled)
    agent, asked = world.agent, boottime()
    assert agent is not None
    world.apply(replace(infra, resources={edge: NetworkSpec(internal=True)}))
    # By itself it would look after 8 s.
    until(lambda: boottime() - agent.standings()[NAME]["looked"] > asked, seconds=5)


def test_a_failing_step_ends_following_and_is_tried_again_when_asked(world: World) -> None:
    world.fake.failures["start", container("web")] = [StepError("no such program", errno=2)] * 50
    number = world.commit(stack(Group(name="web"), Group(name="ok")))
    events = world.follow(number)
    assert isinstance(events[-1], Stalled) and "no such program" in events[-1].reasons[container("web")]
    assert world.fake.thing(container("ok")).phase is Phase.RUNNING
    world.fake.failures.clear()
    assert isinstance(world.follow(number)[-1], Settled)


def test_following_ends_in_time_and_the_agent_goes_on(world: World) -> None:
    world.healthy = False
    number = world.commit(stack(Group(name="db", more=PROBED)))
    events = world.follow(number, timeout=0.5)
    assert isinstance(events[-1], TimedOut) and "healthy" in events[-1].reasons[container("db")]
    world.healthy = True
    assert isinstance(world.follow(number)[-1], Settled)


def test_an_interrupted_follower_leaves_the_agent_at_work(world: World) -> None:
    number = world.commit(stack(Group(name="web")))
    following = Following(name=NAME, revision=number, cancelled=lambda: True)
    assert list(world.resident.follow(following)) == [Interrupted(agent=True)]
    assert isinstance(world.follow(number)[-1], Settled)


def test_a_stack_that_somebody_holds_waits_and_says_for_whom(world: World) -> None:
    lock = StackLock(world.layout.lock(NAME), stack=NAME, command="apply shop --once").acquire(wait=False)
    events: list[Event] = []
    number = world.commit(stack(Group(name="web")))
    follower = threading.Thread(target=lambda: events.extend(world.follow(number)))
    with lock:
        follower.start()
        until(lambda: any(world.resident.status()["stacks"].values()))  # type: ignore[index]
        time.sleep(0.1)
    follower.join(20)
    assert isinstance(events[0], Queued) and "apply shop --once" in events[0].holder
    assert isinstance(events[-1], Settled)


def test_a_new_agent_finds_everything_as_it_was(world: World) -> None:
    world.apply(stack(Group(name="web", replicas=3)))
    calls = len(world.fake.trace)
    world.stop()
    world.start()
    until(
        lambda: (world.resident.status() or {"stacks": {}})["stacks"].get(NAME, {}).get("looked") is not None
    )
    assert len(world.fake.trace) == calls


def test_what_no_revision_is_about_is_left_alone_until_somebody_says_so(world: World) -> None:
    world.apply(stack(Group(name="web")))
    world.stop()
    world.store.close()
    world.layout.database.unlink()  # F16
    world.store = Store(world.layout.database, clock=time.time)
    world.start()
    assert world.agent is not None
    world.agent.nudge(NAME)
    until(
        lambda: (world.resident.status() or {"stacks": {}})["stacks"].get(NAME, {}).get("looked") is not None
    )
    assert world.fake.thing(container("web")).phase is Phase.RUNNING
    number = world.store.forget(NAME, unrecorded=True)
    assert isinstance(world.follow(number)[-1], Settled) and count(world) == 0


def test_there_is_one_agent_and_the_second_is_told_who(world: World) -> None:
    with sole(world.layout), pytest.raises(ConflictError, match="pid"), sole(world.layout):
        pass


def test_stopping_is_asked_for_over_the_socket(world: World) -> None:
    assert world.agent is not None
    world.agent.stop()
    until(lambda: not world.layout.agent_socket.exists())
    assert world.resident.status() is None and not world.resident.nudge(NAME)
