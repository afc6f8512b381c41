"""The committed JSON Schema is the models', describes every key, and agrees with the loader on structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.manifest import Code, load
from orchestrator.manifest import jsonschema as ours
from orchestrator.manifest.source import Variables, parse

ROOT = Path(__file__).parent.parent.parent
GOOD = sorted([*(ROOT / "tests/cases/manifest/good").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")])
ENV = {"SET": "value", "N": "2"}
BASE: dict[str, Any] = {"rootfs": "host", "command": ["x"]}
STRUCTURE = {
    Code.UNKNOWN_KEY,
    Code.NOT_YET,
    Code.COMPOSE_KEY,
    Code.MISSING_KEY,
    Code.TYPE,
    Code.VALUE,
    Code.COMBINATION,
    Code.NAME,
    Code.EMPTY,
}

PIECES: list[tuple[dict[str, Any], bool]] = [
    ({"command": "echo"}, True),
    ({"command": []}, False),
    ({"command": ["sleep", 5]}, True),
    ({"command": ["sleep", True]}, False),
    ({"rootfs": {"directory": "./x"}}, True),
    ({"rootfs": {"archive": "./x", "pull": "always"}}, False),
    ({"rootfs": {}}, False),
    ({"depends_on": []}, True),
    ({"depends_on": [1]}, False),
    ({"limits": {"memory": "64MiB", "cpus": 0.5, "io": {"read": "1MiB/s"}}}, True),
    ({"limits": {"memory": "${M}"}}, True),
    ({"limits": {"memory": "64M!"}}, False),
    ({"limits": {"cpus": "1"}}, False),
    ({"limits": {"io": [{"read": "1MiB/s"}, {"write_iops": 5}]}}, True),
    ({"limits": {"memry": 1}}, False),
    ({"mounts": [{"tmpfs": "1MiB", "target": "/x"}]}, True),
    ({"mounts": [{"tmpfs": "1MiB"}]}, False),
    ({"mounts": [{"tmpfs": "1MiB", "bind": "./x", "target": "/x"}]}, False),
    ({"mounts": ["./a:/b"]}, False),
    ({"publish": ["8080:80", {"port": 1, "target": 2}, "${P}:80"]}, True),
    ({"publish": [80]}, False),
    ({"publish": "80:80"}, False),
    ({"health": {"http": ":80/x"}}, True),
    ({"health": {"http": {"port": 80, "status": 200}}}, True),
    ({"health": {"http": ":80", "tcp": ":80"}}, False),
    ({"health": {"tcp": "80"}}, False),
    ({"job": {}}, True),
    ({"job": None}, False),
    ({"job": True}, False),
    ({"env": {"A": 1, "B": "x"}}, True),
    ({"env": {"A": True}}, False),
    ({"env": ["A=b"]}, False),
    ({"ulimits": {"nofile": 5, "core": {"soft": 0, "hard": "unlimited"}}}, True),
    ({"ulimits": {"files": 5}}, False),
    ({"replicas": "${N}"}, True),
    ({"replicas": 1001}, False),
    ({"user": 1000}, True),
    ({"user": 65536}, False),
    ({"stop": {"grace": 10}}, False),
    ({"restart": "always"}, True),
    ({"restart": "sometimes"}, False),
    ({"x-note": {"any": "thing"}}, True),
    ({"image": "nginx"}, False),
    ({"user": None}, False),
    ({"env_file": "a.env"}, True),
]


def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(ours.generate())


def test_committed_schema_is_the_generated_one() -> None:
    committed = (ROOT / "schema/stack.schema.json").read_text()
    assert committed == ours.text(), (
        "run: python -m orchestrator.manifest.jsonschema > schema/stack.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


def test_every_key_has_a_description() -> None:
    def missing(node: Any, path: str) -> list[str]:
        if isinstance(node, list):
            return [each for number, item in enumerate(node) for each in missing(item, f"{path}[{number}]")]
        if not isinstance(node, dict):
            return []
        here = [
            f"{path}.{key}" for key, each in node.get("properties", {}).items() if not each.get("description")
        ]
        return here + [each for key, item in node.items() for each in missing(item, f"{path}.{key}")]

    assert missing(ours.generate(), "") == []


@pytest.mark.parametrize("path", GOOD, ids=lambda each: each.stem)
def test_what_the_loader_accepts_the_schema_accepts(path: Path) -> None:
    roots, _ = parse(path.read_text(), path.name, variables=Variables({each: f"${{{each}}}" for each in ENV}))
    assert not load([str(path)], ENV).failed
    for root in roots:
        assert [each.message for each in validator().iter_errors(root.data)] == []


@pytest.mark.parametrize(("piece", "good"), PIECES, ids=lambda each: json.dumps(each)[:60])
def test_loader_and_schema_agree_on_structure(piece: dict[str, Any], good: bool) -> None:
    written = {"stack": "s", "containers": {"a": {**BASE, **piece}}}
    loaded = load(["-"], {"M": "64MiB", "N": "2", "P": "80"}, stdin=json.dumps(written))
    wrong = [each for each in loaded.diagnostics if each.code in STRUCTURE]
    assert (not wrong, validator().is_valid(written)) == (good, good), wrong
