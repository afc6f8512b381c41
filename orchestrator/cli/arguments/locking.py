"""The verb that writes down what images, archives and recipes came down to: lock."""

from __future__ import annotations

import click

from orchestrator.cli.arguments import common, completing
from orchestrator.cli.commands import manifests
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session


@click.command()
@click.argument("name", nargs=-1)
@common.files()
@common.env_file
@click.option(
    "--check", is_flag=True, help="Write nothing, ask nobody; exit with 3 if the lock does not fit."
)
@click.option(
    "--update", is_flag=True, help="Take anew what is locked already: all roots, or those called NAME."
)
@click.option(
    "--lock",
    "file",
    metavar="FILE",
    shell_complete=completing.files,
    help="Another file than stack.lock beside the stack file; plan, apply and watch use only that one.",
)
@common.output("text", "json")
@click.pass_obj
def lock(
    session: Session,
    *,
    name: tuple[str, ...],
    paths: tuple[str, ...],
    env_files: tuple[str, ...],
    check: bool,
    update: bool,
    file: str | None,
    form: str,
) -> ExitCode:
    """Write what images, archives and recipes come down to into stack.lock, beside the stack file.

    With that file there, plan, apply and watch use exactly what it says, on every machine, whatever a tag names by then,
    and refuse what it does not say. What it says already stays until --update.

    \b
    Example:
      orchestrator lock -f shop.yaml
      orchestrator lock -f shop.yaml --check
      orchestrator lock -f shop.yaml --update database
    """
    from orchestrator.cli.commands import lock as command
    from orchestrator.cli.views import failures, fetching
    from orchestrator.cli.views import locking as view

    if check and update:
        raise click.UsageError("--check and --update exclude each other")
    if name and not update:
        raise click.UsageError(f"{name[0]} says which root to take anew, which needs --update")
    read = manifests.read(session.app, paths, env_files)
    failures.diagnostics(session.terminal, read.warnings, read.sources)
    if check:
        found = command.check(session.app, read, file)
        if form == "json":
            session.terminal.document(view.checked_document(found))
        else:
            view.checked(session.terminal, found)
        return ExitCode.CHANGES if found else ExitCode.SETTLED
    with fetching.shown(session.terminal) as watch:
        written = command.lock(session.app, read, file, update=name if update else None, watch=watch)
    if form == "json":
        session.terminal.document(view.document(written))
    else:
        view.written(session.terminal, written)
    return ExitCode.SETTLED
