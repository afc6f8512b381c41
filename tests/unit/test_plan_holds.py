"""What an operator holds is stopped and stays so, whatever else asks for a start."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.control.outcome import Again, Settled, judge
from orchestrator.model.desired import Need, RestartPolicy, Stack, Until
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Phase
from orchestrator.plan.changes import Plan, Policy, Verb
from tests.properties.engine import Engine
from tests.properties.stacks import Group, container, network, service, stack, stacks

DB, WEB = container("db"), container("web")
NEEDY = stack(Group(name="db"), Group(name="web", needs={"db": Until.STARTED}))


def held(*refs: Ref) -> Policy:
    return Policy(stopped=dict.fromkeys(refs, "stopped by ann"))


@pytest.fixture
def engine() -> Engine:
    return Engine()


def acts(plan: Plan) -> list[tuple[str, Ref]]:
    return [(step.op.value, step.ref) for step in plan.steps if step.ref.kind is Kind.CONTAINER]


def verbs(plan: Plan) -> dict[Ref, Verb]:
    return {each.ref: each.verb for each in plan.changes}


def test_one_that_runs_is_stopped_once_and_told_without_being_a_change(engine: Engine) -> None:
    engine.settle(NEEDY)
    before = engine.pids()
    plan = engine.plan(NEEDY, held(DB))
    assert verbs(plan)[DB] is Verb.STOP and acts(plan) == [("stop", DB)]
    engine.run(plan)
    plan = engine.plan(NEEDY, held(DB))
    assert plan.empty and plan.holds == {DB: "stopped by ann"}
    assert judge(NEEDY, plan, engine.observed(), engine.now + 60) == Settled(held={DB: "stopped by ann"})
    assert engine.pids()[WEB] == before[WEB], "what needs it went on"
    engine.settle(NEEDY)
    assert engine.fake.thing(DB).phase is Phase.RUNNING


def test_they_stop_in_the_reverse_of_the_start_order_over_what_is_not_held(engine: Engine) -> None:
    wish = stack(
        Group(name="db"),
        Group(name="api", needs={"db": Until.STARTED}),
        Group(name="web", needs={"api": Until.STARTED}),
    )
    engine.settle(wish)
    assert acts(engine.plan(wish, held(DB, WEB))) == [("stop", WEB), ("stop", DB)]


def test_traffic_ends_before_the_stop(engine: Engine) -> None:
    wish = stack(Group(name="web", replicas=2))
    engine.settle(wish)
    plan = engine.plan(wish, held(WEB))
    steps = {(step.op.value, step.ref): step for step in plan.steps}
    assert steps["update", service("web")].number in steps["stop", WEB].after
    engine.settle(wish, held(WEB))
    assert engine.plan(wish, held(WEB)).empty


def test_a_dependent_waits_for_a_start_and_that_counts_as_settled(engine: Engine) -> None:
    plan = engine.settle(NEEDY, held(DB))
    assert engine.fake.thing(DB).phase is Phase.CREATED
    assert WEB not in {each.ref for each in engine.observed()}
    (change,) = plan.changes
    assert change.waits == (Need(DB, Until.STARTED),) and not plan.steps
    outcome = judge(NEEDY, plan, engine.observed(), engine.now)
    assert outcome == Settled(held={DB: "stopped by ann", WEB: f"waits until {DB} runs"})


def test_a_dependent_that_ends_waits_too(engine: Engine) -> None:
    engine.settle(NEEDY)
    engine.settle(NEEDY, held(DB))
    engine.fake.exit(WEB, 1)
    engine.settle(NEEDY, held(DB))
    assert engine.fake.thing(WEB).phase is Phase.EXITED
    assert engine.settle(NEEDY).empty
    assert engine.fake.thing(WEB).phase is Phase.RUNNING


def test_an_end_by_itself_is_neither_started_again_nor_a_failure(engine: Engine) -> None:
    for more in ({}, {"restart": RestartPolicy.NEVER}):
        wish = stack(Group(name="web", more=more))
        engine.settle(wish)
        engine.fake.exit(WEB, 1)
        plan = engine.settle(wish, held(WEB))
        assert plan.empty and not plan.failures and engine.fake.thing(WEB).phase is Phase.EXITED


def test_an_edit_that_needs_a_new_process_is_taken_up_by_the_start(engine: Engine) -> None:
    job = Group(name="job", job=True, command=("true",))
    engine.settle(stack(job))
    changed = stack(replace(job, command=("sh", "-c", "exit 0")))
    ref = container("job")
    plan = engine.plan(changed, held(ref))
    assert plan.empty and plan.holds[ref] == "stopped by ann; command changed, taken up when it is started"
    assert acts(engine.plan(changed)) == [("update", ref), ("start", ref)]


def test_a_dependent_does_not_take_the_end_of_the_job_before_the_edit_for_its_completion(
    engine: Engine,
) -> None:
    job, web = (
        Group(name="job", job=True, command=("true",)),
        Group(name="web", needs={"job": Until.COMPLETED}),
    )
    engine.settle(stack(job))
    ref = container("job")
    assert acts(engine.plan(stack(job, web), held(ref)))[-1] == ("start", WEB)
    changed = stack(replace(job, command=("sh", "-c", "exit 0")), web)
    assert not acts(engine.plan(changed, held(ref)))


def test_a_live_edit_is_recorded_while_it_is_held(engine: Engine) -> None:
    engine.settle(stack(Group(name="web", memory=100)), held(WEB))
    wish = stack(Group(name="web", memory=200))
    engine.settle(wish, held(WEB))
    assert engine.plan(wish, held(WEB)).empty
    assert engine.fake.thing(WEB).phase is Phase.CREATED


def test_a_replacement_is_made_and_rests(engine: Engine) -> None:
    engine.settle(stack(Group(name="web")))
    wish = stack(Group(name="web", volume="data"))
    engine.settle(wish, held(WEB))
    assert engine.fake.thing(WEB).phase is not Phase.RUNNING
    assert engine.plan(wish, held(WEB)).empty


def test_what_a_lost_group_would_restart_is_stopped(engine: Engine) -> None:
    wish = stack(Group(name="web"))
    engine.settle(wish)
    engine.fake.thing(Ref(Kind.GROUP, "web-1")).phase = Phase.CREATED
    plan = engine.plan(wish, held(WEB))
    assert [(step.op.value, step.ref.kind) for step in plan.steps][:2] == [
        ("stop", Kind.CONTAINER),
        ("start", Kind.GROUP),
    ]
    engine.settle(wish, held(WEB))
    assert engine.fake.thing(WEB).phase is Phase.EXITED


def test_a_hold_is_stronger_than_an_asked_restart(engine: Engine) -> None:
    engine.settle(NEEDY)
    policy = replace(held(WEB), force=frozenset({WEB}))
    engine.settle(NEEDY, policy)
    assert engine.fake.thing(WEB).phase is Phase.EXITED


def test_others_are_waited_for_as_ever(engine: Engine) -> None:
    wish = stack(Group(name="db", probed=True), Group(name="web", needs={"db": Until.HEALTHY}))
    engine.once(wish, held(network("none")))
    plan = engine.plan(wish, held(WEB))
    assert isinstance(judge(wish, plan, engine.observed(), engine.now + 9), Again)


def test_what_is_held_is_not_made_before_what_it_is_bound_to(engine: Engine) -> None:
    needs = {"db": Until.STARTED}
    wish = stack(
        Group(name="db"),
        Group(name="between", needs=needs),
        Group(name="web", needs={"between": Until.STARTED}),
    )
    policy = held(container("db"), WEB)
    plan = engine.settle(wish, policy)
    assert not plan.steps
    assert WEB not in engine.ids()
    engine.settle(wish, held(WEB))
    assert engine.fake.thing(WEB).phase is Phase.CREATED


@settings(max_examples=60, deadline=None)
@given(stacks(), stacks(), st.data())
def test_with_any_holds_a_stack_settles_and_none_of_them_runs(
    before: Stack, after: Stack, data: st.DataObject
) -> None:
    engine = Engine()
    engine.settle(before)
    some = sorted(ref for ref in after.resources if ref.kind is Kind.CONTAINER)
    refs = data.draw(st.sets(st.sampled_from(some))) if some else set()
    plan = engine.settle(after, held(*refs))
    assert not plan.steps and plan.holds.keys() == refs
    running = {each.ref for each in engine.observed() if each.phase is Phase.RUNNING}
    assert not running & refs
    engine.settle(after)
    assert engine.plan(after).empty
