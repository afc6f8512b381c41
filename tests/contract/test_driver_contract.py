"""What every driver must do, whatever it is made of."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import HostError, StepError
from orchestrator.model import codec
from orchestrator.model.desired import Content, Limits, SecretMount, Until, Update
from orchestrator.model.ids import Incarnation, Kind
from orchestrator.model.observed import Phase
from orchestrator.plan import readiness
from orchestrator.plan.changes import Policy, Verb
from tests.contract.worlds import World, group_of, new_id
from tests.properties.stacks import container, group, network, service, stack, volume


def test_every_kind_has_its_driver_and_an_empty_world_holds_nothing(world: World) -> None:
    assert set(world.drivers) == set(Kind)
    assert all(kind in driver.kinds for kind, driver in world.drivers.items())
    assert world.observed() == ()
    assert not any(world.stack in driver.stacks() for driver in world.drivers.values())


def test_a_plain_stack_is_no_problem(world: World) -> None:
    wish = stack(group_of("web", volume="data"))
    assert [problem for driver in set(world.drivers.values()) for problem in driver.check(wish)] == []


def test_a_stack_comes_up_in_one_pass_and_the_next_plan_is_empty(world: World) -> None:
    wish = stack(group_of("db", volume="data"), group_of("web", replicas=2, needs={"db": Until.STARTED}))
    world.apply(wish)
    assert world.plan(wish).empty
    assert {each.ref for each in world.observed()} == set(wish.resources)
    assert {each.phase for each in world.observed()} == {Phase.RUNNING}
    assert any(world.stack in driver.stacks() for driver in world.drivers.values())


def test_an_observation_holds_what_was_applied_and_the_needs_it_was_made_with(world: World) -> None:
    wish = stack(group_of("web", volume="data", memory=1 << 26))
    world.apply(wish)
    kept = {each.ref: each for each in world.observed()}
    for ref, spec in readiness.fill(wish, kept, Policy(), 0.0).stack.resources.items():
        found = world.seen(ref)
        assert found is not None
        assert found.applied == codec.encode(spec)
        assert set(found.needs) == set(wish.needs[ref])


def test_created_is_recorded_and_not_in_effect(world: World) -> None:
    wish = stack(group_of("web"))
    world.apply(
        replace(wish, resources={r: s for r, s in wish.resources.items() if r.kind is not Kind.CONTAINER})
    )
    target = world.make(wish, container("web"))
    found = world.seen(container("web"))
    assert found and (found.id, found.phase, found.pid) == (target.id, Phase.CREATED, None)
    world.driver(target.ref).start(target)
    found = world.seen(container("web"))
    assert found and found.phase is Phase.RUNNING and found.pid and found.started
    assert found.restarts == 0 and found.exits == ()


def test_a_glance_sees_what_runs_as_a_close_look_does(world: World) -> None:
    world.apply(stack(group_of("web"), group_of("ended")))
    world.driver(container("ended")).stop(world.incarnation(container("ended")))
    runtime = world.driver(container("web"))
    close = {
        each.ref: replace(each, actual={}, damage=(), broken=())
        for each in runtime.observe(world.stack)
        if each.ref.kind in (Kind.GROUP, Kind.CONTAINER)
    }
    assert {each.ref: each for each in runtime.glance(world.stack)} == close
    assert {close[container(name)].phase for name in ("web", "ended")} == {Phase.RUNNING, Phase.EXITED}


def test_every_operation_may_be_repeated(world: World) -> None:
    wish = stack(group_of("web", volume="data"))
    world.apply(wish)
    for ref in wish.resources:
        target, driver = world.incarnation(ref), world.driver(ref)
        before = world.seen(ref)
        driver.start(target)
        after = world.seen(ref)
        assert before and after and (before.id, before.pid) == (after.id, after.pid)
    web = world.incarnation(container("web"))
    for _ in range(2):
        world.driver(web.ref).stop(web)
    found = world.seen(web.ref)
    assert found and found.phase is Phase.EXITED
    for _ in range(2):
        world.driver(web.ref).delete(web)
    assert world.seen(web.ref) is None


def test_a_creation_goes_over_a_half_made_thing(world: World) -> None:
    wish = stack(group_of("web"))
    world.apply(
        replace(wish, resources={r: s for r, s in wish.resources.items() if r.kind is not Kind.CONTAINER})
    )
    target = world.make(wish, container("web"))
    world.driver(target.ref).create(target, world.spec(wish, target.ref), world.bound(wish, target.ref))
    world.driver(target.ref).start(target)
    assert world.plan(wish).empty


def test_a_stop_is_an_end_that_we_asked_for(world: World) -> None:
    wish = stack(group_of("web"))
    world.apply(wish)
    before = world.seen(container("web"))
    assert before and before.pid
    web = world.incarnation(container("web"))
    world.driver(web.ref).stop(web)
    found = world.seen(web.ref)
    assert found and found.phase is Phase.EXITED and found.pid is None
    assert [end.stopped for end in found.exits] == [True]
    assert found.exits[-1].started <= found.exits[-1].ended
    world.apply(wish)
    again = world.seen(web.ref)
    assert again and again.id == before.id and again.pid != before.pid and again.restarts == 1


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_kept(world: World, code: int) -> None:
    world.apply(stack(group_of("job", "sh", "-c", f"exit {code}", job=True)))
    found = world.wait(container("job"), lambda seen: seen is not None and seen.phase is Phase.EXITED)
    assert [(end.code, end.stopped) for end in found.exits] == [(code, False)]
    assert found.exits[-1].success is (code == 0)


def test_a_completed_job_is_done_and_opens_its_gate(world: World) -> None:
    wish = stack(group_of("job", "true", job=True), group_of("web", needs={"job": Until.COMPLETED}))
    world.apply(wish)
    world.wait(container("job"), lambda seen: seen is not None and seen.phase is Phase.EXITED)
    world.apply(wish)
    assert world.plan(wish).empty
    found = world.seen(container("web"))
    assert found and found.phase is Phase.RUNNING


def test_a_missing_command_is_said_by_name_and_runs_nothing(world: World) -> None:
    wish = stack(group_of("web", "nonesuch"))
    (failed,) = [each for each in world.run(world.plan(wish)) if each.error]
    assert failed.step.ref == container("web") and failed.errno == errno.ENOENT
    assert failed.error and "nonesuch" in failed.error
    found = world.seen(container("web"))
    assert found and found.phase is not Phase.RUNNING


def test_a_live_change_keeps_process_and_incarnation(world: World) -> None:
    world.apply(stack(group_of("web", memory=1 << 26)))
    before = world.seen(container("web"))
    wish = stack(group_of("web", memory=1 << 27))
    made = world.apply(wish)
    assert [each.verb for each in made.changes] == [Verb.UPDATE]
    after = world.seen(container("web"))
    assert before and after and (before.id, before.pid) == (after.id, after.pid)
    assert after.applied["limits"]["memory"] == 1 << 27
    assert after.actual.get("limits.memory", 1 << 27) == 1 << 27
    assert world.plan(wish).empty


def test_needs_that_come_and_go_with_a_live_change_are_recorded(world: World) -> None:
    world.apply(stack(group_of("web", replicas=2)))
    before = world.seen(service("web"))
    wish = stack(group_of("web"))
    world.apply(wish)
    after = world.seen(service("web"))
    assert before and after and before.id == after.id
    assert set(after.needs) == set(wish.needs[service("web")]) < set(before.needs)


def test_limits_taken_away_are_gone(world: World) -> None:
    world.apply(stack(group_of("web", memory=1 << 26)))
    wish = stack(group_of("web"))
    world.apply(wish)
    assert world.plan(wish).empty
    driver = world.driver(container("web"))
    limits = driver.read_limits(world.incarnation(container("web")))  # type: ignore[attr-defined]
    assert limits.memory is None and limits.swap is None


def test_limits_are_read_back(world: World) -> None:
    limits = Limits(memory=1 << 26, pids=50)
    world.apply(stack(group_of("web", more={"limits": limits})))
    driver = world.driver(container("web"))
    found = driver.read_limits(world.incarnation(container("web")))  # type: ignore[attr-defined]
    assert (found.memory, found.pids) == (1 << 26, 50)


def test_a_new_environment_is_a_new_process_of_the_same_incarnation(world: World) -> None:
    world.apply(stack(group_of("web")))
    before = world.seen(container("web"))
    wish = stack(group_of("web", more={"env": {"LEVEL": "debug"}}))
    world.apply(wish)
    after = world.seen(container("web"))
    assert before and after and before.id == after.id and before.pid != after.pid
    assert after.edited is not None, "what went wrong before an edit is forgiven by its time"
    assert world.plan(wish).empty


def test_a_forced_start_of_what_had_ended_forgives_its_past(world: World) -> None:
    wish = stack(group_of("web", "sh", "-c", "exit 3"))
    world.apply(wish)
    ended = world.wait(container("web"), lambda each: each is not None and each.phase is Phase.EXITED)
    made = world.apply(wish, Policy(force=frozenset({container("web")})))
    assert [(step.op.value, step.ref) for step in made.steps] == [
        (op, container("web")) for op in ("update", "start")
    ]
    after = world.wait(container("web"), lambda each: each is not None and len(each.exits) == 2)
    assert after.id == ended.id and after.edited is not None
    assert ended.exits[0].started < after.edited <= after.exits[1].started


def test_a_stop_for_a_fault_is_told_with_the_exit_and_counts(world: World) -> None:
    world.apply(stack(group_of("web")))
    world.driver(container("web")).stop(world.incarnation(container("web")), fault="is unhealthy: 500")
    found = world.seen(container("web"))
    assert found and [(end.stopped, end.fault, end.success) for end in found.exits] == [
        (True, "is unhealthy: 500", False)
    ]


@pytest.mark.parametrize("update", [Update.LIVE, Update.RESTART, Update.REPLACE])
def test_new_bytes_of_a_secret_come_as_it_asks(world: World, tmp_path: Path, update: Update) -> None:
    source = tmp_path / "secret"
    mounts = (SecretMount(secret="s", target="/run/secrets/s"),)
    for digest in ("1" * 64, "2" * 64):
        content = Content(digest=digest, source=str(source), update=update)
        wish = stack(group_of("web", more={"mounts": mounts, "contents": {"secret/s": content}}))
        source.write_text(digest)
        before, changes = world.seen(container("web")), world.apply(wish).changes
        found = world.seen(container("web"))
        assert found is not None and world.plan(wish).empty
    assert before is not None and len(changes) == 1
    assert changes[0].verb.value == {"live": "update"}.get(update, update)
    assert (found.pid == before.pid) is (update is Update.LIVE)
    assert (found.id == before.id) is (update is not Update.REPLACE)


def test_a_replaced_group_takes_its_containers_along_and_leaves_others_alone(world: World) -> None:
    world.apply(stack(group_of("web"), group_of("db")))
    before = {each.ref: each.id for each in world.observed()}
    wish = stack(group_of("web", hostname="www"), group_of("db"))
    world.apply(wish)
    after = {each.ref: each.id for each in world.observed()}
    for ref in (group("web"), container("web")):
        assert before[ref] != after[ref]
    for ref in (group("db"), container("db"), network("default"), service("web")):
        assert before[ref] == after[ref]
    assert world.plan(wish).empty


def test_a_group_joins_and_leaves_networks_while_its_containers_run(world: World) -> None:
    world.apply(stack(group_of("web")))
    before = {each.ref: (each.id, each.pid) for each in world.observed()}
    for networks in (("default", "extra"), ("extra",), (), ("default",)):
        wish = stack(group_of("web", networks=networks))
        world.apply(wish)
        assert world.plan(wish).empty
        after = {each.ref: (each.id, each.pid) for each in world.observed()}
        assert [after[ref] for ref in (group("web"), container("web"))] == [
            before[ref] for ref in (group("web"), container("web"))
        ]
        assert {ref.name for ref in after if ref.kind is Kind.NETWORK} == set(networks)


def test_scaling_goes_up_and_down_without_touching_the_others(world: World) -> None:
    world.apply(stack(group_of("web", replicas=2)))
    before = {each.ref: each.pid for each in world.observed()}
    up = stack(group_of("web", replicas=3))
    world.apply(up)
    assert world.plan(up).empty
    down = stack(group_of("web", replicas=1))
    world.apply(down)
    assert world.plan(down).empty
    after = {each.ref: each.pid for each in world.observed()}
    assert container("web", 2) not in after
    assert after[container("web", 1)] == before[container("web", 1)]


def test_volumes_outlive_their_stack_until_they_are_to_go(world: World) -> None:
    world.apply(stack(group_of("db", volume="data")))
    kept = world.seen(volume("data"))
    world.apply(None)
    assert [each.ref for each in world.observed()] == [volume("data")]
    world.apply(stack(group_of("db", volume="data")))
    found = world.seen(volume("data"))
    assert found and kept and found.id == kept.id


def test_one_stack_does_not_see_another(world: World) -> None:
    world.apply(stack(group_of("web")))
    assert world.observed("other") == ()
    assert all("other" not in driver.stacks() for driver in world.drivers.values())


def test_what_is_not_there_cannot_be_started_and_is_deleted_already(world: World) -> None:
    world.apply(stack(group_of("web")))
    for ref in (container("web"), group("web")):
        nobody = Incarnation(world.stack, ref, new_id())
        with pytest.raises((StepError, HostError)):
            world.driver(ref).start(nobody)
        world.driver(ref).stop(nobody)
        world.driver(ref).delete(nobody)
    found = world.seen(container("web"))
    assert found and found.phase is Phase.RUNNING


def test_a_running_container_has_a_process_of_this_host(world: World) -> None:
    if world.name == "fake":
        pytest.skip("the fake's processes are invented")
    world.apply(stack(group_of("web")))
    found = world.seen(container("web"))
    assert found and found.pid and os.path.exists(f"/proc/{found.pid}")
    world.apply(None)
    assert not os.path.exists(f"/proc/{found.pid}")
