"""`agent --status`: the agent, and how each stack stands in its eyes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal


def document(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Version 1: {"version", "agent"}, null where none runs; in it `since` is Unix time, `looked` seconds ago."""
    return {"version": 1, "agent": found}


def show(terminal: Terminal, found: Mapping[str, Any] | None) -> None:
    if found is None:
        terminal.out("no agent runs here; `orchestrator apply` starts one")
        return
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
    terminal.out(f"agent {found['pid']}, since {since}")
    stacks = found["stacks"]
    if not stacks:
        terminal.out("no stacks")
        return
    rows = [
        (name, str(each["revision"]), text.printable(each["standing"]), _ago(each["looked"]))
        for name, each in stacks.items()
    ]
    terminal.out(text.table(("STACK", "REVISION", "STANDING", "LOOKED AT"), rows))
    for name, each in stacks.items():
        for ref, reason in each["pending"].items():
            terminal.out(f"  {name}:{ref}  {text.printable(reason)}")


def _ago(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f} s ago"
