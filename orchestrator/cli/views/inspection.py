"""`inspect` as an indented text for people and a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.cli.commands.inspect import Inspection
from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.model import codec
from orchestrator.model.observed import Observation


def show(terminal: Terminal, found: Inspection) -> None:
    data = document(found)
    data.pop("version")
    for line in _lines(data, "", 0):
        terminal.out(line)


def document(found: Inspection) -> dict[str, Any]:
    """Version 1: {"version", "stack", "ref", "spec", "places", "limits", "incarnations": [...]}."""
    return {
        "version": 1,
        "stack": found.stack,
        "ref": str(found.ref),
        "spec": None if found.spec is None else codec.encode(found.spec),
        "places": {field or ".": f"{span.file}:{span.line}" for field, span in sorted(found.places.items())},
        "limits": None if found.limits is None else codec.encode(found.limits),
        "incarnations": [_observation(each) for each in found.observations],
    }


def _observation(each: Observation) -> dict[str, Any]:
    return {
        "id": each.id,
        "phase": each.phase.value,
        "health": each.health.value,
        "pid": each.pid,
        "started": each.started,
        "restarts": each.restarts,
        "addresses": dict(each.addresses),
        "exits": [
            {"started": end.started, "ended": end.ended, "exit": str(end), "stopped": end.stopped}
            for end in each.exits
        ],
        "needs": [{"ref": str(need.ref), "until": need.until.value} for need in each.needs],
        "applied": dict(each.applied),
        "actual": dict(each.actual),
        "damage": [*each.damage, *each.broken],
    }


def _lines(data: Any, name: str, depth: int) -> Iterator[str]:
    """YAML-like, for reading; not a YAML document."""
    margin = "  " * depth
    if isinstance(data, Mapping):
        for key, each in data.items():
            if isinstance(each, Mapping) and each:
                yield f"{margin}{text.printable(key)}:"
                yield from _lines(each, key, depth + 1)
            elif _rows(each):
                yield f"{margin}{text.printable(key)}:"
                for row in each:
                    first, *rest = _lines(row, key, depth + 2)
                    yield f"{margin}  - {first.lstrip()}"
                    yield from rest
            else:
                yield f"{margin}{text.printable(key)}: {_scalar(key, each)}"
    else:
        yield f"{margin}{_scalar(name, data)}"


def _rows(data: Any) -> bool:
    return (
        isinstance(data, Sequence)
        and not isinstance(data, str)
        and any(isinstance(each, Mapping) for each in data)
    )


def _scalar(name: str, data: Any) -> str:
    if data is None:
        return "-"
    if isinstance(data, list | tuple):
        return "[" + ", ".join(text.printable(str(each)) for each in data) + "]"
    if isinstance(data, str):
        return text.printable(data)
    return "-" if data == {} else text.value(name, data)
