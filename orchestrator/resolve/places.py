"""Where each field of a resource was written.

In: the nodes of a manifest. Out: (field, span) pairs in the model's dotted names: "" for the thing itself, `limits.memory`,
`env.NAME`, `command`. Fields that nobody wrote have no place.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.diagnostics import Span
from orchestrator.manifest.envfile import EnvEntry
from orchestrator.manifest.source import Node

Fields = list[tuple[str, Span]]

# which keys of a group (or of a group of one) belong to which of its resources
GROUP = frozenset({"", "networks", "hostname", "dns", "limits", "depends_on"})
SINGLE_GROUP = GROUP - {"limits"}
SERVICE = frozenset({"", "networks", "publish", "instances"})
_NOT_A_CONTAINERS = frozenset({"networks", "hostname", "dns", "publish", "instances"})

_RENAMED = {"entrypoint": "command", "replicas": "instances"}
_NESTED = frozenset({"limits", "env", "health", "stop", "logs", "job", "depends_on"})
_PROBES = frozenset({"command", "http", "tcp"})


def fields_of(key: Node | None, node: Node | None) -> Fields:
    """The thing itself and every key below it, one level deep where the model has dotted names."""
    found: dict[str, Span] = {"": key.span} if key is not None else {}
    for name, (key_node, value) in _entries(node):
        field = _RENAMED.get(name, name)
        if name == "entrypoint" and "command" in found:
            continue
        found[field] = key_node.span
        if name in _NESTED:
            found.update(_below(name, value))
    return list(found.items())


def only(fields: Fields, tops: frozenset[str]) -> Fields:
    """Those whose first part is one of `tops`."""
    return [each for each in fields if each[0].partition(".")[0] in tops]


def container_only(fields: Fields) -> Fields:
    """Those of a group of one that are its container's."""
    return [each for each in fields if each[0] not in _NOT_A_CONTAINERS]


def node_at(root: Node, *path: str) -> tuple[Node | None, Node | None]:
    """The key node and value node at a path of keys; None where nothing was written."""
    key, node = None, root
    for part in path:
        entry = (node.entries or {}).get(part)
        if entry is None:
            return None, None
        key, node = entry
    return key, node


def env_file_fields(entries: Iterator[EnvEntry], known: Fields) -> Fields:
    """Places of variables that come from env files and are not written in `env`."""
    there = {name for name, _ in known}
    latest = {f"env.{each.name}": each.span for each in entries}
    return [(name, span) for name, span in latest.items() if name not in there]


def _entries(node: Node | None) -> Iterator[tuple[str, tuple[Node, Node]]]:
    if node is not None and node.entries is not None:
        yield from node.entries.items()


def _below(name: str, value: Node) -> Iterator[tuple[str, Span]]:
    for each, (key, _) in _entries(value):
        field = "probe" if name == "health" and each in _PROBES else each
        yield f"{name}.{field}", key.span
    for item in value.items or ():  # depends_on as a list
        if isinstance(item.data, str):
            yield f"{name}.{item.data}", item.span
