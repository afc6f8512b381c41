"""Verbs about what has happened: events, history."""

from __future__ import annotations

import click

from orchestrator.cli.arguments import common, completing
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session


@click.command()
@click.argument(
    "name", metavar="[STACK|REF]", required=False, shell_complete=completing.stacks_and_containers
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@common.since
@click.option(
    "-n", "count", type=click.IntRange(min=0), default=100, show_default=True, help="At most N of the past."
)
@common.output("text", "json")
@click.pass_obj
def events(
    session: Session, *, name: str | None, follow: bool, since: str | None, count: int, form: str
) -> ExitCode:
    """Show what happened to all stacks, to STACK, or to REF (web-1, web, shop:db), oldest first.

    \b
    revision, held, released, restart, suspended, resumed    what people asked for, and who
    started, stopped, exited, oom                            processes, with why and how they ended
    healthy, unhealthy, restarting, gave-up, failed          what became of them
    mended                                                   what somebody changed behind our back
    created, updated, deleted, restored, settled, stalled    stacks

    With --output json each line is a document. The newest 20,000 events are kept.

    \b
    Example:
      orchestrator events --since 1h shop
      orchestrator events -f web-1
    """
    from orchestrator.cli.commands import events as command
    from orchestrator.cli.views import events as view

    request = command.Request(name=name, follow=follow, since=common.moment(since), count=count)
    try:
        view.show(session.terminal, command.read(session.app, request), form)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED  # the usual end of --follow
    return ExitCode.SETTLED


@click.command()
@click.argument("stack", shell_complete=completing.stacks)
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="At most N revisions."
)
@common.output("text", "json")
@click.pass_obj
def history(session: Session, *, stack: str, count: int, form: str) -> ExitCode:
    """Show the revisions of STACK: who applied them, what they changed, and what became of them. * is the current one.

    A revision is settled once everything was as it says, failed when that could not be brought about, and superseded
    when the next one came first.

    \b
    Example:
      orchestrator history shop
    """
    from orchestrator.cli.commands import history as command
    from orchestrator.cli.views import events as view

    found = command.history(session.app, stack, count)
    if form == "json":
        session.terminal.document(view.history_document(stack, found))
    else:
        view.show_history(session.terminal, found)
    return ExitCode.SETTLED
