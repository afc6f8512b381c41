"""Pydantic's errors as our diagnostics.

In: a `ValidationError` and the node tree of what was validated. Out: diagnostics with code, place and path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.manifest.codes import Code
from orchestrator.manifest.scalars import describe
from orchestrator.manifest.source import Broken, Node

Path = tuple[str | int, ...]

_CODES = frozenset(Code)
_KEYS = (Code.UNKNOWN_KEY, Code.NOT_YET, Code.COMPOSE_KEY)
_WANTED = {"dict_type": "a mapping", "list_type": "a list", "tuple_type": "a list"}
_MISSING = {
    "stack": "write stack: NAME at the top; the name never comes from the folder",
    "rootfs": "write rootfs: host for this machine's own /usr, or name one of the stack",
    "containers": "write containers: {NAME: {rootfs: host, command: [PROGRAM]}}",
    "target": "write target: and what it is inside the container",
    "hard": "write {soft: N, hard: N}, or one number for both",
    "soft": "write {soft: N, hard: N}, or one number for both",
}
_LIST_FORM = {
    "publish": 'write a list: ["8080:80"]',
    "networks": "write a list: [NAME]",
    "mounts": "write a list of mappings",
}


def explain(error: ValidationError, root: Node, said: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Every error once; nothing about values of which something was `said` already."""
    keys = {each.span: each.hint or "" for each in said if each.code in _KEYS}
    found = (
        _diagnostic(each, root)
        for each in error.errors(include_url=False)
        if not isinstance(each["input"], Broken) and not _follows(each, root, keys)
    )
    return list(dict.fromkeys(found))


def _follows(each: ErrorDetails, root: Node, keys: Mapping[Span | None, str]) -> bool:
    """Whether a key is missing only because it was written by another name (`image` for `rootfs`)."""
    if each["type"] not in ("missing", Code.MISSING_KEY, Code.COMBINATION) or not keys:
        return False
    node = root
    for part in existing(root, each["loc"]):
        node = node.entries[str(part)][1] if node.entries is not None else (node.items or [])[int(part)]
    hints = [keys[key.span] for key, _ in (node.entries or {}).values() if key.span in keys]
    if each["type"] == Code.COMBINATION:
        return bool(hints) and "found" not in each["msg"]
    missing = str(each["loc"][-1]) if each["type"] == "missing" else each["msg"].rpartition(" ")[2]
    return any(f"{missing}:" in hint or f'"{missing}"' in hint for hint in hints)


def existing(root: Node, loc: Sequence[str | int]) -> Path:
    """The part of a pydantic location that exists in what was written."""
    node, path = root, []
    for part in loc:
        if node.entries is not None and part in node.entries:
            node = node.entries[str(part)][1]
        elif node.items is not None and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        elif part == 0:  # one value where a list may stand
            continue
        else:
            break
        path.append(part)
    return tuple(path)


def dotted(path: Sequence[str | int]) -> str:
    """`("containers", "web", "mounts", 0)` as `containers.web.mounts[0]`."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path).lstrip(".")


def _diagnostic(each: ErrorDetails, root: Node) -> Diagnostic:
    loc = each["loc"]
    path = existing(root, loc)
    code, message, hint = _words(each, str(loc[-1]) if loc else "")
    subject = dotted(path) or "the file"
    if loc and loc[-1] == "[key]":
        subject = f"the key {subject}"
    return Diagnostic(code=code, message=f"{subject} {message}", span=root.find(*loc), hint=hint)


def _words(each: ErrorDetails, key: str) -> tuple[Code, str, str | None]:
    kind, value = each["type"], each["input"]
    if kind in _CODES:
        context: dict[str, Any] = each.get("ctx", {})
        return Code(kind), each["msg"], context.get("hint")
    if kind == "missing":
        return Code.MISSING_KEY, f'needs the key "{key}"', _MISSING.get(key)
    if kind in _WANTED:
        return Code.TYPE, f"expects {_WANTED[kind]}, found {describe(value)}", _LIST_FORM.get(key)
    return Code.TYPE, each["msg"][:1].lower() + each["msg"][1:], None
