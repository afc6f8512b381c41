"""The `volume` verbs: tables and JSON documents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from orchestrator.app.volumes import Volume
from orchestrator.cli.views.terminal import Terminal
from orchestrator.cli.views.text import duration, printable, rough_size, table

_HEADER = ("VOLUME", "IS", "STATE", "SIZE", "CHANGED", "MOUNTED BY")


def show(terminal: Terminal, volumes: Sequence[Volume]) -> None:
    if not volumes:
        terminal.out("no volumes here")
        return
    rows = [
        (
            each.ref,
            printable(each.backing) or "directory",
            state(each),
            _size(each),
            _age(each),
            printable(", ".join(each.users)) or "-",
        )
        for each in volumes
    ]
    terminal.out(table(_HEADER, rows))


def document(volumes: Sequence[Volume]) -> dict[str, Any]:
    """Version 1: {"version", "volumes": [{"ref", "stack", "name", "backing", "state", "folder", "bytes", "users",
    "running", "changed"}]}."""
    return {"version": 1, "volumes": [row(each) for each in volumes]}


def row(each: Volume) -> dict[str, Any]:
    return {
        "ref": each.ref,
        "stack": each.stack,
        "name": each.name,
        "backing": each.backing or "directory",
        "state": state(each),
        "folder": str(each.folder),
        "bytes": each.bytes,
        "users": list(each.users),
        "running": list(each.running),
        "changed": each.changed,
    }


def details(terminal: Terminal, each: Volume) -> None:
    terminal.out(terminal.paint(f"volume {each.ref}", "strong"))
    for name, text in (
        ("state", state(each)),
        ("folder", str(each.folder)),
        ("is", printable(each.backing) or "directory"),
        ("size", _size(each)),
        ("changed", f"{_age(each)} ago"),
        ("mounted by", ", ".join(each.users) or "nobody"),
        ("of which run", ", ".join(each.running) or "none"),
    ):
        terminal.out(f"  {name:<12}  {text}")


def pruned(terminal: Terminal, volumes: Sequence[Volume], *, dry: bool) -> None:
    for each in volumes:
        terminal.out(f"{each.ref}  {rough_size(each.bytes)}")
    total = rough_size(sum(each.bytes for each in volumes))
    if not volumes:
        terminal.say("nothing would go" if dry else "nothing to remove")
    else:
        terminal.say(f"would free {total}" if dry else f"frees {total}")


def state(each: Volume) -> str:
    """`in use` (a container that mounts it runs), `unused`, or `kept` (nobody wishes it any more)."""
    return "in use" if each.running else "unused" if each.wished or each.users else "kept"


def _size(each: Volume) -> str:
    """Nobody counts what is the host's."""
    return "-" if each.backing.startswith("/") else rough_size(each.bytes)


def _age(each: Volume) -> str:
    return duration(max(0.0, time.time() - each.changed)) if each.changed else "-"
