"""Verbs about how stacks stand: status, wait."""

from __future__ import annotations

import time

import click

from orchestrator.cli.arguments import common, completing
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session

_GOALS = ("healthy", "running", "settled", "exited", "completed")


@click.command()
@click.argument("stack", required=False, shell_complete=completing.stacks)
@common.output("text", "json")
@click.pass_obj
def status(session: Session, *, stack: str | None, form: str) -> ExitCode:
    """Show how all stacks, or STACK, stand, and why each part that is not as wished is not. Exit with 1 unless all are
    settled.

    \b
    settled      as the manifest says, and healthy
    held         the same, but for what `stop` holds
    progressing  on its way there, for the first time with this revision
    degraded     it was there, and something is wrong now
    stalled      nothing goes on until somebody acts
    suspended    left as it is until `resume`

    \b
    Example:
      orchestrator status
      orchestrator status shop --output json
    """
    from orchestrator.cli.commands import conditions
    from orchestrator.cli.views import conditions as view

    found = conditions.status(session.app, stack)
    if form == "json":
        session.terminal.document(view.document(found))
    else:
        view.show(session.terminal, found)
    settled = all(each.standing is conditions.Standing.SETTLED for each in found)
    return ExitCode.SETTLED if settled else ExitCode.FAILED


@click.command()
@click.argument(
    "name", nargs=-1, required=True, metavar="STACK|REF...", shell_complete=completing.stacks_and_containers
)
@click.option(
    "--for", "goal", type=click.Choice(_GOALS), help="Until when; of a stack settled, of containers healthy."
)
@common.timeout
@click.pass_obj
def wait(session: Session, *, name: tuple[str, ...], goal: str | None, timeout: float) -> ExitCode:
    """Wait until stacks, containers, instances or groups are as asked. What is so already is not waited for.

    Exit with 1 when the time is over, and at once when it cannot come by itself: what was given up, has failed for good,
    or is held. Without a probe, what runs is healthy.

    \b
    Example:
      orchestrator wait shop
      orchestrator wait web --for healthy --timeout 30s
      orchestrator wait migrate --for completed
    """
    from orchestrator.cli.commands import conditions
    from orchestrator.cli.views import conditions as view

    found = conditions.awaited(session.app, name, conditions.Goal(goal) if goal else None)
    code, deadline = ExitCode.SETTLED, time.monotonic() + timeout
    for each in found:
        if not view.awaited(session.terminal, each, conditions.wait(each, deadline)):
            code = ExitCode.FAILED
    return code
