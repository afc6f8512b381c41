"""`ps` and `ls`: stacks and their containers as tables and JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.cli.commands.status import ContainerStatus, StackLine, StackStatus
from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.model.observed import Health, Phase

_HEADER = ("REF", "PHASE", "HEALTH", "PID", "ADDRESS", "RESTARTS", "EXIT")


def show(terminal: Terminal, stacks: Sequence[StackStatus]) -> None:
    if not stacks:
        terminal.out("no stacks here: `orchestrator apply -f FILE` makes one")
    for number, each in enumerate(stacks):
        if number:
            terminal.out("")
        terminal.out(terminal.paint(_title(each), "strong"))
        if each.containers:
            terminal.out(
                _colored(terminal, text.table(_HEADER, [_row(row) for row in each.containers]), each)
            )


def document(stacks: Sequence[StackStatus]) -> dict[str, Any]:
    """Version 1: {"version", "stacks": [{"name", "revision", "suspended", "containers": [...]}]}."""
    return {
        "version": 1,
        "stacks": [
            {
                "name": each.name,
                "revision": each.revision,
                "suspended": each.suspended,
                "containers": [_container(row) for row in each.containers],
            }
            for each in stacks
        ],
    }


def show_list(terminal: Terminal, stacks: Sequence[StackLine]) -> None:
    if not stacks:
        terminal.out("no stacks here: `orchestrator apply -f FILE` makes one")
        return
    rows = [
        (
            each.name,
            _revision(each.revision, "deleted"),
            str(each.containers),
            str(each.running),
            str(each.unhealthy),
        )
        for each in stacks
    ]
    terminal.out(text.table(("STACK", "REVISION", "CONTAINERS", "RUNNING", "UNHEALTHY"), rows))


def list_document(stacks: Sequence[StackLine]) -> dict[str, Any]:
    """Version 1: {"version", "stacks": [{"name", "revision", "containers", "running", "unhealthy"}]}."""
    return {
        "version": 1,
        "stacks": [
            {
                "name": each.name,
                "revision": each.revision,
                "containers": each.containers,
                "running": each.running,
                "unhealthy": each.unhealthy,
            }
            for each in stacks
        ],
    }


def _title(stack: StackStatus) -> str:
    title = f"{stack.name}  revision {_revision(stack.revision)}"
    return f"{title}  {text.printable(stack.suspended)}" if stack.suspended else title


def _revision(number: int | None, none: str = "-") -> str:
    return none if number is None else str(number)


def _row(each: ContainerStatus) -> tuple[str, ...]:
    return (
        str(each.ref),
        _phase(each),
        "-" if each.health is Health.NONE else each.health.value,
        "-" if each.pid is None else str(each.pid),
        each.address or "-",
        str(each.restarts),
        text.printable(each.exit or "-"),
    )


def _phase(each: ContainerStatus) -> str:
    """People want to know why it does not run."""
    if each.held is not None and each.phase is not Phase.RUNNING:
        return "held"
    return "gave up" if each.failure and each.failure.startswith("gave up") else each.phase.value


def _colored(terminal: Terminal, lines: str, stack: StackStatus) -> str:
    head, *rows = lines.split("\n")
    painted = [terminal.paint(row, _style(each)) for row, each in zip(rows, stack.containers, strict=True)]
    return "\n".join([terminal.paint(head, "soft"), *painted])


def _style(each: ContainerStatus) -> str:
    if each.held is not None:
        return "warn"
    if each.health is Health.UNHEALTHY or (each.phase is Phase.EXITED and each.exit != "exit 0"):
        return "bad"
    if each.health in (Health.STARTING, Health.UNKNOWN) or each.phase is not Phase.RUNNING:
        return "warn" if each.exit != "exit 0" else "plain"
    return "plain"


def _container(each: ContainerStatus) -> dict[str, Any]:
    return {
        "ref": str(each.ref),
        "phase": each.phase.value,
        "health": each.health.value,
        "pid": each.pid,
        "address": each.address,
        "restarts": each.restarts,
        "exit": each.exit,
        "held": each.held,
        "failure": each.failure,
    }
