"""The wire form of programs."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from orchestrator.supervisor import operations
from orchestrator.supervisor import program as ops
from orchestrator.supervisor.program import IdMap, Program, from_wire, to_wire

VALUES: dict[str, Any] = {
    "str": "x",
    "int": 5,
    "bool": True,
    "str | None": None,
    "tuple[str, ...]": ("a", "b"),
    "tuple[tuple[str, str], ...]": (("A", "1"), ("B", "2")),
}


@pytest.mark.parametrize("kind", ops.Operation.__args__, ids=lambda kind: kind.__name__)
def test_every_operation_survives_the_wire(kind: type[Any]) -> None:
    each = kind(**{field.name: VALUES[str(field.type)] for field in fields(kind)})
    program = Program(
        operations=(each,), new=("mnt",), cgroup="/c", uid_maps=(IdMap(inside=0, outside=1, count=2),)
    )
    assert from_wire(json.loads(json.dumps(to_wire(program)))) == program


def test_every_operation_has_a_function() -> None:
    assert set(operations._FUNCTIONS) == set(ops.Operation.__args__)


def test_an_unknown_operation_is_refused() -> None:
    data = to_wire(Program(operations=()))
    with pytest.raises(KeyError):
        from_wire({**data, "operations": [["Odd", {}]]})
    with pytest.raises(TypeError):
        from_wire({**data, "operations": [["PivotRoot", {"odd": 1}]]})
