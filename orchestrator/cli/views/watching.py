"""Watched sources: a list, and what is seen of one while it is read again and again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from orchestrator.cli.commands.watch import Look
from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.control.sources.files import Settings
from orchestrator.state.sources import Source

_SHOWN = 3


def begun(terminal: Terminal, number: int, paths: Sequence[str], *, keep: bool) -> None:
    until = f"until `orchestrator watch --remove {number}`" if keep else "until Ctrl-C; containers stay"
    terminal.say(f"watching {', '.join(paths)} {until}")


def look(terminal: Terminal, look: Look) -> None:
    if look.changed:
        names = [text.printable(_here(each)) for each in look.changed]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        terminal.say(f"{', '.join(names[:_SHOWN])}{more} changed")
    for each in look.troubles:
        head, _, rest = each["text"].partition(":")
        style = "bad" if each["severity"] == "error" else "warn"
        terminal.complain(f"{terminal.paint(head, style, err=True)}:{rest}")
    broken = any(each["severity"] == "error" for each in look.troubles)
    if broken:
        terminal.complain("nothing was changed; waiting for the next edit")
    for stack in look.left:
        terminal.complain(
            f"stack {stack} is not written any more; it stays until `orchestrator delete {stack}`"
        )
    if look.polling:
        terminal.complain(f"files are compared every second, without inotify: {look.polling}")
    if look.changed and not (broken or look.stacks or look.left):
        terminal.say("nothing to do: it means the same")


def ended(terminal: Terminal, number: int, *, removed: bool) -> None:
    if removed:
        terminal.complain(f"source {number} was removed; the containers stay")
    else:
        terminal.say("not watched any more; the containers stay")


def removed(terminal: Terminal, source: Source) -> None:
    terminal.out(f"source {source.number} is not watched any more: {', '.join(_paths(source))}")


def show_list(terminal: Terminal, sources: Sequence[Source]) -> None:
    if not sources:
        terminal.out("nothing is watched")
        return
    rows = [
        (
            str(each.number),
            f"process {each.holder.split()[0]}" if each.holder else "kept",
            ", ".join(each.state.get("stacks", {})) or "-",
            _standing(each),
            ", ".join(map(text.printable, _paths(each))),
        )
        for each in sources
    ]
    terminal.out(text.table(("SOURCE", "FOR", "STACKS", "STANDING", "PATHS"), rows))
    for each in sources:
        for trouble in each.state.get("troubles", []):
            terminal.out("")
            terminal.out(trouble["text"], newline=False)


def document(sources: Sequence[Source]) -> dict[str, Any]:
    """Version 1: {"version", "sources": [{"number", "kind", "paths", "holder", "created", "standing", "stacks", "left",
    "polling", "troubles"}]}; `holder`: the pid of the watching command, null for a kept one; `stacks`: name -> revision."""
    return {
        "version": 1,
        "sources": [
            {
                "number": each.number,
                "kind": each.kind,
                "paths": _paths(each),
                "holder": int(each.holder.split()[0]) if each.holder else None,
                "created": each.created,
                "standing": _standing(each),
                "stacks": {name: one["revision"] for name, one in each.state.get("stacks", {}).items()},
                "left": each.state.get("left", []),
                "polling": each.state.get("polling"),
                "troubles": each.state.get("troubles", []),
            }
            for each in sources
        ],
    }


def _standing(source: Source) -> str:
    if not source.state:
        return "not read yet"
    errors = sum(each["severity"] == "error" for each in source.state["troubles"])
    return text.plural(errors, "error") if errors else "good"


def _paths(source: Source) -> list[str]:
    settings = Settings.of(source.settings)
    return list(settings.absolute(settings.paths))


def _here(path: str) -> str:
    """Relative to where one stands, where that is shorter."""
    near = os.path.relpath(path)
    return path if near.startswith("..") else near
