"""The `rootfs` verbs: tables and JSON documents of what the store holds."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from orchestrator.app.roots import Details, Fetched, Verified
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.views import failures
from orchestrator.cli.views.terminal import Terminal
from orchestrator.cli.views.text import duration, plural, printable, rough_size, table
from orchestrator.drivers.rootfs.collecting import Removed
from orchestrator.drivers.rootfs.survey import Entry

_HEADER = ("KIND", "NAME", "DIGEST", "SIZE", "OWN", "STACKS", "AGE")
_SHOWN = (
    "Entrypoint",
    "Cmd",
    "Env",
    "User",
    "WorkingDir",
    "StopSignal",
    "Healthcheck",
    "Volumes",
    "ExposedPorts",
    "Labels",
)
_DAMAGED = 10  # paths that are told of one content


def show(terminal: Terminal, entries: Sequence[Entry]) -> None:
    if not entries:
        terminal.out("nothing is in the store: `orchestrator rootfs pull IMAGE`, or apply a stack")
        return
    rows = [row for each in entries for row in _rows(each)]
    terminal.out(table(_HEADER, rows))
    sizes = {content: 0 for each in entries for content in each.contents}
    total = sum(each.own for each in entries)
    shared = sum(each.bytes - each.own for each in entries)
    more = f", and {rough_size(shared)} more are shared" if shared else ""
    terminal.say(f"{plural(len(sizes), 'content')}; {rough_size(total)} are of one alone{more}")


def document(entries: Sequence[Entry]) -> dict[str, Any]:
    """Version 1: {"version", "entries": [{"kind", "names", "digest", "contents", "bytes", "own", "stacks", "here",
    "at"}]}."""
    return {"version": 1, "entries": [_entry(each) for each in entries]}


def fetched(terminal: Terminal, found: Sequence[Fetched], form: str) -> ExitCode:
    failed = [each for each in found if each.error is not None]
    if form == "json":
        rows = [
            {
                "name": each.wish.name,
                "digest": each.pin.digest if each.pin else None,
                "error": each.error.message if each.error else None,
            }
            for each in found
        ]
        terminal.document({"version": 1, "fetched": rows})
    else:
        for each in found:
            if each.pin is not None:
                terminal.out(f"{printable(each.wish.name)}  {each.pin.digest}")
    for each in failed:
        assert each.error is not None
        failures.error(terminal, each.error)
    return ExitCode.FAILED if failed else ExitCode.SETTLED


def details(terminal: Terminal, found: Details) -> None:
    entry = found.entry
    terminal.out(terminal.paint(f"{entry.kind} {printable(entry.names[0])}", "strong"))
    rows = [
        *(("also", printable(each)) for each in entry.names[1:]),
        ("digest", entry.digest or "-"),
        ("size", f"{rough_size(entry.bytes)}, of which {rough_size(entry.own)} nothing else has"),
        ("stacks", ", ".join(entry.stacks) or "none"),
        *([] if entry.here else [("state", "not all of it is here: it is fetched when it is needed")]),
    ]
    if found.config is not None:
        config = json.loads(found.config)
        rows.append(("platform", f"{config.get('os', '?')}/{config.get('architecture', '?')}"))
        said = config.get("config") or {}
        rows += [
            (key, printable(_word(said[key]))) for key in _SHOWN if isinstance(said, dict) and said.get(key)
        ]
    if found.recipe is not None:
        packages = found.recipe.get("packages", {})
        rows.append(("recipe", printable(json.dumps(found.recipe.get("recipe"), ensure_ascii=False))[:1000]))
        rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        terminal.out(f"  {name:<{width}}  {text}")
    for content, size, stacks in found.contents:
        terminal.out(f"  {content}  {rough_size(size)}{f'  {chr(44).join(stacks)}' if stacks else ''}")


def details_document(found: Details) -> dict[str, Any]:
    """Version 1: an entry of `document`, with "manifest" and "config" of an image, "recipe" of a recipe, and its contents
    as [{"name", "bytes", "stacks"}]."""
    contents = [
        {"name": name, "bytes": size, "stacks": list(stacks)} for name, size, stacks in found.contents
    ]
    return {
        "version": 1,
        **_entry(found.entry),
        "manifest": json.loads(found.manifest) if found.manifest else None,
        "config": json.loads(found.config) if found.config else None,
        "recipe": dict(found.recipe) if found.recipe else None,
        "contents": contents,
    }


def verified(terminal: Terminal, found: Verified, *, repair: bool, refused: str | None) -> None:
    name = f"{printable(found.entry.names[0])}  {found.content}"
    if not found.damage:
        terminal.out(f"{terminal.paint('whole', 'good')}    {name}")
        return
    terminal.out(f"{terminal.paint('damaged', 'bad')}  {name}")
    for each in found.damage[:_DAMAGED]:
        terminal.out(f"         {printable(each)}")
    if len(found.damage) > _DAMAGED:
        terminal.out(f"         and {len(found.damage) - _DAMAGED} more")
    if repair:
        terminal.out(f"         {refused or 'removed: it is fetched again when it is needed'}")


def pruned(terminal: Terminal, removed: Sequence[Removed], *, dry: bool) -> None:
    for each in removed:
        terminal.out(f"{printable(each.name)}{f'  {rough_size(each.bytes)}' if each.bytes else ''}")
    total = rough_size(sum(each.bytes for each in removed))
    if dry:
        terminal.say(f"would free {total}" if removed else "nothing would go")
    else:
        terminal.say(f"freed {total}" if removed else "nothing to remove")


def _rows(each: Entry) -> list[tuple[str, ...]]:
    age = duration(max(0.0, time.time() - each.at)) if each.at else "-"
    rest = (
        (each.digest or "-")[:19],
        rough_size(each.bytes) if each.here else "not here",
        rough_size(each.own),
        ", ".join(each.stacks) or "-",
        age,
    )
    return [(each.kind, printable(name), *rest) for name in each.names]


def _entry(each: Entry) -> dict[str, Any]:
    return {
        "kind": each.kind,
        "names": list(each.names),
        "digest": each.digest,
        "contents": list(each.contents),
        "bytes": each.bytes,
        "own": each.own,
        "stacks": list(each.stacks),
        "here": each.here,
        "at": each.at,
    }


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
