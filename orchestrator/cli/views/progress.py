"""Progress of apply and delete on stderr, one line for each thing that happened; the end as a table on stdout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from orchestrator.cli.commands.ending import Ended
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.views import plan, status, text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.control.events import Event, Troubled, Waiting
from orchestrator.control.probes import HealthChange
from orchestrator.control.reconciler import Planned, Queued, Stepped, Unrecorded
from orchestrator.execute.executor import Status, StepResult
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Health
from orchestrator.plan import explain
from orchestrator.plan.changes import Op, Step

_DONE = {
    Op.CREATE: "created",
    Op.START: "started",
    Op.STOP: "stopped",
    Op.UPDATE: "updated",
    Op.DELETE: "deleted",
}
_WIDTH = 30


def follow(terminal: Terminal, events: Iterable[Event]) -> Event | None:
    """Tells what happens; gives back the last event."""
    last: Event | None = None
    told: dict[Ref, str] = {}
    holder = ""
    begun = unrecorded = False
    for event in events:
        last = event
        match event:
            case Planned():
                if not begun and event.plan.changes:
                    terminal.say(f"{event.plan.stack}: {plan.summary(event.plan)}")
                    begun = True
            case Stepped():
                _step(terminal, event.result)
            case Unrecorded():
                if not unrecorded:
                    head = terminal.paint("warning", "warn", err=True)
                    terminal.complain(f"{head}: the history of this was not recorded: {event.reason}")
                unrecorded = True
            case Queued():
                if event.holder != holder:  # asked again and again
                    terminal.say(f"waits its turn: {text.printable(event.holder)}")
                holder = event.holder
            case Troubled():
                terminal.complain(f"{terminal.paint('!', 'bad', err=True)} {text.printable(event.reason)}")
            case HealthChange():
                _health(terminal, event)
            case Waiting():
                told = _waiting(terminal, event.pending, told)
            case _:
                pass  # an end, told by `applied` or `deleted`
    return last


def applied(terminal: Terminal, ended: Ended) -> None:
    _reasons(terminal, ended)
    status.show(terminal, [ended.status])
    _how(terminal, ended)


def briefly(terminal: Terminal, ended: Ended) -> None:
    """One of many applies, or an operator's word: no table."""
    _reasons(terminal, ended)
    _how(terminal, ended)


def deleted(terminal: Terminal, ended: Ended) -> None:
    _reasons(terminal, ended)
    if ended.code is not ExitCode.SETTLED:
        _how(terminal, ended)
        return
    terminal.out(f"stack {ended.status.name} is deleted")
    if ended.kept:
        names = ", ".join(map(str, ended.kept))
        terminal.out(f"its data stays: {names}")
        terminal.out(f"`orchestrator delete {ended.status.name} --prune-data` deletes that too")


def _step(terminal: Terminal, result: StepResult) -> None:
    step = result.step
    match result.status:
        case Status.STARTED:
            pass
        case Status.DONE:
            if _worth_telling(step):
                _line(terminal, step.ref, _DONE[step.op], "good")
        case Status.FAILED:
            _line(terminal, step.ref, f"failed to {step.op}: {result.error}", "bad")
            if result.hint:
                terminal.say(f"{'':{_WIDTH}}  hint: {result.hint}")
        case Status.SKIPPED:
            if step.ref.kind is Kind.CONTAINER and step.op is Op.START:
                _line(terminal, step.ref, f"skipped: {result.error}", "warn")


def _worth_telling(step: Step) -> bool:
    """One line for each thing: a container's start says that it was created too; other kinds are just there or not. That
    a service follows the health of its instances was told by theirs."""
    if step.ref.kind is Kind.CONTAINER:
        return step.op is not Op.CREATE
    follows = step.op is Op.UPDATE and step.fields == (explain.READY,)
    return step.ref.kind is not Kind.STACK and step.op not in (Op.START, Op.STOP) and not follows


def _health(terminal: Terminal, change: HealthChange) -> None:
    style = {Health.HEALTHY: "good", Health.UNHEALTHY: "bad"}.get(change.new, "soft")
    said = f": {change.output}" if change.new is Health.UNHEALTHY and change.output else ""
    _line(terminal, change.incarnation.ref, f"{change.new}{said}", style)


def _waiting(terminal: Terminal, pending: Mapping[Ref, str], told: Mapping[Ref, str]) -> dict[Ref, str]:
    for ref, reason in pending.items():
        # Numbers count down; being young, starting and failing were told by other lines.
        same = re.sub(r"\d+", "", told.get(ref, "")) == re.sub(r"\d+", "", reason)
        if not same and ref.kind is Kind.CONTAINER and reason.startswith(("waits", "restarts", "gave up")):
            _line(terminal, ref, reason, "soft")
    return {**told, **pending}


def _line(terminal: Terminal, ref: Ref, what: str, style: str) -> None:
    terminal.say(f"{ref!s:<{_WIDTH}}  {terminal.paint(text.printable(what), style, err=True)}")


def _reasons(terminal: Terminal, ended: Ended) -> None:
    for ref, reason in ended.reasons.items():
        terminal.complain(f"{terminal.paint('!', 'bad', err=True)} {ref}: {text.printable(reason)}")
        if ref.kind is Kind.CONTAINER and ended.code is ExitCode.FAILED and not reason.startswith("waits"):
            terminal.complain(f"  see `orchestrator logs {ended.status.name}:{ref.name}`")
    for ref, why in ended.held.items():
        terminal.complain(f"{terminal.paint('.', 'warn', err=True)} {ref}: {text.printable(why)}")


def _how(terminal: Terminal, ended: Ended) -> None:
    line = f"stack {ended.status.name}: {ended.how}"
    if ended.suspended:
        terminal.complain(terminal.paint(line, "warn", err=True))
    elif ended.code is ExitCode.SETTLED:
        terminal.say(line)
    else:
        terminal.complain(terminal.paint(line, "bad", err=True))
