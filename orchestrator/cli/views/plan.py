"""A plan for people (symbol, ref, verb, reason, fields old -> new with their place) and as a JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.cli.commands.plan import Exposure, Planned
from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.diagnostics import Span
from orchestrator.model.ids import Kind
from orchestrator.plan import explain
from orchestrator.plan.changes import Change, FieldChange, Plan, Verb

_LOOK = {
    Verb.KEEP: ("=", "soft"),
    Verb.CREATE: ("+", "good"),
    Verb.START: (">", "good"),
    Verb.UPDATE: ("~", "warn"),
    Verb.STOP: (".", "warn"),
    Verb.RESTART: ("*", "warn"),
    Verb.REPLACE: ("-/+", "warn"),
    Verb.DELETE: ("-", "bad"),
}
_ALWAYS_COUNTED = (Verb.CREATE, Verb.UPDATE, Verb.DELETE)


def show(terminal: Terminal, planned: Sequence[Planned]) -> None:
    for number, each in enumerate(planned):
        if number:
            terminal.out("")
        for line in _lines(terminal, each):
            terminal.out(line)


def document(planned: Sequence[Planned]) -> dict[str, Any]:
    """Version 1: {"version", "plans": [{"stack", "changes", "failures", "holds", "exposures", "suspended", "summary"}]}."""
    return {"version": 1, "plans": [_document(each) for each in planned]}


def summary(plan: Plan) -> str:
    """`3 to create, 1 to update, 0 to delete`; other verbs where they occur."""
    counts = Counter(each.verb for each in plan.changes)
    verbs = [each for each in Verb if each is not Verb.KEEP and (counts[each] or each in _ALWAYS_COUNTED)]
    return ", ".join(f"{counts[each]} to {each}" for each in verbs)


def _lines(terminal: Terminal, planned: Planned) -> Iterator[str]:
    plan = planned.plan
    width = max((len(str(each.ref)) for each in plan.changes), default=0)
    for change in plan.changes:
        yield from _change(terminal, change, width)
    for ref, reason in plan.failures.items():
        yield f"{terminal.paint('!', 'bad')}   {ref}  {text.printable(reason)}"
    for ref, why in plan.holds.items():
        yield f"{terminal.paint('.', 'warn')}   {ref}  {text.printable(why)}"
    for exposure in planned.exposures:
        yield f"{terminal.paint('!', 'warn')}   {_exposure(exposure)}"
    if planned.suspended:
        mark = terminal.paint("!", "warn")
        yield f"{mark}   {planned.suspended}: nothing is done until `orchestrator resume {plan.stack}`"
    if plan.changes:
        yield ""
        yield terminal.paint(f"Plan: {summary(plan)}.", "strong")
    elif not plan.failures:
        containers = sum(each.kind is Kind.CONTAINER for each in planned.stack.resources)
        yield f"No changes. Stack {plan.stack} is as its manifest says ({text.plural(containers, 'container')})."
    else:
        yield ""
        yield f"No changes. {text.plural(len(plan.failures), 'ref')} of stack {plan.stack} failed and will stay so."


def _change(terminal: Terminal, change: Change, width: int) -> Iterator[str]:
    symbol, style = _LOOK[change.verb]
    reason = text.printable(change.reason)
    because = f"because {reason}" if change.cause else reason
    yield f"{terminal.paint(f'{symbol:<3}', style)} {change.ref!s:<{width}}  {change.verb:<7}  {because}".rstrip()
    shown = [each for each in change.fields if each.name != explain.READY or len(change.fields) == 1]
    fields = [_field(each) for each in shown]
    widths = [max((len(row[column]) for row in fields), default=0) for column in range(2)]
    for name, values, place in fields:
        line = f"      {name:<{widths[0]}}  {values:<{widths[1]}}"
        yield f"{line}   {terminal.paint(place, 'soft')}" if place else line.rstrip()
    for need in change.waits:
        yield f"      {explain.waiting(need)}"


def _field(field: FieldChange) -> tuple[str, str, str]:
    return explain.named(field.name), text.change(field.name, field.old, field.new), _place(field.place)


def _place(place: Span | None) -> str:
    return f"{place.file}:{place.line}" if place else ""


def _exposure(each: Exposure) -> str:
    publish = each.publish
    where = f"{publish.address}:{publish.host_port}/{publish.protocol}"
    return f"{each.ref}  other machines reach it at {where}   {_place(each.place)}".rstrip()


def _document(planned: Planned) -> dict[str, Any]:
    counts = Counter(each.verb for each in planned.plan.changes)
    return {
        "stack": planned.plan.stack,
        "changes": [_change_document(each) for each in planned.plan.changes],
        "failures": [{"ref": str(ref), "reason": reason} for ref, reason in planned.plan.failures.items()],
        "holds": [{"ref": str(ref), "reason": why} for ref, why in planned.plan.holds.items()],
        "exposures": [
            {
                "ref": str(each.ref),
                "address": each.publish.address,
                "port": each.publish.host_port,
                "protocol": each.publish.protocol.value,
                "place": _place(each.place) or None,
            }
            for each in planned.exposures
        ],
        "suspended": planned.suspended,
        "summary": {each.value: counts[each] for each in Verb if each is not Verb.KEEP},
    }


def _change_document(change: Change) -> dict[str, Any]:
    return {
        "ref": str(change.ref),
        "verb": change.verb.value,
        "reason": change.reason,
        "cause": str(change.cause) if change.cause else None,
        "fields": [
            {
                "name": each.name,
                "old": each.old,
                "new": each.new,
                "update": each.update.value,
                "place": _place(each.place) or None,
            }
            for each in change.fields
        ],
        "waits": [{"ref": str(each.ref), "until": each.until.value} for each in change.waits],
        "place": _place(change.place) or None,
    }
