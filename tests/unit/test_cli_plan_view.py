"""A plan as people and programs read it."""

from __future__ import annotations

import json

import pytest

from orchestrator.cli.commands.plan import planned
from orchestrator.cli.views import plan as view
from orchestrator.cli.views.terminal import Color, Terminal
from orchestrator.control.prune import guard
from orchestrator.diagnostics import Span
from orchestrator.errors import UsageError
from orchestrator.model.desired import (
    ContainerSpec,
    Need,
    Publish,
    ServiceSpec,
    Spec,
    Stack,
    Until,
    Update,
)
from orchestrator.model.ids import Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.plan.changes import Change, FieldChange, Plan, Verb

WEB, DB, FRONT = map(Ref.parse, ("container/web-1/server", "container/db-1/db", "network/front"))
SERVICE = Ref.parse("service/web")
PLACE = Span(file="shop.yaml", line=14, column=7)


def stack(**services: ServiceSpec) -> Stack:
    spec = ContainerSpec(rootfs="base", command=("true",))
    resources: dict[Ref, Spec] = {WEB: spec, DB: spec}
    resources |= {Ref.parse(f"service/{name}"): each for name, each in services.items()}
    return Stack(name="shop", resources=resources, needs={}, places={(SERVICE, "publish"): PLACE})


def shown(plan: Plan, wish: Stack, capsys: pytest.CaptureFixture[str]) -> list[str]:
    view.show(Terminal(color=Color.NEVER), [planned(wish, plan)])
    return capsys.readouterr().out.splitlines()


def test_live_change_shows_old_and_new_value_and_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    field = FieldChange(name="limits.memory", old=64 << 20, new=128 << 20, update=Update.LIVE, place=PLACE)
    change = Change(ref=DB, verb=Verb.UPDATE, reason="limits.memory changed", id="a" * 12, fields=(field,))
    assert shown(Plan(stack="shop", changes=(change,)), stack(), capsys) == [
        "~   container/db-1/db  update   limits.memory changed",
        "      limits.memory  64MiB -> 128MiB   shop.yaml:14",
        "",
        "Plan: 0 to create, 1 to update, 0 to delete.",
    ]


def test_cascade_and_waits_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    changes = (
        Change(ref=FRONT, verb=Verb.REPLACE, reason="subnet changed", id="b" * 12),
        Change(ref=WEB, verb=Verb.REPLACE, reason="network/front is replaced", id="c" * 12, cause=FRONT),
        Change(ref=DB, verb=Verb.CREATE, reason="not there yet", waits=(Need(WEB, Until.HEALTHY),)),
    )
    lines = shown(Plan(stack="shop", changes=changes), stack(), capsys)
    assert lines[1] == "-/+ container/web-1/server  replace  because network/front is replaced"
    assert lines[3] == "      waits until container/web-1/server is healthy"
    assert lines[-1] == "Plan: 1 to create, 0 to update, 2 to replace, 0 to delete."


def test_port_open_to_other_machines_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    service = ServiceSpec(
        publish=(
            Publish(address="0.0.0.0", host_port=80, container_port=80),
            Publish(host_port=81, container_port=81),
        )
    )
    plan = Plan(stack="shop", changes=(Change(ref=SERVICE, verb=Verb.CREATE, reason="not there yet"),))
    exposed = [line for line in shown(plan, stack(web=service), capsys) if line.startswith("!")]
    assert exposed == ["!   service/web  other machines reach it at 0.0.0.0:80/tcp   shop.yaml:14"]


def test_nothing_to_do_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(Plan(stack="shop"), stack(), capsys) == [
        "No changes. Stack shop is as its manifest says (2 containers)."
    ]


def test_document_is_versioned_and_plain_data() -> None:
    field = FieldChange(name="limits.memory", old=1, new=None, update=Update.LIVE)
    change = Change(ref=DB, verb=Verb.UPDATE, reason="limits.memory changed", id="a" * 12, fields=(field,))
    found = json.loads(json.dumps(view.document([planned(stack(), Plan(stack="shop", changes=(change,)))])))
    assert found["version"] == 1
    assert found["plans"][0]["changes"][0]["fields"] == [
        {"name": "limits.memory", "old": 1, "new": None, "update": "live", "place": None}
    ]
    assert found["plans"][0]["summary"]["update"] == 1


def running(name: str) -> Observation:
    return Observation(ref=Ref.parse(f"container/{name}"), id="0" * 12, phase=Phase.RUNNING, applied={})


def test_losing_most_containers_needs_a_word() -> None:
    with pytest.raises(UsageError) as caught:
        guard(stack(), [running("db-1/db"), running("old-1/old"), running("older-1/older")])
    assert "2 of the 3 running containers" in caught.value.message
    assert "container/old-1/old" in caught.value.message


def test_losing_half_the_containers_needs_none() -> None:
    guard(stack(), [running("db-1/db"), running("old-1/old")])


def test_fewer_replicas_need_no_word() -> None:
    guard(stack(), [running(f"web-{number}/server") for number in range(1, 11)])
