"""Verbs that look: ls, ps, top, inspect."""

from __future__ import annotations

import sys

import click

from orchestrator.cli import interrupts
from orchestrator.cli.arguments import common, completing
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
@click.argument("stack", required=False, shell_complete=completing.stacks)
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
@click.argument(
    "name", metavar="[STACK|REF]", required=False, shell_complete=completing.stacks_and_containers
)
@click.option("--once", is_flag=True, help="One table and no more; so it is too where stdout is no terminal.")
@click.option(
    "-n", "--interval", type=common.Duration(), default=2.0, metavar="T", help="From table to table: 2s."
)
@click.option(
    "--sort",
    type=click.Choice(["cpu", "memory", "name"]),
    default="cpu",
    show_default=True,
    help="What comes first.",
)
@common.output("text", "json")
@click.pass_obj
def top(session: Session, *, name: str | None, once: bool, interval: float, sort: str, form: str) -> ExitCode:
    """Show what running containers use: processor, memory, network, disks, and how much they wait for each.

    CPU is in percent of one processor. Memory is without idle file cache. Containers of a group share its network, so
    each shows the same. WAIT is the share of the last 10 seconds in which some process of it had to wait.

    \b
    Example:
      orchestrator top
      orchestrator top shop --sort memory
      orchestrator top web-1 --once --output json
    """
    from orchestrator.cli.commands import top as command
    from orchestrator.cli.views import top as view

    if interval < 0.1:
        raise click.BadParameter("it is less than 100ms", param_hint="--interval")
    if form == "json" or once or not sys.stdout.isatty():
        table = next(command.tables(session.app, name, command.Order(sort), interval))
        if form == "json":
            session.terminal.document(view.document(table))
        else:
            view.show(session.terminal, table)
        return ExitCode.SETTLED
    # Noticed, not raised: an exception may come up where Python can only ignore it, in a destructor.
    with interrupts.noticed() as cancelled:
        view.follow(
            session.terminal,
            command.tables(session.app, name, command.Order(sort), interval, cancelled),
        )
    return ExitCode.INTERRUPTED  # the usual end


@click.command()
@click.argument("ref", shell_complete=completing.things)
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
