"""A stack's graph for people and programs: text tree, dot, mermaid, JSON.

In: a Stack. Out: text, or a JSON document. Replicas, groups' inner wiring and the stack's budget are folded into the names
that users wrote: containers, groups (`web x3`), services' ports aside, with rootfs, networks and volumes around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.graph.dependency import by_kind, user_name
from orchestrator.model.desired import GroupSpec, Stack, Until
from orchestrator.model.ids import Kind, Ref


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """`kind`: container, rootfs, network or volume; `count` instances of it."""

    kind: str
    name: str
    count: int = 1

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def label(self) -> str:
        return f"{self.name} x{self.count}" if self.count > 1 else self.name


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`source` needs `target` until `condition`; `uses` for rootfs, networks and volumes."""

    source: str
    target: str
    condition: str


@dataclass(frozen=True, slots=True)
class View:
    """The folded graph, in creation order."""

    stack: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def view(stack: Stack) -> View:
    """Folds the instances of a group into one node and their needs into one edge each."""
    keys: dict[Ref, str | None] = {ref: _key(stack, ref) for ref in stack.resources}
    counts: dict[str, int] = {}
    edges: dict[Edge, None] = {}
    for ref in by_kind(stack.resources):
        key = keys[ref]
        if key is None:
            continue
        counts[key] = counts.get(key, 0) + 1
        for target, condition in _needs(stack, ref):
            other = keys.get(target)
            if other and other != key:
                edges[Edge(key, other, condition)] = None
    nodes = tuple(Node(key.partition("/")[0], key.partition("/")[2], count) for key, count in counts.items())
    return View(stack.name, nodes, tuple(edges))


def _key(stack: Stack, ref: Ref) -> str | None:
    if ref.kind in (Kind.STACK, Kind.GROUP, Kind.SERVICE):
        return None
    if ref.kind is not Kind.CONTAINER:
        return str(ref)
    whole, inner = user_name(stack, ref), user_name(stack, ref, inner=True)
    return f"container/{whole if inner == f'{whole}/{whole}' else inner}"


def _needs(stack: Stack, ref: Ref) -> list[tuple[Ref, str]]:
    """What a user would say that it needs: its depends_on, rootfs and volumes, and its group's networks."""
    found = []
    for need in stack.needs.get(ref, ()):
        if need.ref.kind is Kind.GROUP and need.structural:
            spec = stack.resources.get(need.ref)
            networks = spec.networks if isinstance(spec, GroupSpec) else ()
            found += [(Ref(Kind.NETWORK, name), "uses") for name in networks]
        else:
            found.append((need.ref, "uses" if need.structural else str(need.until)))
    return found


def text(stack: Stack) -> str:
    """A tree, roots (what nobody needs) first; what was drawn already is marked `(above)`."""
    graph = view(stack)
    labels = {node.key: node for node in graph.nodes}
    children: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        children.setdefault(edge.source, []).append(edge)
    needed = {edge.target for edge in graph.edges}
    roots = [node.key for node in graph.nodes if node.key not in needed]
    lines, seen = [graph.stack], set[str]()
    todo = [("", Edge("", root, ""), root == roots[-1]) for root in reversed(roots)]
    while todo:
        margin, edge, last = todo.pop()
        below = children.get(edge.target, [])
        again = bool(below) and edge.target in seen
        lines.append(f"{margin}{'└─ ' if last else '├─ '}{_line(labels[edge.target], edge, again)}")
        if not again:
            seen.add(edge.target)
            inner = margin + ("   " if last else "│  ")
            todo += [(inner, each, each == below[-1]) for each in reversed(below)]
    return "\n".join(lines) + "\n"


def _line(node: Node, edge: Edge, again: bool) -> str:
    what = node.label if node.kind == "container" else f"{node.kind} {node.label}"
    condition = f" ({edge.condition})" if edge.condition not in ("", "uses") else ""
    return f"{what}{condition}{' (above)' if again else ''}"


_SHAPES = {"container": "box", "rootfs": "folder", "network": "ellipse", "volume": "cylinder"}


def dot(stack: Stack) -> str:
    """Graphviz (https://graphviz.org/doc/info/lang.html)."""
    graph = view(stack)
    out = [f"digraph {_quoted(graph.stack)} {{", "  rankdir=LR;"]
    out += [f"  {_quoted(n.key)} [label={_quoted(n.label)}, shape={_SHAPES[n.kind]}];" for n in graph.nodes]
    for edge in graph.edges:
        style = "style=dashed" if edge.condition == "uses" else f"label={_quoted(edge.condition)}"
        out.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [{style}];")
    return "\n".join([*out, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_BRACKETS = {"container": ("[", "]"), "rootfs": ("[/", "/]"), "network": ("([", "])"), "volume": ("[(", ")]")}


def mermaid(stack: Stack) -> str:
    """Mermaid flowchart (https://mermaid.js.org/syntax/flowchart.html); node ids are n0, n1, ..."""
    graph = view(stack)
    ids = {node.key: f"n{place}" for place, node in enumerate(graph.nodes)}
    out = ["flowchart LR"]
    for node in graph.nodes:
        left, right = _BRACKETS[node.kind]
        label = node.label.replace('"', "#quot;")
        out.append(f'  {ids[node.key]}{left}"{label}"{right}')
    for edge in graph.edges:
        arrow = "-.->" if edge.condition == "uses" else f"-->|{edge.condition}|"
        out.append(f"  {ids[edge.source]} {arrow} {ids[edge.target]}")
    return "\n".join(out) + "\n"


def document(stack: Stack) -> dict[str, Any]:
    """{"version": 1, "stack", "nodes": [{"id", "kind", "name", "count"}], "edges": [{"from", "to", "until"}]}."""
    graph = view(stack)
    conditions = {str(until) for until in Until}
    return {
        "version": 1,
        "stack": graph.stack,
        "nodes": [{"id": n.key, "kind": n.kind, "name": n.name, "count": n.count} for n in graph.nodes],
        "edges": [
            {
                "from": e.source,
                "to": e.target,
                "until": e.condition if e.condition in conditions else "created",
            }
            for e in graph.edges
        ],
    }
