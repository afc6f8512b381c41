"""Verbs that look: ls, ps, inspect."""

from __future__ import annotations

import click

from orchestrator.cli.arguments import common
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session


@click.command()
@common.output("text", "json")
@click.pass_obj
def ls(session: Session, *, form: str) -> ExitCode:
    """List the stacks of this host.

    \b
    Example:
      orchestrator ls
    """
    from orchestrator.cli.commands import status
    from orchestrator.cli.views import status as view

    found = status.lines(session.app)
    if form == "json":
        session.terminal.document(view.list_document(found))
    else:
        view.show_list(session.terminal, found)
    return ExitCode.SETTLED


@click.command()
@click.argument("stack", required=False)
@common.output("text", "json")
@click.pass_obj
def ps(session: Session, *, stack: str | None, form: str) -> ExitCode:
    """Show the containers of all stacks, or of STACK.

    \b
    Example:
      orchestrator ps
      orchestrator ps shop --output json
    """
    from orchestrator.cli.commands import status
    from orchestrator.cli.views import status as view

    found = status.status(session.app, stack)
    if form == "json":
        session.terminal.document(view.document(found))
    else:
        view.show(session.terminal, found)
    return ExitCode.SETTLED


@click.command()
@click.argument("ref")
@common.output("text", "json")
@click.pass_obj
def inspect(session: Session, *, ref: str, form: str) -> ExitCode:
    """Show all that is known of one thing: what was asked, where, what is, and the limits that the kernel enforces.

    \b
    Example:
      orchestrator inspect web-1
      orchestrator inspect network/front --output json
    """
    from orchestrator.cli.commands import inspect as command
    from orchestrator.cli.views import inspection

    found = command.inspect(session.app, ref)
    if form == "json":
        session.terminal.document(inspection.document(found))
    else:
        inspection.show(session.terminal, found)
    return ExitCode.SETTLED
