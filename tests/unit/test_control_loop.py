"""The loop brings a stack up on the fake, wakes for what happens, and ends with the right last word."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.control import health
from orchestrator.control import reconciler as reconciler_module
from orchestrator.control.attempts import Verdict
from orchestrator.control.events import Event, Following, Interrupted, Superseded, TimedOut, Waiting
from orchestrator.control.loop import follow
from orchestrator.control.outcome import Again, Settled, Stalled
from orchestrator.control.probes import HealthChange, Prober
from orchestrator.control.reconciler import Planned, Reconciler, Stepped, Unrecorded
from orchestrator.drivers import fake
from orchestrator.errors import ConflictError, StepError
from orchestrator.execute.executor import Status
from orchestrator.model.desired import CommandProbe, Health, Stack, Until
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Phase
from orchestrator.plan import planner
from orchestrator.plan.changes import Plan, Policy
from orchestrator.ports.driver import Problem
from orchestrator.ports.layout import Layout
from orchestrator.state import document
from orchestrator.state.locks import StackLock
from orchestrator.state.store import Store
from tests.properties.stacks import NAME, Group, container, stack
from tests.unit.fake_app import Stage


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class World:
    """A reconciler over the fake, with a real prober whose commands answer as told."""

    def __init__(self, folder: Path) -> None:
        self.fake = Refusing(boottime)
        self.layout = Layout.at(folder)
        self.store = Store(self.layout.database, clock=time.time)
        self.pool = ThreadPoolExecutor(4)
        self.healthy_after = 0
        self.asked = 0
        self.prober = Prober(clock=boottime, run_command=self._probe)
        numbers = itertools.count(1)
        self.reconciler = Reconciler(
            store=self.store,
            drivers=fake.drivers(self.fake),
            layout=self.layout,
            pool=self.pool,
            width=4,
            ids=lambda: self._id(next(numbers)),
            clock=boottime,
            wall=time.time,
            command="test",
        )

    def _id(self, number: int) -> str:
        id = f"{number:012x}"
        self.layout.container_run(id).mkdir(parents=True)
        return id

    def _probe(self, target: object, probe: CommandProbe) -> Verdict:
        self.asked += 1
        return Verdict(self.asked > self.healthy_after, "asked")

    def commit(self, wish: Stack) -> int:
        data = document.encode(wish)
        return self.store.commit_revision(NAME, data, document.digest(data))

    def follow(
        self, wish: Stack | None, *, timeout: float = 10.0, policy: Policy | None = None
    ) -> list[Event]:
        number = self.store.forget(NAME) if wish is None else self.commit(wish)
        following = Following(name=NAME, revision=number, timeout=timeout, policy=policy or Policy())
        return list(follow(self.reconciler, following, prober=self.prober, ends=None))


class Refusing(fake.FakeDriver):
    """Cannot have what `problems` say."""

    problems: tuple[Problem, ...] = ()

    def check(self, stack: Stack) -> Sequence[Problem]:
        return [each for each in self.problems if each.ref in stack.resources]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.prober, made.pool, made.store:
        yield made


def test_nothing_is_stopped_for_a_start_that_this_host_cannot_have(world: World) -> None:
    world.follow(stack(Group(name="web"), Group(name="ok")))
    pid = world.fake.thing(container("web")).pid
    why = "secret pw: /etc/pw: no such file or directory"
    world.fake.problems = (Problem(ref=container("web"), field="contents.secret/pw", message=why),)
    new = {"env": {"LEVEL": "2"}}
    wish = stack(Group(name="web", more=new), Group(name="ok", more=new))
    last = world.follow(wish)[-1]
    assert isinstance(last, Stalled) and last.reasons == {container("web"): why}
    assert world.fake.thing(container("web")).pid == pid
    assert world.fake.thing(container("ok")).starts == 2
    world.fake.problems = ()
    assert isinstance(world.follow(wish)[-1], Settled)
    assert world.fake.thing(container("web")).starts == 2


PROBED = {"health": Health(probe=CommandProbe(command=("ok",)), interval=1.0, timeout=0.5)}


def test_a_stack_settles_in_order_and_a_second_time_at_once(world: World) -> None:
    wish = stack(
        Group(name="db", more=PROBED),
        Group(name="migrate", job=True, command=("sleep", "0.05"), needs={"db": Until.HEALTHY}),
        Group(name="web", replicas=2, needs={"migrate": Until.COMPLETED}),
    )
    world.healthy_after = 2
    events = world.follow(wish)
    assert isinstance(events[-1], Settled)
    started = [ref for op, ref in world.fake.trace if op == "start" and ref.kind is Kind.CONTAINER]
    assert started[:2] == [container("db"), container("migrate")]
    assert any(isinstance(each, HealthChange) and each.new == "healthy" for each in events)
    waiting = [each for each in events if isinstance(each, Waiting)]
    assert waiting[0].pending[container("web", 1)] == "waits until container/migrate-1/migrate has completed"
    calls = len(world.fake.trace)
    again = world.follow(wish)
    assert [type(each) for each in again] == [Settled] and len(world.fake.trace) == calls
    run = world.store.runs(NAME)[0]
    assert run.revision == 1 and {each.status for each in run.steps} == {"done"}


def test_reconcile_is_one_pass_with_an_outcome(world: World) -> None:
    world.commit(stack(Group(name="web")))
    assert isinstance(world.reconciler.reconcile(NAME), Again)
    world.fake.thing(container("web")).started = boottime() - 60
    assert isinstance(world.reconciler.reconcile(NAME), Settled)


def test_deleting_ends_with_nothing_left_but_volumes(world: World) -> None:
    world.follow(stack(Group(name="db", volume="data")))
    assert isinstance(world.follow(None)[-1], Settled)
    assert [target.ref.kind for target in world.fake.things] == [Kind.VOLUME]
    assert isinstance(world.follow(None, policy=Policy(prune_data=True))[-1], Settled)
    assert not world.fake.things


def test_deleting_goes_on_where_nothing_can_be_recorded(world: World) -> None:
    world.follow(stack(Group(name="db")))
    world.store._database._db.execute("PRAGMA query_only=ON")  # as a disk that refuses
    events = world.follow(None)
    assert isinstance(events[-1], Settled) and not world.fake.things
    assert [type(each) for each in events].count(Unrecorded) == 1
    assert (world.store.latest(NAME), world.store.number(NAME)) == (None, 2)


def test_a_command_that_is_not_there_stalls_with_its_reason_and_siblings_come_up(world: World) -> None:
    wish = stack(
        Group(name="bad", command=("nonesuch",)),
        Group(name="behind", needs={"bad": Until.STARTED}),
        Group(name="good"),
    )
    events = world.follow(wish)
    end = events[-1]
    assert isinstance(end, Stalled)
    assert "nonesuch" in end.reasons[container("bad")]
    assert end.reasons[container("behind")] == "waits until container/bad-1/bad runs"
    assert container("good") not in end.reasons
    assert world.fake.thing(container("good")).phase is Phase.RUNNING
    tries = [each for each in events if isinstance(each, Stepped) and each.result.status is Status.FAILED]
    assert len(tries) == 1


def test_a_passing_failure_is_tried_again(world: World) -> None:
    world.fake.failures["start", container("web")] = [StepError("busy", errno=errno.EBUSY)]
    events = world.follow(stack(Group(name="web")))
    assert isinstance(events[-1], Settled)
    failed = [each for each in events if isinstance(each, Stepped) and each.result.status is Status.FAILED]
    assert len(failed) == 1


def test_a_deletion_that_cannot_be_done_stalls(world: World) -> None:
    world.follow(stack(Group(name="web"), Group(name="old")))
    world.fake.failures["stop", container("old")] = [StepError("no", errno=errno.EPERM)] * 9
    events = world.follow(stack(Group(name="web")))
    end = events[-1]
    assert isinstance(end, Stalled) and end.reasons[container("old")] == "no"


def test_a_job_that_fails_for_good_stalls_with_count_and_code(world: World) -> None:
    from orchestrator.model.desired import Job

    job = Group(name="job", job=True, command=("sh", "-c", "exit 3"), more={"job": Job(retries=1)})
    end = world.follow(stack(job))[-1]
    assert isinstance(end, Stalled)
    assert end.reasons == {container("job"): "job failed: exit 3 after 2 runs"}


def test_out_of_time_says_what_each_ref_waits_for(world: World) -> None:
    world.healthy_after = 10**6
    end = world.follow(stack(Group(name="db", more=PROBED)), timeout=0.4)[-1]
    assert isinstance(end, TimedOut)
    assert end.reasons == {container("db"): "is not healthy yet"}


def test_a_newer_revision_ends_the_following(world: World) -> None:
    number = world.commit(stack(Group(name="web")))
    world.commit(stack(Group(name="web", replicas=2)))
    following = Following(name=NAME, revision=number, timeout=5)
    events = list(follow(world.reconciler, following, prober=world.prober, ends=None))
    assert events[-1] == Superseded(number=number + 1)


def test_an_interrupt_stops_at_a_step_boundary(world: World) -> None:
    number = world.commit(stack(Group(name="web", replicas=3)))
    seen: list[Event] = []
    following = Following(name=NAME, revision=number, cancelled=lambda: len(seen) > 3)
    for each in follow(world.reconciler, following, prober=world.prober, ends=None):
        seen.append(each)
    assert isinstance(seen[-1], Interrupted)
    statuses = {each.result.status for each in seen if isinstance(each, Stepped)}
    assert Status.SKIPPED in statuses and Status.FAILED not in statuses


def test_an_update_that_never_sticks_does_not_spin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = stack(Group(name="web", memory=100))
    world.follow(wish)
    real = fake._live
    monkeypatch.setattr(fake, "_live", lambda spec: {**real(spec), "limits.memory": 4096})
    fake_web = world.fake.thing(container("web"))
    fake_web.actual["limits.memory"] = 4096
    end = world.follow(wish)[-1]
    assert isinstance(end, Stalled) and "does not settle" in end.reasons[container("web")]


def test_a_service_that_never_comes_into_effect_does_not_spin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Ref(Kind.SERVICE, "web")
    wish = stack(Group(name="web"), Group(name="api"))
    monkeypatch.setattr(
        world.fake,
        "observe",
        lambda name: [
            replace(each, phase=Phase.CREATED) if each.ref == service else each
            for each in fake.FakeDriver.observe(world.fake, name)
        ],
    )
    end = world.follow(wish)[-1]
    assert isinstance(end, Stalled) and "does not settle" in end.reasons[service]


def test_somebody_elses_lock_is_a_conflict(world: World) -> None:
    number = world.commit(stack(Group(name="web")))
    following = Following(name=NAME, revision=number, timeout=0.05)
    with StackLock(world.layout.lock(NAME), stack=NAME, command="other").acquire(wait=False):
        with pytest.raises(ConflictError, match="other"):
            list(follow(world.reconciler, following, prober=world.prober, ends=None))


def test_the_end_of_a_process_wakes_the_loop(world: World) -> None:
    read, write = os.pipe()

    class Ends:
        def changes(self) -> int:
            return read

        def drain(self) -> frozenset[str] | None:
            return frozenset({"000000000000"}) if os.read(read, 100) else None

    wish = stack(Group(name="job", job=True, command=("sleep", "infinity")))
    number = world.commit(wish)
    following = Following(name=NAME, revision=number, timeout=4.0)
    try:
        for event in follow(world.reconciler, following, prober=world.prober, ends=Ends()):
            if isinstance(event, Waiting):
                world.fake.exit(container("job"))
                os.write(write, b"x")
        assert isinstance(event, Settled)
    finally:
        os.close(read)
        os.close(write)


def test_a_plan_is_made_again_only_when_the_world_or_the_wish_is_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counting(*args: object, **more: object) -> Plan:
        made.append(1)
        return planner.plan(*args, **more)  # type: ignore[arg-type]

    world.follow(stack(Group(name="web")))
    monkeypatch.setattr(reconciler_module, "make_plan", counting)
    for _ in range(3):
        world.reconciler.reconcile(NAME)
    assert len(made) == 0
    world.fake.thing(container("web")).actual["limits.pids"] = 7
    world.reconciler.reconcile(NAME)
    assert len(made) == 1 and world.fake.thing(container("web")).actual == {}
    world.commit(stack(Group(name="web"), memory=1 << 30))
    world.reconciler.reconcile(NAME)
    assert len(made) == 2


def test_plan_touches_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    app = stage.open()
    found = app.plan(stack(Group(name="web")), Policy())
    assert found.steps and not stage.fake.trace
    assert not app.layout.lock(NAME).exists()


def test_planned_is_told_before_the_first_step(world: World) -> None:
    events = world.follow(stack(Group(name="web")))
    assert isinstance(events[0], Planned) and isinstance(events[1], Stepped)


def test_health_of_an_earlier_process_says_nothing(world: World) -> None:
    world.follow(stack(Group(name="db", more=PROBED)))
    thing = world.fake.thing(container("db"))
    found = health.read(health.path(world.layout, thing.target.id))
    probe = PROBED["health"]

    def judged(now: float, started: float, probe: Health = probe) -> str:
        known = health.judge(found, now=now, wanted=probe, started=started)
        return known.health if isinstance(known, health.Published) else known

    began, later = thing.started or 0.0, boottime() + 60
    assert judged(boottime(), began) == "healthy"
    assert judged(boottime(), began + 1) == "starting"
    assert judged(later, began) == "unknown"
    assert judged(later, began, replace(probe, interval=30.0)) == "healthy"


def test_what_a_probe_said_and_since_when_reaches_the_plan(world: World) -> None:
    world.follow(stack(Group(name="db", more=PROBED)))
    (seen,) = (each for each in world.reconciler.observe(NAME) if each.ref == container("db"))
    assert (seen.health, seen.said) == ("healthy", "asked")
    assert seen.started is not None and seen.since is not None
    assert seen.started <= seen.since <= boottime()
