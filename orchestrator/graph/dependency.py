"""The graph of a stack's needs: an edge `web -> db` means web needs db.

In: a Stack. Out: layers in creation order, dependents, and cycles as diagnostics with the place of every edge. networkx
is loaded only when it is asked for: most commands never need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.graph import order
from orchestrator.model.desired import GroupSpec, Stack
from orchestrator.model.ids import Kind, Ref

if TYPE_CHECKING:
    import networkx as nx

CYCLE = "ORC301"


def build(stack: Stack) -> nx.DiGraph[Ref]:
    """Nodes: every ref, in creation order of kinds. Edges: `X -> Y`, X needs Y, with the Need as `need`."""
    import networkx as nx

    graph: nx.DiGraph[Ref] = nx.DiGraph()
    graph.add_nodes_from(by_kind(stack.resources))
    for ref, needs in stack.needs.items():
        for need in needs:
            graph.add_edge(ref, need.ref, need=need)
    return graph


def by_kind(refs: Iterable[Ref]) -> list[Ref]:
    """In the order of `Kind`, and as given within a kind."""
    rank = {kind: place for place, kind in enumerate(Kind)}
    return sorted(refs, key=lambda ref: rank[ref.kind])


def layers(stack: Stack) -> list[list[Ref]]:
    """What may come up together, needs first. Raises order.CycleError."""
    after = {ref: [need.ref for need in needs] for ref, needs in stack.needs.items()}
    return order.layers(by_kind(stack.resources), after)


def dependents(stack: Stack, ref: Ref) -> frozenset[Ref]:
    """All that need `ref`, directly or through others."""
    import networkx as nx

    graph = build(stack)
    return frozenset(nx.ancestors(graph, ref)) if ref in graph else frozenset()


def cycles(stack: Stack) -> Sequence[Diagnostic]:
    """One diagnostic (ORC301) a knot of needs, with its shortest trail in the user's names; () when there is none."""
    try:
        layers(stack)
    except order.CycleError:
        pass
    else:
        return ()
    import networkx as nx

    graph = build(stack)
    knots = [knot for knot in nx.strongly_connected_components(graph) if len(knot) > 1]
    knots += [{ref} for ref in nx.nodes_with_selfloops(graph) if not any(ref in knot for knot in knots)]
    rank = {ref: place for place, ref in enumerate(graph)}
    trails = [_trail(graph, min(knot, key=rank.__getitem__), knot) for knot in knots]
    found = {each.message: each for each in (_diagnostic(stack, trail) for trail in trails)}
    return tuple(found[message] for message in sorted(found))


def _trail(graph: nx.DiGraph[Ref], start: Ref, knot: set[Ref]) -> list[Ref]:
    """The shortest way from `start` back to itself within the knot: [start, ..., start]."""
    import networkx as nx

    inner = graph.subgraph(knot)
    ways = [
        [start, *nx.shortest_path(inner, step, start)] for step in graph.successors(start) if step in knot
    ]
    return min(ways, key=len)


def _diagnostic(stack: Stack, trail: list[Ref]) -> Diagnostic:
    names = collapse([user_name(stack, ref) for ref in trail])
    if len(names) == 1:  # all in one group: name its containers; a name that needs itself stands twice
        names = collapse([user_name(stack, ref, inner=len(trail) > 2) for ref in trail])
        names = names * 2 if len(names) == 1 else names
    related: dict[Span, str] = {}
    for ref, target in pairwise(trail):
        span = place_of_need(stack, ref, target)
        if span:
            related.setdefault(span, f"{user_name(stack, ref)} needs {user_name(stack, target)}")
    first = next(iter(related), None)
    return Diagnostic(
        code=CYCLE,
        message=f"dependency cycle: {' -> '.join(names)}",
        span=first,
        hint=related.pop(first) if first else "take one of these out of depends_on",
        related=tuple(related.items()),
    )


def collapse(names: list[str]) -> list[str]:
    """Without repeats that stand next to each other."""
    return [name for place, name in enumerate(names) if place == 0 or name != names[place - 1]]


def user_name(stack: Stack, ref: Ref, *, inner: bool = False) -> str:
    """The name that the user wrote: a group or a top-level container; `inner`: `group/container`."""
    if ref.kind not in (Kind.GROUP, Kind.CONTAINER):
        return ref.name
    instance, _, container = ref.name.partition("/")
    spec = stack.resources.get(Ref(Kind.GROUP, instance))
    name = spec.service if isinstance(spec, GroupSpec) else instance
    return f"{name}/{container}" if inner and container else name


def place_of_need(stack: Stack, ref: Ref, target: Ref) -> Span | None:
    """Where the user wrote that `ref` needs `target`: the nearest place that the stack knows."""
    instance, _, own = ref.name.partition("/")
    names = [user_name(stack, target), target.name.rpartition("/")[2], target.name]
    fields = [*(f"depends_on.{name}" for name in names), "depends_on", ""]
    holders = [ref, Ref(Kind.GROUP, instance)] if own else [ref]
    for field in fields:
        for holder in holders:
            span = stack.places.get((holder, field))
            if span:
                return span
    return None
