"""`status` and `wait`: conditions for people and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.cli.commands.conditions import Awaited, Condition, Look, Standing
from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.model.ids import Ref

_STYLES = {
    Standing.SETTLED: "good",
    Standing.HELD: "warn",
    Standing.PROGRESSING: "warn",
    Standing.DEGRADED: "bad",
    Standing.STALLED: "bad",
    Standing.SUSPENDED: "warn",
    Standing.DELETED: "soft",
}


def document(found: Sequence[Condition]) -> dict[str, Any]:
    """Version 1: {"version", "stacks": [{"name", "revision", "standing", "agent", "suspended", "reasons", "held"}]}."""
    return {
        "version": 1,
        "stacks": [
            {
                "name": each.stack,
                "revision": each.revision,
                "standing": each.standing.value,
                "agent": each.agent,
                "suspended": each.suspended,
                "reasons": _refs(each.reasons),
                "held": _refs(each.held),
            }
            for each in found
        ],
    }


def show(terminal: Terminal, found: Sequence[Condition]) -> None:
    if not found:
        terminal.out("no stacks here: `orchestrator apply -f FILE` makes one")
    for each in found:
        revision = "" if each.revision is None else f"  revision {each.revision}"
        standing = terminal.paint(each.suspended or each.standing.value, _STYLES[each.standing])
        terminal.out(f"{terminal.paint(each.stack, 'strong')}{revision}  {standing}")
        for ref, why in each.reasons.items():
            terminal.out(f"  {terminal.paint('!', 'bad')} {ref}  {text.printable(why)}")
        for ref, why in each.held.items():
            terminal.out(f"  {terminal.paint('.', 'warn')} {ref}  {text.printable(why)}")
    if found and not any(each.agent for each in found):
        terminal.out("no agent runs here: nothing is mended until the next apply")


def awaited(terminal: Terminal, what: Awaited, looks: Iterable[Look]) -> bool:
    """Says once of each what it waits for; False: it did not come about."""
    told: dict[str, str] = {}
    look = Look(missing={})
    for look in looks:
        for name, why in look.missing.items():
            if told.get(name) != why and name not in look.never:
                terminal.say(f"{name}: {text.printable(why)}")
                told[name] = why
    for name, why in look.never.items():
        terminal.complain(f"{terminal.paint('!', 'bad', err=True)} {name}: {text.printable(why)}")
    if look.never:
        terminal.complain(f"it will not be {what.goal} by itself")
    elif look.missing:
        for name, why in look.missing.items():
            terminal.complain(f"{terminal.paint('!', 'bad', err=True)} {name}: {text.printable(why)}")
        terminal.complain(f"not {what.goal} in the time given")
    return not look.missing


def _refs(reasons: Mapping[Ref, str]) -> list[dict[str, str]]:
    return [{"ref": str(ref), "reason": why} for ref, why in reasons.items()]
