"""The JSON Schema of stack files, for editors.

In: the models of `schema`. Out: a JSON Schema (2020-12) that accepts what the loader accepts by structure, short forms and
`${VAR}` included. What needs more than structure (names that must exist, limits that must fit) is the loader's alone.
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator.manifest.schema import StackFile

ID = "https://orchestrator.invalid/schema/stack.schema.json"


def generate() -> dict[str, Any]:
    """The schema as JSON data."""
    schema: dict[str, Any] = _tidy(StackFile.model_json_schema(mode="validation"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": ID, **schema}


def text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(generate(), indent=2, ensure_ascii=False) + "\n"


def _tidy(value: Any, *, named: bool = False) -> Any:
    """Without titles, null defaults and the nulls of optional keys (an empty key is an error). `named`: keys are names."""
    if isinstance(value, list):
        return [_tidy(each) for each in value]
    if not isinstance(value, dict):
        return value
    if named:
        return {key: _tidy(each) for key, each in value.items()}
    kept = {
        key: each
        if key in ("examples", "default", "const", "enum")
        else _tidy(each, named=key in ("properties", "$defs"))
        for key, each in value.items()
        if key != "title" and not (key == "default" and each is None)
    }
    if "patternProperties" in kept and "additionalProperties" not in kept:
        kept["additionalProperties"] = False  # names of another form
    return (
        {**kept, "properties": {key: _never_null(each) for key, each in kept["properties"].items()}}
        if "properties" in kept
        else kept
    )


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    options = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if not options:
        return schema
    rest = {key: each for key, each in schema.items() if key != "anyOf"}
    return {**options[0], **rest} if len(options) == 1 else {"anyOf": options, **rest}


if __name__ == "__main__":
    print(text(), end="")
