"""The laws of the engine, over random stacks and edits: convergence, isolation of failures, crash recovery, order."""

from __future__ import annotations

import errno
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.drivers.fake import Crash
from orchestrator.errors import StepError
from orchestrator.execute.executor import Status
from orchestrator.model.desired import ServiceSpec, Stack, Until
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health, Phase
from orchestrator.plan import readiness
from orchestrator.plan.changes import Op, Plan, Policy, Verb
from tests.properties.engine import Engine
from tests.properties.stacks import stacks

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TO_START = (Until.STARTED, Until.HEALTHY)


def stack_as_ready(engine: Engine, stack: Stack) -> Stack:
    kept = {each.ref: each for each in engine.observed()}
    return readiness.fill(stack, kept, Policy(), engine.now).stack


def wished(engine: Engine, stack: Stack) -> None:
    """What stands is what is wished for, in effect, once each."""
    stack = stack_as_ready(engine, stack)
    kept_volumes = {target.ref for target in engine.fake.things if target.ref.kind is Kind.VOLUME}
    refs = [target.ref for target in engine.fake.things]
    assert sorted(set(refs) - kept_volumes) == sorted(set(stack.resources) - kept_volumes)
    assert len(refs) == len(set(refs))
    for target, thing in engine.fake.things.items():
        if target.ref in stack.resources:
            assert thing.phase in (Phase.RUNNING, Phase.EXITED)
            assert thing.spec == stack.resources[target.ref]


@FEW
@given(stacks())
def test_a_stack_comes_up_and_the_next_plan_is_empty(stack: Stack) -> None:
    engine = Engine()
    last = engine.settle(stack)
    assert last.empty and not last.failures
    wished(engine, stack)


@FEW
@given(stacks(), stacks())
def test_any_edit_converges(before: Stack, after: Stack) -> None:
    engine = Engine()
    engine.settle(before)
    last = engine.settle(after)
    assert last.empty and not last.failures
    wished(engine, after)


@FEW
@given(stacks(), stacks())
def test_one_pass_does_all_that_no_gate_holds_back(before: Stack, after: Stack) -> None:
    engine = Engine()
    engine.settle(before)
    first = engine.plan(after)
    results = engine.run(first)
    assert all(each.status is Status.DONE for each in results)
    assert len(results) == len(first.steps)
    waited = {change.ref for change in first.changes if change.waits}
    # A live change is made at once though the restart beside it waits: then the restart comes second, and still waits.
    second = {change.ref for change in engine.plan(after).changes if not change.waits}
    assert second <= waited | {ref for ref in after.resources if ref.kind is not Kind.CONTAINER and waited}


@FEW
@given(stacks(), st.data())
def test_whatever_the_health_one_pass_settles_the_services(stack: Stack, data: st.DataObject) -> None:
    engine = Engine()
    engine.settle(stack)
    for _ in range(2):
        for thing in engine.fake.things.values():
            if thing.health is not Health.NONE:
                thing.health = data.draw(
                    st.sampled_from([each for each in Health if each is not Health.NONE])
                )
        engine.once(stack)
        assert engine.plan(stack).empty


@FEW
@given(stacks())
def test_the_same_input_gives_an_equal_plan(stack: Stack) -> None:
    assert Engine().plan(stack) == Engine().plan(stack)


def well_formed(plan: Plan) -> None:
    assert [step.number for step in plan.steps] == list(range(1, len(plan.steps) + 1))
    for step in plan.steps:
        assert all(other < step.number for other in step.after)


@FEW
@given(stacks(), stacks())
def test_steps_are_numbered_in_an_order_that_holds(before: Stack, after: Stack) -> None:
    engine = Engine()
    well_formed(engine.plan(before))
    engine.settle(before)
    well_formed(engine.plan(after))
    well_formed(engine.plan(None))


@FEW
@given(stacks())
def test_starts_follow_needs_and_deletes_reverse_them(stack: Stack) -> None:
    engine = Engine()
    engine.settle(stack)
    started = {ref: place for place, (op, ref) in enumerate(engine.fake.trace) if op == "start"}
    for ref, needs in stack.needs.items():
        for need in needs:
            if need.until is not Until.CREATED:
                assert started[need.ref] < started[ref]
    engine.fake.trace.clear()
    recorded = {thing.target.ref: thing.needs for thing in engine.fake.things.values()}
    engine.settle(None)
    deleted = {ref: place for place, (op, ref) in enumerate(engine.fake.trace) if op == "delete"}
    for ref, needs in recorded.items():
        for need in needs:
            if ref in deleted and need.ref in deleted:
                assert deleted[ref] < deleted[need.ref]
    assert {target.ref.kind for target in engine.fake.things} <= {Kind.VOLUME}


@FEW
@given(stacks(), st.data())
def test_a_failed_step_stops_its_dependents_alone_and_the_next_pass_heals(
    stack: Stack, data: st.DataObject
) -> None:
    engine = Engine()
    steps = engine.plan(stack).steps
    broken = data.draw(st.sampled_from(steps))
    engine.fake.failures[broken.op.value, broken.ref] = [StepError("planted", errno=errno.EIO)]
    results = {each.step.number: each for each in engine.once(stack)}
    behind = {broken.number}
    for step in steps:
        if behind & set(step.after):
            behind.add(step.number)
    assert results[broken.number].status is Status.FAILED
    for step in steps:
        if step.number not in behind:
            assert results[step.number].status is Status.DONE
        elif step is not broken:
            assert results[step.number].status is Status.SKIPPED
            assert results[step.number].blocked_by == broken.ref
    assert engine.settle(stack).empty
    wished(engine, stack)


def starts_hold(engine: Engine, stack: Stack, running: set[Ref]) -> None:
    """No container was started before what it needs to be started had been; `running` is what ran before the trace.

    A new incarnation must be started again. Who ran already keeps running while what it needs is replaced.
    """
    started = set(running)
    for op, ref in engine.fake.trace:
        if op == "create":
            started.discard(ref)
        elif op == "start":
            started.add(ref)
            for need in stack.needs.get(ref, ()):
                if need.until in TO_START and need.ref.kind is Kind.CONTAINER and ref not in running:
                    assert need.ref in started


@FEW
@given(stacks(), stacks(), st.data())
def test_a_crash_between_any_two_calls_heals(before: Stack, after: Stack, data: st.DataObject) -> None:
    engine = Engine()
    engine.settle(before)
    running = {target.ref for target, thing in engine.fake.things.items() if thing.phase is not Phase.CREATED}
    engine.fake.trace.clear()
    engine.fake.crash_at = engine.fake.boundaries + data.draw(st.integers(1, 120))
    try:
        engine.settle(after)
    except Crash:
        engine.fake.crash_at = None
    last = engine.settle(after)
    starts_hold(engine, after, running)
    assert last.empty and not last.failures
    wished(engine, after)


@FEW
@given(stacks(), st.data())
def test_a_crash_while_deleting_heals(stack: Stack, data: st.DataObject) -> None:
    engine = Engine()
    engine.settle(stack)
    engine.fake.crash_at = engine.fake.boundaries + data.draw(st.integers(1, 60))
    try:
        engine.settle(None, Policy(prune_data=True))
    except Crash:
        engine.fake.crash_at = None
    engine.settle(None, Policy(prune_data=True))
    assert not engine.fake.things


@FEW
@given(stacks())
def test_a_reboot_starts_everything_again_but_finished_jobs(stack: Stack) -> None:
    engine = Engine()
    engine.settle(stack)
    before = engine.ids()
    engine.fake.reboot()
    engine.now = 10.0
    engine.fake.trace.clear()
    assert engine.settle(stack).empty
    assert engine.ids() == before
    jobs = {ref for ref, spec in stack.resources.items() if getattr(spec, "job", None)}
    assert not [ref for op, ref in engine.fake.trace if op == "start" and ref in jobs]


@FEW
@given(stacks(), st.data())
def test_what_an_edit_does_not_touch_keeps_its_process(stack: Stack, data: st.DataObject) -> None:
    engine = Engine()
    engine.settle(stack)
    if not containers(stack):
        return
    gone: Ref = data.draw(st.sampled_from(containers(stack)))
    before = engine.pids()
    engine.fake.things = {target: thing for target, thing in engine.fake.things.items() if target.ref != gone}
    follow = followers(stack, gone)
    plan = engine.plan(stack)
    changes = {change.ref: change.verb for change in plan.changes}
    assert changes.pop(gone) is Verb.CREATE
    fronts = {ref for ref, spec in stack.resources.items() if isinstance(spec, ServiceSpec)}
    assert changes.keys() <= fronts | follow
    assert all(verb is (Verb.UPDATE if ref in fronts else Verb.RESTART) for ref, verb in changes.items())
    assert {step.op for step in plan.steps if step.ref not in fronts | follow} <= {Op.CREATE, Op.START}
    engine.settle(stack)
    after = engine.pids()
    assert {ref for ref in before if after[ref] != before[ref]} - {gone} == follow


def followers(stack: Stack, ref: Ref) -> set[Ref]:
    """The containers that get a new process when `ref` does."""
    found = {ref}
    for other in stack.resources:  # what is needed stands before what needs it
        follows = any(need.restarts and need.ref in found for need in stack.needs[other])
        if follows and not getattr(stack.resources[other], "job", None):
            found.add(other)
    return found - {ref}


@FEW
@given(stacks(), stacks(), st.data())
def test_who_follows_runs_what_started_later(before: Stack, after: Stack, data: st.DataObject) -> None:
    engine = Engine()
    engine.settle(before)
    engine.fake.crash_at = engine.fake.boundaries + data.draw(st.integers(1, 120))
    with suppress(Crash):
        engine.settle(after)
    engine.fake.crash_at = None
    engine.settle(after)
    seen = {each.ref: each for each in engine.observed()}
    for ref in containers(after):
        if not getattr(after.resources[ref], "job", None):
            recorded = {need.ref for need in seen[ref].needs}
            for need in after.needs[ref]:
                if need.restarts and need.ref in recorded:
                    # A first start that the last edit found there is no restart.
                    came = 0.0 if seen[need.ref].restarts else seen[ref].edited or 0.0
                    assert (seen[need.ref].started or 0.0) <= max(seen[ref].started or 0.0, came)


def containers(stack: Stack) -> list[Ref]:
    return sorted(ref for ref in stack.resources if ref.kind is Kind.CONTAINER)
