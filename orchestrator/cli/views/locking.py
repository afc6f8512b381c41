"""`lock`: what moved, what does not fit, as lines and JSON documents."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.app.locking import Move
from orchestrator.cli.commands.lock import Checked, Written
from orchestrator.cli.views.terminal import Terminal
from orchestrator.cli.views.text import printable
from orchestrator.manifest.lock import LockedRoot

_PACKAGES = 20  # lines of one recipe


def written(terminal: Terminal, found: Sequence[Written]) -> None:
    if not found:
        terminal.out("nothing to lock: no images, no recipes, no archives without a digest")
    for each in found:
        path = printable(os.path.relpath(each.path))
        for move in each.moves:
            _moved(terminal, move)
        terminal.out(f"wrote {path}" if each.changed else f"{path} is as it was")


def document(found: Sequence[Written]) -> dict[str, Any]:
    """Version 1: {"version", "locks": [{"path", "changed", "moves": [{"stack", "rootfs", "old", "new"}]}]}; old and new are
    {"kind", "name", "digest", "packages"} or null."""
    return {
        "version": 1,
        "locks": [
            {
                "path": each.path,
                "changed": each.changed,
                "moves": [
                    {
                        "stack": move.stack,
                        "rootfs": move.name,
                        "old": _entry(move.old),
                        "new": _entry(move.new),
                    }
                    for move in each.moves
                ],
            }
            for each in found
        ],
    }


def checked(terminal: Terminal, found: Sequence[Checked]) -> None:
    for each in found:
        terminal.out(f"{terminal.paint('differs', 'bad')}  {each.stack}: {printable(each.text)}")
    if found:
        terminal.say("`orchestrator lock` with the same files mends it")
    else:
        terminal.out("the lock fits")


def checked_document(found: Sequence[Checked]) -> dict[str, Any]:
    """Version 1: {"version", "fits", "misfits": [{"path", "stack", "rootfs", "text"}]}."""
    rows = [
        {"path": each.path, "stack": each.stack, "rootfs": each.name, "text": each.text} for each in found
    ]
    return {"version": 1, "fits": not found, "misfits": rows}


def _moved(terminal: Terminal, move: Move) -> None:
    name = f"{move.stack}/{move.name}"
    old, new = _short(move.old), _short(move.new)
    shown = f"  {printable(move.shown)}" if move.shown else ""
    terminal.out(f"{terminal.paint(name, 'strong')}{shown}  {old} -> {new}")
    if move.old is None or move.new is None:
        return
    lines = [
        f"  {printable(package)}  {printable(before or 'none')} -> {printable(now or 'none')}"
        for package, before, now in _packages(move.old.packages, move.new.packages)
    ]
    for line in lines[:_PACKAGES]:
        terminal.out(line)
    if len(lines) > _PACKAGES:
        terminal.out(f"  and {len(lines) - _PACKAGES} more packages")


def _packages(
    before: Mapping[str, str], now: Mapping[str, str]
) -> Sequence[tuple[str, str | None, str | None]]:
    names = sorted(before.keys() | now.keys())
    return [(each, before.get(each), now.get(each)) for each in names if before.get(each) != now.get(each)]


def _short(root: LockedRoot | None) -> str:
    return root.digest[:19] if root else "none"


def _entry(root: LockedRoot | None) -> dict[str, Any] | None:
    if root is None:
        return None
    return {
        "kind": root.kind.value,
        "name": root.name,
        "digest": root.digest,
        "packages": dict(root.packages),
    }
