"""Steps run as the plan allows: in parallel, once a ref at a time, no further than a failure or an interrupt lets them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.drivers import fake
from orchestrator.errors import StepError
from orchestrator.execute.executor import Status, StepResult, execute
from orchestrator.model.desired import Stack
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.plan.changes import Op, Plan, Policy, Step
from orchestrator.plan.planner import plan
from tests.properties.engine import Inline
from tests.properties.stacks import NAME, Group, container, stack


class Slow(fake.FakeDriver):
    """Every start takes a while; says how many were under way at once, and whether a ref ever met itself."""

    def __init__(self) -> None:
        super().__init__(time.monotonic)
        self.now: set[Ref] = set()
        self.most = 0
        self.met = False
        self.guard = threading.Lock()
        self.barrier: threading.Barrier | None = None

    def start(self, target: Incarnation) -> None:
        with self.guard:
            self.met |= target.ref in self.now
            self.now.add(target.ref)
            self.most = max(self.most, len(self.now))
        if self.barrier and target.ref.kind is Kind.CONTAINER:
            self.barrier.wait(5)
        super().start(target)
        with self.guard:
            self.now.discard(target.ref)


def run(
    driver: fake.FakeDriver, plan: Plan, *, workers: int = 4, cancelled: Callable[[], bool] = lambda: False
) -> list[StepResult]:
    numbers = itertools.count(1)
    with ThreadPoolExecutor(workers) as pool:
        return list(
            execute(
                plan,
                fake.drivers(driver),
                observed=tuple(driver.observe(NAME)),
                pool=pool,
                width=workers,
                ids=lambda: f"{next(numbers):012x}",
                clock=time.monotonic,
                cancelled=cancelled,
            )
        )


def first(wish: Stack) -> Plan:
    return plan(wish, (), Policy(), 0.0, name=NAME)


def test_independent_containers_start_at_the_same_time() -> None:
    driver = Slow()
    driver.barrier = threading.Barrier(3)  # breaks unless three are inside together
    results = run(driver, first(stack(Group(name="web", replicas=3))))
    assert {each.status for each in results} == {Status.STARTED, Status.DONE}
    assert not driver.met


def test_a_container_is_started_before_the_next_group_and_services_come_last() -> None:
    driver = fake.FakeDriver(time.monotonic)
    results = run(driver, first(stack(Group(name="api"), Group(name="web"))), workers=1)
    starts = [
        str(each.step.ref) for each in results if each.status is Status.DONE and each.step.op is Op.START
    ]
    ours = [each for each in starts if each.split("/")[0] in ("group", "container", "service")]
    assert ours == [
        "group/api-1",
        "container/api-1/api",
        "group/web-1",
        "container/web-1/web",
        "service/api",
        "service/web",
    ]


def test_every_step_has_a_start_and_one_end_in_order() -> None:
    made = first(stack(Group(name="web", replicas=2), Group(name="db", volume="data")))
    results = run(fake.FakeDriver(time.monotonic), made)
    ends = [each.step.number for each in results if each.status is not Status.STARTED]
    assert sorted(ends) == [step.number for step in made.steps]
    done: set[int] = set()
    for each in results:
        if each.status is Status.STARTED:
            assert done >= set(each.step.after)
        else:
            done.add(each.step.number)


def test_one_ref_never_has_two_operations_at_once() -> None:
    driver = Slow()
    ref = container("web")
    for number in (1, 2, 3):
        driver.create(Incarnation(NAME, ref, f"{number:012x}"), stack(Group(name="web")).resources[ref], ())
    steps = tuple(Step(number=n, op=Op.START, ref=ref, id=f"{n:012x}") for n in (1, 2, 3))
    run(driver, Plan(stack=NAME, steps=steps))
    assert driver.most == 1 and not driver.met


def test_a_failure_names_itself_and_whom_it_stops() -> None:
    driver = fake.FakeDriver(time.monotonic)
    failing = StepError("start web: no", errno=2, hint="install it")
    driver.failures["start", container("web")] = [failing]
    from orchestrator.model.desired import Until

    made = first(
        stack(Group(name="web"), Group(name="next", needs={"web": Until.STARTED}), Group(name="other"))
    )
    ends = {
        (each.step.op, each.step.ref): each for each in run(driver, made) if each.status is not Status.STARTED
    }
    failed = ends[Op.START, container("web")]
    assert (failed.status, failed.error, failed.errno, failed.hint) == (
        Status.FAILED,
        "start web: no",
        2,
        "install it",
    )
    skipped = ends[Op.START, container("next")]
    assert (skipped.status, skipped.blocked_by) == (Status.SKIPPED, container("web"))
    assert skipped.error == "start of container/web-1/web failed"
    assert ends[Op.START, container("other")].status is Status.DONE


def test_a_fault_in_a_driver_fails_its_step_alone_and_a_crash_goes_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = fake.FakeDriver(time.monotonic)
    monkeypatch.setattr(driver, "_require_group", lambda thing: {}["nothing"])
    ends = [each for each in run(driver, first(stack(Group(name="web")))) if each.status is Status.FAILED]
    assert [each.step.ref for each in ends] == [container("web")]
    assert ends[0].error and "fault in the driver: KeyError" in ends[0].error
    driver.crash_at = driver.boundaries + 1
    with pytest.raises(fake.Crash):
        run(driver, first(stack(Group(name="api"))))


def test_an_interrupt_finishes_what_runs_and_skips_the_rest() -> None:
    driver = fake.FakeDriver(time.monotonic)
    made = first(stack(Group(name="web", replicas=3)))
    results = run(driver, made, workers=1, cancelled=lambda: len(driver.trace) >= 2)
    ends = [each for each in results if each.status is not Status.STARTED]
    assert len(ends) == len(made.steps)
    assert {each.status for each in ends} == {Status.DONE, Status.SKIPPED}
    assert len([each for each in ends if each.status is Status.DONE]) == len(driver.trace)


def test_nothing_runs_any_more_when_the_caller_stops_listening() -> None:
    driver = Slow()
    with ThreadPoolExecutor(4) as pool:
        events = execute(
            first(stack(Group(name="web", replicas=3))),
            fake.drivers(driver),
            observed=(),
            pool=pool,
            width=4,
            ids=lambda: "0" * 12,
            clock=time.monotonic,
            cancelled=lambda: False,
        )
        next(events)
        events.close()  # type: ignore[attr-defined]
        count = len(driver.trace)
    assert len(driver.trace) == count


def test_a_step_costs_little_beside_its_driver_call() -> None:
    class Nothing(fake.FakeDriver):
        def _call(self, name, target, effect):  # type: ignore[no-untyped-def]
            pass

    made = first(stack(*(Group(name=f"g{number}", replicas=5) for number in range(100))))
    best = 1.0
    for _ in range(3):
        began = time.perf_counter()
        found = execute(
            made,
            fake.drivers(Nothing(time.monotonic)),
            observed=(),
            pool=Inline(),
            width=1,
            ids=lambda: "0" * 12,
            clock=time.monotonic,
            cancelled=lambda: False,
        )
        assert sum(1 for _ in found) == 2 * len(made.steps)
        best = min(best, (time.perf_counter() - began) / len(made.steps))
    assert best < 300e-6
