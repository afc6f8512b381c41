"""A stack as a JSON document and back: what a revision holds, complete in itself.

In: a Stack. Out: plain data, its digest. The digest leaves out where things were written: a moved line is no new revision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.diagnostics import Span
from orchestrator.model import codec
from orchestrator.model.desired import SPECS, Need, Stack, Until
from orchestrator.model.ids import Ref

VERSION = 1


def encode(stack: Stack) -> dict[str, Any]:
    """{"version", "stack", "resources": {ref: spec}, "needs": {ref: [[ref, until, structural, restarts?]]},
    "places"}."""
    return {
        "version": VERSION,
        "stack": stack.name,
        "resources": {str(ref): codec.encode(spec) for ref, spec in stack.resources.items()},
        "needs": {str(ref): [_need(need) for need in needs] for ref, needs in stack.needs.items() if needs},
        "places": [
            [str(ref), field, span.file, span.line, span.column, span.width]
            for (ref, field), span in stack.places.items()
        ],
    }


def _need(need: Need) -> list[Any]:
    """Without what is seldom said, so that documents of earlier versions keep their digests."""
    return [str(need.ref), need.until.value, need.structural, *([True] if need.restarts else [])]


def decode(data: Mapping[str, Any]) -> Stack:
    """The inverse of `encode`. Raises KeyError, ValueError or TypeError on what it could not have made."""
    refs = {text: Ref.parse(text) for text in data["resources"]}
    needs = {
        refs[text]: tuple(Need(Ref.parse(ref), Until(until), *flags) for ref, until, *flags in many)
        for text, many in data["needs"].items()
    }
    return Stack(
        name=data["stack"],
        resources={ref: codec.decode(SPECS[ref.kind], data["resources"][text]) for text, ref in refs.items()},
        needs={ref: needs.get(ref, ()) for ref in refs.values()},
        places={
            (Ref.parse(ref), field): Span(file=file, line=line, column=column, width=width)
            for ref, field, file, line, column, width in data["places"]
        },
    )


def digest(data: Mapping[str, Any]) -> str:
    """SHA-256 over all but the places, in hex."""
    meaning = {key: value for key, value in data.items() if key != "places"}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
