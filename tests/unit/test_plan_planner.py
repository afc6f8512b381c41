"""One behaviour of the planner a test, on the fake's world."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.diagnostics import Span
from orchestrator.model.desired import Limits, OnUnhealthy, RestartPolicy, Stack, Stop, Until, VolumeMount
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health, Phase
from orchestrator.plan.changes import Op, Plan, Policy, Verb
from tests.properties.engine import Engine
from tests.properties.stacks import (
    BUDGET,
    PROBE,
    ROOTFS,
    Group,
    container,
    group,
    network,
    service,
    stack,
    volume,
    without,
)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def verbs(plan: Plan) -> dict[Ref, Verb]:
    return {change.ref: change.verb for change in plan.changes}


def ops(plan: Plan) -> list[tuple[str, str]]:
    return [(step.op.value, str(step.ref)) for step in plan.steps]


def acts(plan: Plan) -> list[tuple[str, str]]:
    """What is done to containers."""
    return [(step.op.value, str(step.ref)) for step in plan.steps if step.ref.kind is Kind.CONTAINER]


def change(plan: Plan, ref: Ref):  # type: ignore[no-untyped-def]
    return next(each for each in plan.changes if each.ref == ref)


def test_a_live_change_is_one_update_and_keeps_process_and_id(engine: Engine) -> None:
    engine.settle(stack(Group(name="web", memory=1 << 26)))
    before, ids = engine.pids(), engine.ids()
    wish = stack(Group(name="web", memory=1 << 27))
    wish = replace(wish, places={(container("web"), "limits"): Span(file="a.yaml", line=3, column=5)})
    plan = engine.plan(wish)
    assert ops(plan) == [("update", "container/web-1/web")]
    (field,) = change(plan, container("web")).fields
    assert (field.name, field.old, field.new, field.update) == ("limits.memory", 1 << 26, 1 << 27, "live")
    assert str(field.place) == "a.yaml:3:5"
    assert plan.steps[0].fields == ("limits.memory",)
    engine.run(plan)
    assert engine.plan(wish).empty
    assert (engine.pids(), engine.ids()) == (before, ids)


def test_a_restart_change_keeps_the_id_and_stops_updates_starts(engine: Engine) -> None:
    engine.settle(stack(Group(name="web")))
    ids = engine.ids()
    wish = stack(Group(name="web", more={"env": {"A": "1"}}))
    plan = engine.plan(wish)
    assert ops(plan) == [(op, "container/web-1/web") for op in ("stop", "update", "start")]
    assert [step.after for step in plan.steps] == [(), (1,), (2,)]
    assert change(plan, container("web")).reason == "env.A changed"
    engine.settle(wish)
    assert engine.ids() == ids


def test_another_file_where_one_is_bound_is_a_restart_but_not_one_of_which_nothing_was_known(
    engine: Engine,
) -> None:
    ref, plain = container("web"), stack(Group(name="web"))

    def bound(number: int) -> Stack:
        spec = replace(plain.resources[ref], bound={"/srv/app.py": number})  # type: ignore[call-arg]
        return replace(plain, resources={**plain.resources, ref: spec})

    engine.settle(plain)  # as applied by a version that did not look at it
    assert engine.plan(bound(1)).empty
    engine.settle(stack())
    engine.settle(bound(1))
    assert engine.plan(plain).empty
    plan = engine.plan(bound(2))
    assert verbs(plan) == {ref: Verb.RESTART}
    assert change(plan, ref).reason == "the file at /srv/app.py changed"
    engine.run(plan)
    assert engine.plan(bound(2)).empty


def test_a_replaced_group_takes_its_containers_with_it_and_leaves_others_alone(engine: Engine) -> None:
    engine.settle(stack(Group(name="web"), Group(name="db")))
    wish = stack(Group(name="web", hostname="www"), Group(name="db"))
    plan = engine.plan(wish)
    assert verbs(plan)[group("web")] is Verb.REPLACE
    cascaded = change(plan, container("web"))
    assert (cascaded.verb, cascaded.cause) == (Verb.REPLACE, group("web"))
    assert container("db") not in verbs(plan) and group("db") not in verbs(plan)
    order = ops(plan)
    downs = [("stop", "container/web-1/web"), ("delete", "container/web-1/web"), ("stop", "group/web-1")]
    ups = [("create", "group/web-1"), ("start", "group/web-1"), ("start", "container/web-1/web")]
    assert [each for each in order if each in downs + ups] == downs + ups


def test_a_group_moves_to_another_network_live_after_one_is_made_and_before_the_other_goes(
    engine: Engine,
) -> None:
    engine.settle(stack(Group(name="web"), Group(name="db")))
    before = engine.pids(), engine.ids()
    wish = stack(Group(name="web", networks=("extra",)), Group(name="db", networks=("extra",)))
    plan = engine.plan(wish)
    assert verbs(plan) == {
        network("extra"): Verb.CREATE,
        group("db"): Verb.UPDATE,
        group("web"): Verb.UPDATE,
        service("db"): Verb.UPDATE,
        service("web"): Verb.UPDATE,
        network("default"): Verb.DELETE,
    }
    order = ops(plan)
    for name in ("group/web-1", "service/web"):
        update = order.index(("update", name))
        assert order.index(("start", "network/extra")) < update < order.index(("stop", "network/default"))
    engine.run(plan)
    after = engine.pids(), engine.ids()
    assert engine.plan(wish).empty
    assert all(after[i][ref] == before[i][ref] for i in (0, 1) for ref in (group("web"), container("web")))


def test_a_group_that_runs_waits_for_a_network_that_cannot_be_made_and_keeps_its_old_one(
    engine: Engine,
) -> None:
    engine.settle(stack(Group(name="web")))
    held = Policy(held={network("extra"): "no free subnet"})
    plan = engine.plan(stack(Group(name="web", networks=("extra",))), held)
    waits = change(plan, group("web")).waits
    assert [need.ref for need in waits] == [network("extra")]
    assert plan.steps == ()


def test_a_group_that_joins_a_network_is_not_replaced_with_it(engine: Engine) -> None:
    before = stack(Group(name="web"), Group(name="db", networks=("extra",)))
    engine.settle(before)
    wish = stack(Group(name="web", networks=("default", "extra")), Group(name="db", networks=("extra",)))
    spec = replace(wish.resources[network("extra")], subnet="10.1.2.0/24")
    wish = replace(wish, resources={**wish.resources, network("extra"): spec})
    found = verbs(engine.plan(wish))
    assert (found[group("db")], found[group("web")]) == (Verb.REPLACE, Verb.UPDATE)
    engine.run(engine.plan(wish))
    assert engine.plan(wish).empty


FOLLOWS = {"needs": {"db": Until.STARTED}, "follows": True}


def test_who_follows_is_restarted_after_what_it_needs_in_the_same_plan(engine: Engine) -> None:
    engine.settle(stack(Group(name="db"), Group(name="web", **FOLLOWS)))  # type: ignore[arg-type]
    edited = stack(Group(name="db", command=("sleep", "9")), Group(name="web", **FOLLOWS))  # type: ignore[arg-type]
    plan = engine.plan(edited)
    assert verbs(plan) == {container("db"): Verb.RESTART, container("web"): Verb.RESTART}
    assert change(plan, container("web")).reason == "container/db-1/db gets a new process"
    order = ops(plan)
    assert order.index(("start", str(container("db")))) < order.index(("stop", str(container("web"))))
    engine.run(plan)
    assert engine.plan(edited).empty


def test_who_follows_waits_for_health_and_runs_on_meanwhile_whoever_dies(engine: Engine) -> None:
    wish = stack(Group(name="db", probed=True), Group(name="web", needs={"db": Until.HEALTHY}, follows=True))
    engine.settle(wish)
    engine.fake.exit(container("db"), 1)
    engine.now += 1
    plan = engine.plan(wish)
    assert acts(plan) == [("start", "container/db-1/db")]
    engine.run(plan)  # and now we die: nothing but the world is left
    plan = engine.plan(wish)
    assert change(plan, container("web")).waits and not acts(plan)
    assert change(plan, container("web")).reason == "container/db-1/db has got a new process"
    engine.probe_well()
    assert acts(engine.plan(wish)) == [(op, "container/web-1/web") for op in ("stop", "start")]
    engine.now += 1
    engine.once(wish)
    assert engine.plan(wish).empty


def test_a_chain_follows_in_order_and_jobs_do_not(engine: Engine) -> None:
    wish = stack(
        Group(name="db"),
        Group(name="job", job=True, command=("sleep", "infinity"), **FOLLOWS),  # type: ignore[arg-type]
        Group(name="web", **FOLLOWS),  # type: ignore[arg-type]
        Group(name="proxy", needs={"web": Until.STARTED}, follows=True),
    )
    engine.once(wish)
    engine.fake.exit(container("db"), 1)
    engine.now += 1
    starts = [ref for op, ref in ops(engine.plan(wish)) if op == "start"]
    assert starts == [str(container(name)) for name in ("db", "web", "proxy")]
    engine.once(wish)
    assert engine.plan(wish).empty


def test_more_replicas_are_no_restart_of_the_group(engine: Engine) -> None:
    def of(replicas: int) -> Stack:
        return stack(Group(name="db", replicas=replicas), Group(name="web", **FOLLOWS))  # type: ignore[arg-type]

    engine.settle(of(1))
    assert container("web") not in verbs(engine.plan(of(2)))
    engine.settle(of(2))
    engine.fake.exit(container("db", 2), 1)
    engine.now += 1
    assert verbs(engine.plan(of(2)))[container("web")] is Verb.RESTART


def sick_stack(**more: object) -> Stack:
    probe = replace(PROBE, on_unhealthy=OnUnhealthy.RESTART)
    return stack(Group(name="db", probed=True), Group(name="web", more={"health": probe}, **more))  # type: ignore[arg-type]


def test_an_unhealthy_container_is_restarted_where_that_is_asked_for_and_its_stop_counts(
    engine: Engine,
) -> None:
    wish = sick_stack()
    engine.settle(wish)
    for name in ("db", "web"):
        engine.fake.set_health(container(name), Health.UNHEALTHY, "500")
    plan = engine.plan(wish)
    assert acts(plan) == [("stop", "container/web-1/web"), ("start", "container/web-1/web")]
    assert change(plan, container("web")).reason == "is unhealthy: 500"
    engine.run(plan)
    (end,) = engine.fake.thing(container("web")).exits
    assert end.stopped and end.fault == "is unhealthy: 500"
    for delay in (1.0, 2.0):
        engine.fake.set_health(container("web"), Health.UNHEALTHY, "500")
        plan = engine.plan(wish)
        assert not acts(plan) and change(plan, container("web")).not_before == engine.now + delay
        engine.now += delay
        engine.once(wish)
    engine.fake.set_health(container("web"), Health.UNHEALTHY, "500")
    engine.fake.set_health(container("web"), Health.HEALTHY, "")
    assert not acts(engine.plan(wish))


def test_one_that_stays_unhealthy_ends_in_gave_up_and_runs_on(engine: Engine) -> None:
    wish = sick_stack()
    engine.settle(wish)
    for _ in range(200):
        if engine.fake.thing(container("web")).health is not Health.UNHEALTHY:
            engine.now += 5
            engine.fake.set_health(container("web"), Health.UNHEALTHY, "500")
        plan = engine.plan(wish)
        if plan.failures:
            break
        engine.run(plan)
        engine.now += 1
    assert plan.failures == {container("web"): "gave up after 10 starts in 10 min: is unhealthy: 500"}
    assert not acts(plan) and engine.fake.thing(container("web")).starts == 10
    edited = sick_stack(memory=1 << 26)
    assert verbs(engine.plan(edited))[container("web")] is Verb.RESTART and not engine.plan(edited).failures


def test_an_unhealthy_container_is_not_restarted_while_what_it_needs_is_unhealthy(engine: Engine) -> None:
    wish = sick_stack(needs={"db": Until.HEALTHY})
    engine.settle(wish)
    for name in ("db", "web"):
        engine.fake.set_health(container(name), Health.UNHEALTHY)
    plan = engine.plan(wish)
    assert change(plan, container("web")).waits and not acts(plan)


def test_a_restart_that_waits_holds_no_live_change_up(engine: Engine) -> None:
    engine.settle(sick_stack(needs={"db": Until.HEALTHY}, memory=1 << 26))
    for name in ("db", "web"):
        engine.fake.set_health(container(name), Health.UNHEALTHY)
    edited = sick_stack(needs={"db": Until.HEALTHY}, memory=1 << 27)
    assert acts(engine.plan(edited)) == [("update", "container/web-1/web")]
    engine.once(edited)
    engine.fake.thing(container("web")).actual["limits.memory"] = 1
    assert acts(engine.plan(edited)) == [("update", "container/web-1/web")]
    engine.once(edited)
    assert change(engine.plan(edited), container("web")).waits


def test_health_gates_a_start_after_a_crash_and_after_a_boot_as_it_does_the_first(engine: Engine) -> None:
    wish = stack(Group(name="db", probed=True), Group(name="web", needs={"db": Until.HEALTHY}))
    engine.settle(wish)
    engine.fake.set_health(container("db"), Health.UNHEALTHY)
    engine.fake.exit(container("web"), 1)
    plan = engine.plan(wish)
    assert change(plan, container("web")).waits and not acts(plan)
    engine.fake.reboot()
    engine.now = 10.0
    engine.once(wish)
    assert not acts(engine.plan(wish))
    assert change(engine.plan(wish), container("web")).waits
    engine.probe_well()
    assert acts(engine.plan(wish)) == [("start", "container/web-1/web")]


def test_after_a_reboot_only_what_its_policy_says_is_started(engine: Engine) -> None:
    def of(name: str, policy: RestartPolicy, *command: str) -> Group:
        return Group(name=name, command=command, more={"restart": policy})

    on_failure, never = RestartPolicy.ON_FAILURE, RestartPolicy.NEVER
    wish = stack(
        of("service", RestartPolicy.ALWAYS, "sleep", "infinity"),
        of("done", on_failure, "true"),
        of("ran", on_failure, "sleep", "infinity"),
        of("failed-once", never, "false"),
        of("ran-once", never, "sleep", "infinity"),
        Group(name="job", job=True, command=("false",)),
    )
    engine.settle(wish, passes=30)
    engine.fake.reboot()
    engine.now = 10.0
    plan = engine.plan(wish)
    started = {str(change.ref) for change in plan.changes if change.ref.kind is Kind.CONTAINER}
    assert started == {"container/service-1/service", "container/ran-1/ran"}
    assert plan.failures == {
        container("failed-once"): "exit 1, restart: never",
        container("ran-once"): "unknown exit, restart: never",
        container("job"): "job failed: exit 1 after 4 runs",
    }


def test_depends_on_does_not_cascade(engine: Engine) -> None:
    needs = {"db": Until.STARTED}
    engine.settle(stack(Group(name="db"), Group(name="web", needs=needs)))
    plan = engine.plan(stack(Group(name="db", command=("sleep", "9")), Group(name="web", needs=needs)))
    assert verbs(plan) == {container("db"): Verb.RESTART}


def test_a_closed_gate_makes_a_wait_without_steps_and_its_group_comes_up(engine: Engine) -> None:
    wish = stack(Group(name="db", probed=True), Group(name="web", needs={"db": Until.HEALTHY}))
    plan = engine.plan(wish)
    waiting = change(plan, container("web"))
    assert [(need.ref, need.until) for need in waiting.waits] == [(container("db"), Until.HEALTHY)]
    assert container("web") not in {step.ref for step in plan.steps}
    assert group("web") in {step.ref for step in plan.steps}
    engine.run(plan)
    assert {each.ref for each in engine.plan(wish).changes} == {container("web")}
    engine.fake.set_health(container("db"), Health.HEALTHY)
    plan = engine.plan(wish)
    assert change(plan, service("db")).reason == "db-1 is healthy"
    assert ops(plan) == [
        ("update", "service/db"),
        ("create", "container/web-1/web"),
        ("start", "container/web-1/web"),
    ]
    assert plan.steps[0].number in plan.steps[2].after  # it is reached by its name before anybody is told so


def test_healthy_without_a_probe_means_started_in_the_same_pass(engine: Engine) -> None:
    plan = engine.plan(stack(Group(name="db"), Group(name="web", needs={"db": Until.HEALTHY})))
    assert not any(each.waits for each in plan.changes)


def test_an_unhealthy_dependency_leaves_what_runs_alone(engine: Engine) -> None:
    wish = stack(Group(name="db", probed=True), Group(name="web", needs={"db": Until.HEALTHY}))
    engine.settle(wish)
    engine.fake.set_health(container("db"), Health.UNHEALTHY)
    assert ops(engine.plan(wish)) == [("update", "service/db")]


def test_a_replacement_with_a_closed_gate_leaves_the_old_one_running(engine: Engine) -> None:
    needs = {"db": Until.HEALTHY}
    engine.settle(stack(Group(name="db", probed=True), Group(name="web", needs=needs)))
    edit = {"command": ("sleep", "9")}
    wish = stack(Group(name="db", probed=True, more=edit), Group(name="web", needs=needs, more=edit))
    plan = engine.plan(wish)
    assert {step.ref for step in plan.steps} == {container("db")}
    assert change(plan, container("web")).waits
    engine.run(plan)
    assert engine.fake.thing(container("web")).pid is not None


def test_drift_is_mended_in_what_the_user_wrote_and_in_what_is_left_unset(engine: Engine) -> None:
    wish = stack(Group(name="web", memory=1 << 26), Group(name="free"), Group(name="same"))
    engine.settle(wish)
    engine.fake.thing(container("web")).actual["limits.memory"] = 1 << 30
    engine.fake.thing(container("free")).actual["limits.memory"] = 1 << 30
    engine.fake.thing(container("same")).actual["limits.memory"] = None
    plan = engine.plan(wish)
    assert verbs(plan) == {container("web"): Verb.UPDATE, container("free"): Verb.UPDATE}
    assert {each.reason for each in plan.changes} == {"limits.memory changed behind our back"}
    engine.run(plan)
    assert engine.plan(wish).empty


def test_damage_is_mended_live_and_nothing_restarts(engine: Engine) -> None:
    wish = stack(Group(name="web"))
    engine.settle(wish)
    thing = engine.fake.thing(group("web"))
    thing.damage, edited = ("link", "hosts file"), thing.edited
    engine.now += 1
    plan = engine.plan(wish)
    assert ops(plan) == [("update", "group/web-1")]
    assert plan.changes[0].reason == "link, hosts file changed behind our back"
    engine.run(plan)
    assert engine.plan(wish).empty
    assert thing.edited == edited  # a mending forgives no failures


def test_what_is_broken_gets_a_new_process_whatever_its_needs_are(engine: Engine) -> None:
    wish = stack(Group(name="db", probed=True), Group(name="web", needs={"db": Until.HEALTHY}))
    engine.settle(wish)
    engine.fake.set_health(container("db"), Health.UNHEALTHY)
    engine.fake.thing(container("web")).broken = ("mounts",)
    plan = engine.plan(wish)
    assert (change(plan, container("web")).verb, change(plan, container("web")).reason) == (
        Verb.RESTART,
        "mounts changed behind our back",
    )
    assert [step.op for step in plan.steps if step.ref == container("web")] == [Op.STOP, Op.START]
    engine.run(plan)
    assert container("web") not in verbs(engine.plan(wish))


def test_an_old_record_without_a_new_field_compares_as_its_default(engine: Engine) -> None:
    wish = stack(Group(name="web"))
    engine.settle(wish)
    observed = tuple(
        replace(each, applied={"unheard_of": 1, **each.applied, "stop": {"grace": 10.0}})
        for each in engine.observed()
    )
    from orchestrator.plan.planner import plan

    assert plan(wish, observed, Policy(), engine.now, name="shop").empty


def test_old_values_show_the_default_that_was_in_force(engine: Engine) -> None:
    engine.settle(stack(Group(name="web")))
    plan = engine.plan(stack(Group(name="web", more={"stop": Stop(grace=3.0)})))
    (field,) = plan.changes[0].fields
    assert (field.name, field.old, field.new) == ("stop.grace", 10.0, 3.0)


def test_volumes_stay_silently_unless_data_is_to_be_pruned(engine: Engine) -> None:
    engine.settle(stack(Group(name="db", volume="data")))
    slim = stack(Group(name="db"))
    plan = engine.plan(slim)
    assert volume("data") not in verbs(plan)
    engine.run(plan)
    assert engine.plan(slim).empty
    assert verbs(engine.plan(slim, Policy(prune_data=True))) == {volume("data"): Verb.DELETE}
    kept = engine.plan(None)
    assert volume("data") not in verbs(kept) and verbs(kept)[container("db")] is Verb.DELETE
    engine.settle(stack(Group(name="db", volume="data")))
    everything = engine.plan(None, Policy(prune_data=True))
    order = ops(everything)
    assert order.index(("delete", "container/db-1/db")) < order.index(("delete", "volume/data"))


def test_a_half_made_volume_is_made_again_over_its_data(engine: Engine) -> None:
    wish = stack(Group(name="db", volume="data"))
    engine.settle(wish)
    thing = engine.fake.thing(volume("data"))
    thing.phase = Phase.INCOMPLETE
    plan = engine.plan(wish)
    assert {step.op for step in plan.steps if step.ref == volume("data")} == {Op.CREATE, Op.START}
    assert verbs(plan) == {volume("data"): Verb.CREATE}
    engine.run(plan)
    assert engine.ids()[volume("data")] == thing.target.id


def test_a_new_volume_under_a_running_container_replaces_it(engine: Engine) -> None:
    engine.settle(stack(Group(name="db")))
    plan = engine.plan(stack(Group(name="db", volume="data")))
    assert verbs(plan)[container("db")] is Verb.REPLACE
    assert "needs volume/data now" in change(plan, container("db")).reason
    order = ops(plan)
    assert order.index(("start", "volume/data")) < order.index(("stop", "container/db-1/db"))


def test_a_second_incarnation_is_deleted_and_the_better_one_kept(engine: Engine) -> None:
    wish = stack(Group(name="web"))
    engine.settle(wish)
    good = engine.ids()[container("web")]
    one = next(each for each in engine.observed() if each.ref == container("web"))
    worse = replace(one, id="f" * 12, phase=Phase.EXITED)
    from orchestrator.plan.planner import plan

    found = plan(wish, (*engine.observed(), worse), Policy(), engine.now, name="shop")
    assert [(each.verb, each.id, each.reason) for each in found.changes] == [
        (Verb.DELETE, "f" * 12, "a second incarnation")
    ]
    assert engine.ids()[container("web")] == good


def test_a_service_lets_go_of_an_instance_before_it_stops(engine: Engine) -> None:
    engine.settle(stack(Group(name="web", replicas=2)))
    order = ops(engine.plan(stack(Group(name="web", replicas=1))))
    assert order.index(("update", "service/web")) < order.index(("stop", "group/web-2"))
    assert order.index(("delete", "group/web-2")) < order.index(("update", "network/default"))


def test_a_service_takes_up_an_instance_after_it_runs(engine: Engine) -> None:
    engine.settle(stack(Group(name="web", replicas=1)))
    order = ops(engine.plan(stack(Group(name="web", replicas=2))))
    assert order.index(("update", "network/default")) < order.index(("start", "group/web-2"))
    assert order.index(("start", "group/web-2")) < order.index(("update", "service/web"))


def test_lost_namespaces_restart_the_containers_in_them(engine: Engine) -> None:
    wish = stack(Group(name="web"))
    engine.settle(wish)
    engine.fake.thing(group("web")).phase = Phase.CREATED
    plan = engine.plan(wish)
    assert ops(plan) == [
        ("stop", "container/web-1/web"),
        ("start", "group/web-1"),
        ("start", "container/web-1/web"),
    ]
    assert change(plan, container("web")).cause == group("web")


def test_a_failed_job_is_a_failure_and_holds_its_dependents(engine: Engine) -> None:
    wish = stack(
        Group(name="job", job=True, command=("false",)), Group(name="web", needs={"job": Until.COMPLETED})
    )
    plan = engine.settle(wish, passes=30)
    assert plan.failures == {container("job"): "job failed: exit 1 after 4 runs"}
    assert [each.ref for each in plan.changes] == [container("web")] and plan.changes[0].waits
    assert not plan.steps


def test_an_edit_lets_a_failed_job_run_again(engine: Engine) -> None:
    engine.settle(stack(Group(name="job", job=True, command=("false",))), passes=30)
    plan = engine.plan(stack(Group(name="job", job=True, command=("false",), memory=1 << 26)))
    assert ops(plan) == [("update", "container/job-1/job"), ("start", "container/job-1/job")]
    assert not plan.failures


def test_a_completed_job_is_updated_live_and_not_run_again(engine: Engine) -> None:
    engine.settle(stack(Group(name="job", job=True, command=("true",))))
    plan = engine.plan(stack(Group(name="job", job=True, command=("true",), memory=1 << 26)))
    assert ops(plan) == [("update", "container/job-1/job")]
    plan = engine.plan(stack(Group(name="job", job=True, command=("true", "again"))))
    assert ops(plan) == [("update", "container/job-1/job"), ("start", "container/job-1/job")]


def test_force_restarts_what_runs_and_runs_what_is_done(engine: Engine) -> None:
    wish = stack(Group(name="web"), Group(name="job", job=True, command=("true",)))
    engine.settle(wish)
    plan = engine.plan(wish, Policy(force=frozenset({container("web"), container("job")})))
    assert verbs(plan) == {container("web"): Verb.RESTART, container("job"): Verb.START}


def test_a_forced_start_forgives_what_went_wrong_before(engine: Engine) -> None:
    wish = stack(Group(name="web", command=("sh", "-c", "exit 1")))
    plan = engine.settle(wish, passes=200)
    assert "gave up" in plan.failures[container("web")]
    forced = engine.plan(wish, Policy(force=frozenset({container("web")})))
    assert not forced.failures and ops(forced) == [(op, str(container("web"))) for op in ("update", "start")]
    engine.run(forced)
    again = engine.plan(wish)
    assert not again.failures and change(again, container("web")).not_before is None


def test_what_is_held_is_not_tried_and_holds_its_dependents(engine: Engine) -> None:
    wish = stack(Group(name="db"), Group(name="web", needs={"db": Until.STARTED}))
    plan = engine.plan(wish, Policy(held={container("db"): "no such file"}))
    assert plan.failures == {container("db"): "no such file"}
    assert not {container("db"), container("web")} & {step.ref for step in plan.steps}
    assert change(plan, container("web")).waits


def test_back_off_is_a_change_without_steps(engine: Engine) -> None:
    wish = stack(Group(name="web"))
    engine.settle(wish)
    for _ in range(3):
        engine.fake.exit(container("web"), 1)
        engine.now += 60 * 0
        engine.run(engine.plan(wish)) if engine.plan(wish).steps else None
        if engine.fake.thing(container("web")).phase is not Phase.RUNNING:
            break
    plan = engine.plan(wish)
    assert not plan.steps and plan.changes[0].not_before == engine.now + 1.0
    engine.now += 1.0
    assert ops(engine.plan(wish)) == [("update", "service/web"), ("start", "container/web-1/web")]


def test_restart_never_stays_and_complains_only_of_failure(engine: Engine) -> None:
    never = {"restart": RestartPolicy.NEVER}
    bad = stack(
        Group(name="a", more=never, command=("false",)), Group(name="b", more=never, command=("true",))
    )
    plan = engine.settle(bad)
    assert plan.empty and plan.failures == {container("a"): "exit 1, restart: never"}


def test_recorded_needs_that_run_in_a_circle_still_come_down(engine: Engine) -> None:
    engine.settle(stack(Group(name="a"), Group(name="b", needs={"a": Until.STARTED})))
    from orchestrator.model.desired import Need

    thing = engine.fake.thing(container("a"))
    thing.needs = (*thing.needs, Need(container("b"), Until.STARTED))
    engine.settle(None)
    assert not engine.fake.things


def test_the_stacks_budget_changes_live(engine: Engine) -> None:
    engine.settle(stack(Group(name="web"), memory=1 << 30))
    plan = engine.plan(stack(Group(name="web"), memory=1 << 31))
    assert ops(plan) == [("update", str(BUDGET))]
    assert plan.steps[0].spec is not None and plan.steps[0].spec.limits == Limits(memory=1 << 31)  # type: ignore[union-attr]


def test_a_rootfs_in_use_stays_until_its_last_user_could_be_replaced(engine: Engine) -> None:
    from orchestrator.model.desired import HostRoot, Need, RootfsSpec

    needs = {"db": Until.HEALTHY}
    engine.settle(stack(Group(name="db", probed=True), Group(name="web", needs=needs)))
    other = Ref(Kind.ROOTFS, "other")
    wish = without(stack(Group(name="db", probed=True), Group(name="web", needs=needs)), ROOTFS)
    resources = {**wish.resources, other: RootfsSpec(source=HostRoot())}
    for ref in (container("db"), container("web")):
        resources[ref] = replace(resources[ref], rootfs="other")  # type: ignore[call-arg]
    moved = {
        ref: tuple(Need(other, need.until, True) if need.ref == ROOTFS else need for need in needs)
        for ref, needs in wish.needs.items()
    }
    wish = replace(wish, resources=resources, needs={**moved, other: ()})
    first = engine.plan(wish)
    assert (Op.DELETE, ROOTFS) not in {(step.op, step.ref) for step in first.steps}
    engine.run(first)
    assert engine.fake.thing(container("web")).phase is Phase.RUNNING
    assert engine.settle(wish).empty
    assert ROOTFS not in engine.ids()


def test_mounts_taken_away_are_a_restart(engine: Engine) -> None:
    mounts = (VolumeMount(volume="data", target="/data"), VolumeMount(volume="data", target="/more"))
    engine.settle(stack(Group(name="db", volume="data", more={"mounts": mounts})))
    plan = engine.plan(stack(Group(name="db", volume="data")))
    assert verbs(plan) == {container("db"): Verb.RESTART}


def test_names_of_others_are_not_ours(engine: Engine) -> None:
    assert engine.plan(None).empty
    assert engine.plan(stack()).steps[0].ref in (BUDGET, ROOTFS)
    assert not engine.plan(stack()).failures
    assert service("web") not in verbs(engine.plan(stack())) and network("x") not in verbs(
        engine.plan(stack())
    )


@pytest.mark.parametrize(
    "after", [stack(Group(name="web", replicas=1)), None], ids=["scaled down", "deleted"]
)
def test_a_service_lets_go_of_a_container_before_it_stops(after: Stack | None) -> None:
    engine = Engine()
    engine.settle(stack(Group(name="web", replicas=2)))
    steps = engine.plan(after).steps
    numbers = {(step.op, str(step.ref)): step.number for step in steps}
    let_go = numbers[Op.UPDATE if after else Op.DELETE, "service/web"]
    stop = next(step for step in steps if (step.op, str(step.ref)) == (Op.STOP, "container/web-2/web"))
    assert let_go in stop.after or any(let_go in steps[other - 1].after for other in stop.after)
