"""What happens to a stack is told once, with its reason, whoever dies in between."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.attempts import Verdict
from orchestrator.control.chronicle import Chronicle, result_of
from orchestrator.control.events import Following
from orchestrator.control.loop import follow
from orchestrator.control.probes import HealthChange, Prober
from orchestrator.control.reconciler import Reconciler
from orchestrator.drivers import fake
from orchestrator.errors import HostError, StepError
from orchestrator.model.desired import Job, RestartPolicy, Stack
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Exit, Health
from orchestrator.ports.layout import Layout
from orchestrator.state import document
from orchestrator.state.events import Events
from orchestrator.state.store import Store
from tests.properties.stacks import NAME, Group, container, stack

WEB = container("web")


class World:
    """A store and a fake that outlive the processes that look at them: each `apply` is one."""

    def __init__(self, folder: Path) -> None:
        self.offset = 0.0
        self.fake = fake.FakeDriver(self.clock)
        self.layout = Layout.at(folder)
        self.store = Store(self.layout.database, clock=time.time)
        self._numbers = itertools.count(1)

    def clock(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) * 100 + self.offset

    def wall(self) -> float:
        """Unix time that runs like the clock."""
        return 1e9 + self.clock()

    def apply(self, wish: Stack, **more: Any) -> None:
        data = document.encode(wish)
        number = self.store.commit_revision(NAME, data, document.digest(data))
        with (
            Prober(clock=self.clock, run_command=lambda target, probe: Verdict(True, "")) as prober,
            ThreadPoolExecutor(4) as pool,
        ):
            reconciler = Reconciler(
                store=self.store,
                drivers=fake.drivers(self.fake),
                layout=self.layout,
                pool=pool,
                width=1,
                ids=lambda: f"{next(self._numbers):012x}",
                clock=self.clock,
                wall=self.wall,
                command="test",
            )
            following = Following(name=NAME, revision=number, timeout=5000.0, **more)
            list(follow(reconciler, following, prober=prober, ends=None))

    def told(self, ref: Ref | None = None) -> list[tuple[str, str]]:
        """(what, text) of the stack, or of one ref."""
        found = self.store.events.read(NAME, limit=1000)
        return [(each.what, each.text) for each in found if each.ref == str(ref or "")]

    def whats(self, ref: Ref | None = None) -> list[str]:
        return [what for what, _ in self.told(ref)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.store:
        yield made


def test_a_stack_comes_up_fails_and_is_mended(world: World) -> None:
    wish = stack(Group(name="web", memory=100))
    world.apply(wish)
    assert world.told(WEB) == [("started", "not there yet")]
    assert world.told() == [
        ("created", "1 stack, 1 rootfs, 1 network, 1 group, 1 service"),
        ("settled", "revision 1"),
    ]
    world.fake.exit(WEB, 3, oom=True)
    world.fake.thing(Ref(Kind.GROUP, "web-1")).damage = ("link",)
    world.apply(wish)
    assert world.whats(WEB) == ["started", "oom", "started"]
    assert world.told(WEB)[1][1].startswith("killed: out of memory after ")
    assert world.told(Ref(Kind.GROUP, "web-1")) == [("mended", "link changed behind our back")]
    world.fake.thing(WEB).actual["limits.memory"] = 4096
    world.apply(wish)
    assert world.told(WEB)[-1] == (
        "mended",
        "limits.memory changed behind our back (limits.memory 4096 -> 100)",
    )
    assert world.whats() == ["created", "settled", "settled", "settled"]


def test_nothing_that_stands_is_told_again_by_another_process(world: World) -> None:
    wish = stack(
        Group(name="web"),
        Group(name="bad", more={"restart": RestartPolicy.NEVER}, command=("false",)),
        Group(name="job", job=True, command=("false",), more={"job": Job(retries=0)}),
    )
    world.apply(wish)
    assert ("gave-up", "exit 1, restart: never") in world.told(container("bad"))
    assert ("gave-up", "job failed: exit 1 after 1 run") in world.told(container("job"))
    assert world.whats()[-1] == "stalled"
    before = world.store.events.last()
    world.apply(wish)
    assert world.store.events.read(NAME, after=before) == ()


def test_an_end_that_nobody_watched_is_told_by_the_next_who_looks_and_only_once(world: World) -> None:
    wish = stack(Group(name="web"))
    world.apply(wish)
    world.fake.exit(WEB, 7)
    world.offset += 3600.0  # an hour without anybody
    world.apply(wish)
    world.apply(wish)
    (end,) = [text for what, text in world.told(WEB) if what == "exited"]
    assert end.startswith("exit 7 after ")
    read = world.store.events.read(NAME)
    exited = next(each for each in read if each.what == "exited")
    assert world.wall() - exited.at > 3500, "it is told with the time at which it happened"


def test_ends_from_before_the_store_was_lost_are_no_news(tmp_path: Path) -> None:
    world = World(tmp_path)
    ends = tuple(Exit(started=n, ended=n + 1.0, code=1) for n in range(1, 12))
    with world.store:
        world.apply(stack(Group(name="web")))
    world.fake.thing(WEB).exits = ends
    world.layout.database.unlink()
    for beside in world.layout.database.parent.glob(f"{world.layout.database.name}-*"):
        beside.unlink()
    world.store = Store(world.layout.database, clock=time.time)
    with world.store:
        world.apply(stack(Group(name="web")))
        assert "exited" not in world.whats(WEB)


def test_a_crash_loop_tells_each_end_each_wait_and_that_it_is_given_up(world: World) -> None:
    world.apply(stack(Group(name="web", command=("sh", "-c", "exit 2"))))
    whats = world.whats(WEB)
    assert whats.count("exited") == whats.count("started") == 10
    assert whats.count("gave-up") == 1 and whats[-1] == "gave-up"
    waits = [text for what, text in world.told(WEB) if what == "restarting"]
    assert 4 <= len(waits) <= 8, "one for each wait that a pass saw"
    assert all(each.startswith("in ") and each.endswith(" s: exit 2") for each in waits)
    assert world.whats()[-1] == "stalled"


def test_the_same_failure_is_told_once_until_it_passes(world: World) -> None:
    error = StepError("no room", errno=28)
    world.fake.failures["start", WEB] = [error] * 3
    world.apply(stack(Group(name="web")))
    assert world.whats(WEB) == ["failed", "started"]
    assert world.told(WEB)[0][1] == "start: no room"


def test_a_stop_says_that_it_was_one(world: World) -> None:
    world.apply(stack(Group(name="web")))
    world.apply(stack(Group(name="web", more={"env": {"A": "1"}})))
    assert world.whats(WEB) == ["started", "stopped", "started"]
    assert world.told(WEB)[-1] == ("started", "env.A changed")


def test_a_disk_that_refuses_loses_no_event(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Events.append
    refusals = iter([True])

    def full(self: Events, events: Any) -> None:
        if next(refusals, False):
            raise HostError("o.db: the disk is full")
        append(self, events)

    monkeypatch.setattr(Events, "append", full)
    for _ in range(2):  # a slow machine writes less often until it is settled
        world.apply(stack(Group(name="web")))
    assert world.whats(WEB) == ["started"] and world.whats()[-1] == "settled"


def test_results_of_revisions_are_read_from_events(world: World) -> None:
    world.apply(stack(Group(name="web")))
    world.apply(stack(Group(name="web", command=("nonesuch",))))
    assert result_of(world.store.events.read(NAME)) == {1: "settled", 2: "stalled"}


def test_health_is_told_with_what_the_probe_said(world: World) -> None:
    chronicle = Chronicle(world.store, NAME, wall=time.time, clock=world.clock)
    incarnation = Incarnation(NAME, WEB, "0" * 12)
    for new, output in ((Health.UNHEALTHY, "refused\n" * 200), (Health.HEALTHY, "fine")):
        chronicle.heard(HealthChange(incarnation=incarnation, old=Health.STARTING, new=new, output=output))
    chronicle.write()
    (bad, good) = world.told(WEB)
    assert bad[0] == "unhealthy" and len(bad[1]) == 500 and good == ("healthy", "")
