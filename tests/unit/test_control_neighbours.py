"""What stacks have of each other: external networks and volumes, on the fake's world."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from orchestrator.control import neighbours
from orchestrator.control.outcome import Again, judge
from orchestrator.drivers import fake
from orchestrator.errors import UsageError
from orchestrator.model.desired import NetworkSpec, Spec, Stack, VolumeSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.plan.changes import Policy, Verb
from tests.properties.engine import Engine
from tests.properties.stacks import Group, container, group, network, stack, volume

EDGE, FILES = network("infra/edge"), volume("infra/files")


def other(driver: fake.FakeDriver, name: str, *refs: Ref, start: bool = True) -> None:
    for ref in refs:
        spec: Spec = NetworkSpec() if ref.kind is Kind.NETWORK else VolumeSpec()
        target = Incarnation(name, ref, f"{name}-{ref.name}")
        driver.create(target, spec, ())
        if start:
            driver.start(target)


def wish(name: str, *refs: Ref) -> Stack:
    specs: Mapping[Ref, Spec] = {
        ref: NetworkSpec() if ref.kind is Kind.NETWORK else VolumeSpec() for ref in refs
    }
    return Stack(name=name, resources=specs, needs={})


def test_only_networks_and_volumes_have_another_owner() -> None:
    assert (EDGE.owner, FILES.owner, network("edge").owner, container("web").owner) == (
        "infra",
        "infra",
        None,
        None,
    )


def test_what_waits_for_another_stack_is_blocked_goes_on_when_it_comes_and_runs_on_when_it_goes() -> None:
    engine = Engine()
    drivers = fake.drivers(engine.fake)
    asked = stack(Group(name="web", networks=(EDGE.name,), volume=FILES.name), Group(name="db"))

    def aware() -> Policy:
        return neighbours.aware(Policy(), asked.name, asked, engine.observed(), drivers)

    other(engine.fake, "infra", network("edge"), volume("files"), start=False)
    for _ in range(2):  # in the first pass and in those after it
        blocked = engine.plan(asked, aware())
        waits = {each.ref: [need.ref for need in each.waits] for each in blocked.changes if each.waits}
        assert {EDGE: [EDGE], FILES: [FILES], group("web"): [EDGE]}.items() <= waits.items()
        engine.run(blocked)
    assert not engine.plan(asked, aware()).steps and container("db") in engine.pids()
    outcome = judge(asked, engine.plan(asked, aware()), engine.observed(), engine.now + 1)
    assert isinstance(outcome, Again) and outcome.after
    assert outcome.pending[group("web")] == "waits until network/infra/edge is there"

    other(engine.fake, "infra", network("edge"), volume("files"))
    engine.settle(asked, aware())
    before = engine.pids()
    assert before[container("web")] and engine.plan(asked, aware()).empty
    assert FILES in {each.ref for each in engine.plan(None).changes}, "nobody's data is in it"
    engine.fake.stop(Incarnation("infra", network("edge"), "infra-edge"))
    assert engine.plan(asked, aware()).empty
    assert engine.pids() == before


def test_a_group_that_runs_joins_another_stacks_network_once_it_is_there() -> None:
    engine = Engine()
    engine.settle(stack(Group(name="web")))
    before = engine.pids()[container("web")]
    asked = stack(Group(name="web", networks=("default", EDGE.name)))
    blocked = engine.plan(asked, Policy(absent=frozenset({EDGE})))
    assert not [step for step in blocked.steps if step.ref in (EDGE, group("web"))]
    engine.run(blocked)
    assert engine.pids()[container("web")] == before
    assert {each.ref: each.verb for each in engine.plan(asked).changes}[group("web")] is Verb.UPDATE
    engine.settle(asked)
    assert engine.pids()[container("web")] == before
    engine.fake.thing(group("web")).actual = {"networks": ["default"]}
    mended = {each.ref: each for each in engine.plan(asked).changes}[group("web")]
    assert (mended.verb, mended.reason) == (Verb.UPDATE, "networks changed behind our back")
    assert not engine.plan(asked, Policy(absent=frozenset({EDGE}))).steps, (
        "it is not there to be joined again"
    )


def test_what_others_use_is_not_deleted_and_all_else_is() -> None:
    engine = Engine()
    asked = stack(Group(name="web", volume="data"))
    engine.settle(asked)
    drivers = fake.drivers(engine.fake)
    other(engine.fake, "a", network("shop/default"))
    other(engine.fake, "b", network("shop/default"), volume("shop/data"))

    def aware(*, prune_data: bool) -> Policy:
        policy = Policy(prune_data=prune_data)
        return neighbours.aware(policy, "shop", None, engine.observed(), drivers)

    assert set(aware(prune_data=False).borrowed) == {network("default")}
    made = engine.plan(None, aware(prune_data=True))
    assert made.failures == {
        network("default"): "is not deleted: stacks a, b use it",
        volume("data"): "is not deleted: stack b uses it",
    }
    engine.run(made)
    left = [target.ref for target in engine.fake.things if target.stack == "shop"]
    assert sorted(left) == [network("default"), volume("data")]


def test_a_command_may_take_things_away_together_with_their_users() -> None:
    lent = {network("edge"): ("shop",)}
    with pytest.raises(UsageError, match="network/edge of stack infra cannot be deleted: stack shop uses it"):
        neighbours.guard("infra", lent, {"infra": None})
    with pytest.raises(UsageError):
        neighbours.guard("infra", lent, {"shop": wish("shop", EDGE)})
    neighbours.guard("infra", lent, {"infra": None, "shop": None})
    neighbours.guard("infra", lent, {"shop": wish("shop")})


def test_owners_come_before_those_who_use_their_things() -> None:
    found = neighbours.owners_first([wish("a", EDGE), wish("b"), wish("infra", network("base/x"))])
    assert [each.name for each in found] == ["b", "infra", "a"]
