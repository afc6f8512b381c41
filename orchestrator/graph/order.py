"""Stable topological order of anything, in plain Python: the hot path of every plan, hence without networkx.

In: nodes in a preferred order and what each comes after. Out: layers; a layer's nodes do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

N = TypeVar("N")


class CycleError(ValueError):
    """`nodes` are those that lie on a cycle or behind one."""

    def __init__(self, nodes: Sequence[object]) -> None:
        super().__init__(f"cycle among {', '.join(map(str, nodes[:8]))}")
        self.nodes = tuple(nodes)


def layers(nodes: Sequence[N], after: Mapping[N, Iterable[N]]) -> list[list[N]]:
    """Each node in the first layer that follows all it comes `after`; unknown names there are ignored.

    Within a layer the order of `nodes` holds. O(nodes + edges). Raises CycleError.
    """
    rank = {node: place for place, node in enumerate(nodes)}
    missing = dict.fromkeys(rank, 0)
    followers: dict[N, list[N]] = {node: [] for node in rank}
    for node in rank:
        for other in set(after.get(node, ())):
            if other in rank:
                followers[other].append(node)
                missing[node] += 1
    layer = [node for node in rank if not missing[node]]
    found: list[list[N]] = []
    while layer:
        found.append(layer)
        following: list[N] = []
        for node in layer:
            for other in followers[node]:
                missing[other] -= 1
                if not missing[other]:
                    following.append(other)
        layer = sorted(following, key=rank.__getitem__)
    if sum(map(len, found)) < len(rank):
        raise CycleError([node for node in rank if missing[node]])
    return found


def order(nodes: Sequence[N], after: Mapping[N, Iterable[N]]) -> list[N]:
    """The layers one behind the other. Raises CycleError."""
    return [node for layer in layers(nodes, after) for node in layer]


def order_anyway(nodes: Sequence[N], after: Mapping[N, Iterable[N]]) -> list[N]:
    """Like `order`, but a cycle is cut at its first node: for recorded needs, which no one has checked for cycles."""
    rest, relaxed = list(nodes), dict(after)
    while True:
        try:
            return order(rest, relaxed)
        except CycleError as error:
            stuck = set(error.nodes)
            first = next(node for node in rest if node in stuck)
            relaxed[first] = [other for other in relaxed.get(first, ()) if other not in stuck]
