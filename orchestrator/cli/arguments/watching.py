"""The verb that applies again whenever a file changes: watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli import interrupts
from orchestrator.cli.arguments import common
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session

if TYPE_CHECKING:
    from orchestrator.cli.commands.watch import Options


@click.command()
@common.files(required=False)
@common.env_file
@click.option(
    "--keep", is_flag=True, help="Return at once; the agent watches on, after a reboot too, until --remove."
)
@click.option("--list", "listing", is_flag=True, help="Show what is watched.")
@click.option(
    "--remove", metavar="N|PATH", help="End the watching of source N, or of all sources with that path."
)
@click.option(
    "--timeout",
    type=common.Duration(),
    default=300.0,
    metavar="T",
    help="Tell of one change for at most T, like 90s or 5m (the default).",
)
@common.once
@common.output("text", "json")
@click.pass_obj
def watch(
    session: Session,
    *,
    paths: tuple[str, ...],
    env_files: tuple[str, ...],
    keep: bool,
    listing: bool,
    remove: str | None,
    timeout: float,
    once: bool,
    form: str,
) -> ExitCode:
    """Apply stack files now, and again whenever they change.

    Every file that they depend on is watched: stack files, folders, env files, secrets and configs. A broken edit is shown
    and changes nothing. A stack that is no longer written stays, until `orchestrator delete`. Ctrl-C ends the watching, not
    the containers. Variables are those of the environment in which watching began.

    \b
    Example:
      orchestrator watch -f shop.yaml
      orchestrator watch -f stacks/ --env-file production.env --keep
      orchestrator watch --list
      orchestrator watch --remove stacks/
    """
    from orchestrator.cli.commands import watch as command
    from orchestrator.cli.views import failures, fetching
    from orchestrator.cli.views import watching as view

    if bool(paths) + listing + (remove is not None) != 1:
        raise click.UsageError("say one of -f FILE, --list and --remove N|PATH")
    if listing:
        found = session.app.sources()
        if form == "json":
            session.terminal.document(view.document(found))
        else:
            view.show_list(session.terminal, found)
        return ExitCode.SETTLED
    if remove is not None:
        for each in command.remove(session.app, remove):
            view.removed(session.terminal, each)
        return ExitCode.SETTLED
    with fetching.shown(session.terminal) as watch:
        read = command.read(session.app, paths, env_files, watch)
    failures.diagnostics(session.terminal, read.warnings, read.sources)
    with interrupts.noticed() as cancelled:
        options = command.Options(keep=keep, once=once, timeout=timeout, cancelled=cancelled)
        number = command.begin(session.app, paths, env_files, read, options)
        view.begun(session.terminal, number, paths, keep=keep)
        return ExitCode.SETTLED if keep else _watch(session, number, options)


def _watch(session: Session, number: int, options: Options) -> ExitCode:
    """Until Ctrl-C, or until somebody else removes the source."""
    from orchestrator.cli.commands import watch as command
    from orchestrator.cli.views import progress
    from orchestrator.cli.views import watching as view

    watched = command.Watch(session.app, number, options)
    try:
        with command.attending(session.app, number, options):
            for look in watched.looks():
                view.look(session.terminal, look)
                for stack in look.stacks:
                    last = progress.follow(session.terminal, watched.follow(stack))
                    ended = watched.ended(stack, last)
                    if ended is None or options.cancelled():
                        break
                    progress.briefly(session.terminal, ended)
    finally:
        session.app.remove_source(number)
    view.ended(session.terminal, number, removed=watched.removed)
    return ExitCode.SETTLED if watched.removed else ExitCode.INTERRUPTED
