"""Which instances traffic goes to, by health, phase and the words of an operator; and what the plan says of it."""

from __future__ import annotations

import pytest

from orchestrator.model.desired import RestartPolicy, ServiceSpec, Stack
from orchestrator.model.observed import Health
from orchestrator.plan.changes import Change, Plan, Policy, Verb
from tests.properties.engine import Engine
from tests.properties.stacks import Group, container, service, stack

PROBED = stack(Group(name="web", replicas=2, probed=True))
PLAIN = stack(Group(name="web", replicas=2))


def settled(wish: Stack) -> Engine:
    engine = Engine()
    assert engine.settle(wish).empty
    return engine


def ready(plan: Plan) -> tuple[str, ...] | None:
    """What the plan gives the service; None where it leaves it as it is."""
    found = next((step.spec for step in plan.steps if step.ref == service("web") and step.spec), None)
    return found.ready if isinstance(found, ServiceSpec) else None


def front(plan: Plan) -> Change:
    return next(each for each in plan.changes if each.ref == service("web"))


def test_without_health_a_service_is_whole_at_once_and_needs_no_second_step() -> None:
    engine = Engine()
    plan = engine.plan(PLAIN)
    assert ready(plan) == ("web-1", "web-2")
    engine.run(plan)
    assert engine.plan(PLAIN).empty


def test_with_health_nobody_is_in_before_the_first_good_probe() -> None:
    engine = Engine()
    plan = engine.plan(PROBED)
    assert ready(plan) == ()
    engine.run(plan)
    engine.fake.set_health(container("web", 2), Health.HEALTHY)
    plan = engine.plan(PROBED)
    assert ready(plan) == ("web-2",)
    assert (front(plan).verb, front(plan).reason) == (Verb.UPDATE, "web-2 is healthy")


@pytest.mark.parametrize(
    ("health", "reason"), [(Health.UNHEALTHY, "web-2 is unhealthy"), (Health.STARTING, "web-2 is starting")]
)
def test_an_instance_that_is_not_healthy_is_out(health: Health, reason: str) -> None:
    engine = settled(PROBED)
    engine.fake.set_health(container("web", 2), health)
    plan = engine.plan(PROBED)
    assert ready(plan) == ("web-1",)
    assert front(plan).reason == reason


def test_health_that_nobody_knows_leaves_the_map_as_it_was() -> None:
    engine = settled(PROBED)
    engine.fake.set_health(container("web", 2), Health.UNHEALTHY)
    engine.once(PROBED)
    for number in (1, 2):
        engine.fake.set_health(container("web", number), Health.UNKNOWN)
    assert engine.plan(PROBED).empty


def test_health_that_is_asked_for_only_now_empties_no_map() -> None:
    engine = settled(PLAIN)
    engine.once(PROBED)
    applied = engine.fake.thing(service("web")).spec
    assert isinstance(applied, ServiceSpec) and applied.ready == ("web-1", "web-2")


def test_one_that_ended_is_in_while_it_restarts_at_once_and_out_while_it_waits() -> None:
    engine = settled(PLAIN)
    engine.fake.exit(container("web", 2), 1)
    assert ready(engine.plan(PLAIN)) is None
    engine.once(PLAIN)
    engine.fake.exit(container("web", 2), 1)
    plan = engine.plan(PLAIN)
    assert (ready(plan), front(plan).reason) == (("web-1",), "web-2 is not running")
    engine.run(plan)
    engine.now += 1
    plan = engine.plan(PLAIN)
    assert (ready(plan), front(plan).reason) == (("web-1", "web-2"), "web-2 runs")


def test_one_that_stays_down_is_out() -> None:
    wish = stack(Group(name="web", replicas=2, more={"restart": RestartPolicy.NEVER}))
    engine = settled(wish)
    engine.fake.exit(container("web", 1), 0)
    assert ready(engine.plan(wish)) == ("web-2",)


@pytest.mark.parametrize("wish", [PLAIN, PROBED])
def test_what_an_operator_holds_is_out_whatever_its_health(wish: Stack) -> None:
    plan = settled(wish).plan(wish, Policy(stopped={container("web", 1): "by root"}))
    assert ready(plan) == ("web-2",)
    assert front(plan).reason == "web-1 is stopped"


def test_a_map_that_differs_from_what_was_asked_for_is_mended() -> None:
    engine = settled(PROBED)
    engine.fake.thing(service("web")).actual = {"ready": ["web-2"]}
    plan = engine.plan(PROBED)
    assert (ready(plan), front(plan).reason) == (("web-1", "web-2"), "web-1 is healthy")


def test_other_edits_are_told_by_their_own_names() -> None:
    plan = settled(PLAIN).plan(stack(Group(name="web", replicas=3)))
    assert ready(plan) == ("web-1", "web-2", "web-3")
    assert front(plan).reason == "instances changed"
