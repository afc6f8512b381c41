"""Order is stable, cycles are told in the user's names with places, and every rendering shows the same edges."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings

from orchestrator.diagnostics import Span
from orchestrator.graph import dependency, order, render
from orchestrator.model.desired import Need, Stack, Until
from orchestrator.model.ids import Kind, Ref
from tests.properties.stacks import Group, container, group, network, stack, stacks


def shop() -> Stack:
    return stack(
        Group(name="db", volume="data", probed=True),
        Group(name="migrate", job=True, needs={"db": Until.HEALTHY}),
        Group(name="web", replicas=3, needs={"db": Until.HEALTHY, "migrate": Until.COMPLETED}),
    )


def with_need(whole: Stack, ref, target, until=Until.STARTED) -> Stack:  # type: ignore[no-untyped-def]
    return replace(whole, needs={**whole.needs, ref: (*whole.needs[ref], Need(target, until))})


@settings(max_examples=30, deadline=None)
@given(stacks())
def test_every_need_lies_in_an_earlier_layer(whole: Stack) -> None:
    place = {ref: number for number, layer in enumerate(dependency.layers(whole)) for ref in layer}
    assert set(place) == set(whole.resources)
    assert all(place[need.ref] < place[ref] for ref, needs in whole.needs.items() for need in needs)
    assert dependency.cycles(whole) == ()


def test_an_order_that_cannot_be_names_the_knot_and_is_cut_where_asked() -> None:
    after = {"a": ["b"], "b": ["a"], "c": ["a"]}
    with pytest.raises(order.CycleError) as caught:
        order.layers(["x", "a", "b", "c"], after)
    assert caught.value.nodes == ("a", "b", "c")
    assert order.order_anyway(["x", "a", "b", "c"], after) == ["x", "a", "b", "c"]


def test_a_cycle_is_one_trail_in_the_users_names_whatever_the_replicas() -> None:
    whole = shop()
    for number in (1, 2, 3):
        whole = with_need(whole, container("db"), container("web", number))
    places = {
        (container("db"), "depends_on.web"): Span(file="shop.yaml", line=4, column=7),
        (group("web", 1), "depends_on.db"): Span(file="shop.yaml", line=9, column=7),
    }
    (found,) = dependency.cycles(replace(whole, places=places))
    assert found.code == "ORC301"
    assert found.message == "dependency cycle: db -> web -> db"
    assert str(found.span) == "shop.yaml:4:7" and found.hint == "db needs web"
    assert [(str(span), word) for span, word in found.related] == [("shop.yaml:9:7", "web needs db")]


def test_two_knots_are_two_diagnostics_and_a_self_need_is_one() -> None:
    whole = stack(*(Group(name=name) for name in "abcde"))
    for one, other in (("a", "b"), ("b", "a"), ("c", "d"), ("d", "c"), ("e", "e")):
        whole = with_need(whole, container(one), container(other))
    assert [each.message for each in dependency.cycles(whole)] == [
        "dependency cycle: a -> b -> a",
        "dependency cycle: c -> d -> c",
        "dependency cycle: e -> e",
    ]


def test_a_cycle_within_a_group_names_its_containers() -> None:
    whole = stack(Group(name="web"))
    side = Ref(Kind.CONTAINER, "web-1/side")
    resources = {**whole.resources, side: whole.resources[container("web")]}
    whole = replace(whole, resources=resources, needs={**whole.needs, side: ()})
    whole = with_need(with_need(whole, container("web"), side), side, container("web"))
    assert dependency.cycles(whole)[0].message == "dependency cycle: web/web -> web/side -> web/web"


def test_dependents_are_found_through_others() -> None:
    found = dependency.dependents(shop(), container("db"))
    assert found == {container("migrate"), *(container("web", number) for number in (1, 2, 3))}
    assert group("web", 2) in dependency.dependents(shop(), network("default"))


def test_the_text_tree_shows_conditions_and_replicas() -> None:
    assert (
        render.text(shop())
        == """\
shop
└─ web x3
   ├─ network default
   ├─ rootfs base
   ├─ db (healthy)
   │  ├─ network default
   │  ├─ rootfs base
   │  └─ volume data
   └─ migrate (completed)
      ├─ network default
      ├─ rootfs base
      └─ db (healthy) (above)
"""
    )


def test_dot_mermaid_and_json_show_the_same_edges() -> None:
    document = render.document(shop())
    assert document["version"] == 1 and json.dumps(document)
    edges = {(each["from"], each["to"], each["until"]) for each in document["edges"]}
    assert ("container/web", "container/migrate", "completed") in edges
    assert ("container/db", "volume/data", "created") in edges
    assert {"id": "container/web", "kind": "container", "name": "web", "count": 3} in document["nodes"]
    dot, mermaid = render.dot(shop()), render.mermaid(shop())
    assert dot.count(" -> ") == mermaid.count("-->") + mermaid.count("-.->") == len(edges)
    assert '"container/web" -> "container/db" [label="healthy"];' in dot
    assert dot.startswith('digraph "shop" {') and mermaid.startswith("flowchart LR\n")


def test_a_long_chain_is_drawn_and_ordered_in_good_time() -> None:
    names = [f"c{number}" for number in range(1500)]
    whole = stack(
        *(
            Group(name=n, needs={p: Until.STARTED} if p else None)
            for p, n in zip(["", *names], names, strict=False)
        )
    )
    began = time.monotonic()
    assert len(dependency.layers(whole)) > 1500
    assert render.text(whole).count("\n") > 1500
    assert time.monotonic() - began < 5
