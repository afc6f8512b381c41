"""`volume`: data that outlives containers."""

from __future__ import annotations

import sys

import click

from orchestrator.cli.arguments import common, completing
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session
from orchestrator.errors import UsageError


@click.group()
def volume() -> None:
    """Volumes: data that outlives containers and stacks.

    REF is STACK/NAME, or the name alone where only one stack has such a volume.

    \b
    Example:
      orchestrator volume ls
      orchestrator volume backup shop/orders -o orders.tar
      orchestrator volume backup shop/orders | ssh other orchestrator volume restore shop/orders
    """


@volume.command()
@common.output("text", "json")
@click.pass_obj
def ls(session: Session, *, form: str) -> ExitCode:
    """List all volumes of which there is data.

    STATE is in use, unused, or kept: no stack wishes it any more.

    \b
    Example:
      orchestrator volume ls
    """
    from orchestrator.cli.views import volumes as view

    found = session.app.volumes_here.all()
    if form == "json":
        session.terminal.document(view.document(found))
    else:
        view.show(session.terminal, found)
    return ExitCode.SETTLED


@volume.command()
@click.argument("ref", shell_complete=completing.volumes)
@common.output("text", "json")
@click.pass_obj
def inspect(session: Session, *, ref: str, form: str) -> ExitCode:
    """Show where a volume lies, how large it is and who mounts it.

    \b
    Example:
      orchestrator volume inspect shop/orders
    """
    from orchestrator.cli.views import volumes as view

    found = session.app.volumes_here.one(ref)
    if form == "json":
        session.terminal.document({"version": 1, **view.row(found)})
    else:
        view.details(session.terminal, found)
    return ExitCode.SETTLED


@volume.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune(session: Session, *, dry_run: bool, yes: bool) -> ExitCode:
    """Remove the volumes that no stack wishes any more and no container mounts, with their data.

    It cannot be undone. Where there is no terminal to ask, nothing is removed without --yes.

    \b
    Example:
      orchestrator volume prune --dry-run
    """
    from orchestrator.cli.views import volumes as view

    volumes = session.app.volumes_here
    found = volumes.prunable()
    ask = not yes and not dry_run and bool(found)
    if ask and not sys.stdin.isatty():
        raise UsageError("nobody can be asked whether data may go", hint="add --yes, or look with --dry-run")
    if dry_run or ask or not found:
        view.pruned(session.terminal, found, dry=dry_run or ask)
    if ask and not click.confirm("remove these and their data?", default=False, err=True):
        return ExitCode.INTERRUPTED
    if found and not dry_run:
        view.pruned(session.terminal, [each for each in found if volumes.remove(each)], dry=False)
    return ExitCode.SETTLED


@volume.command()
@click.argument("ref", shell_complete=completing.volumes)
@click.option(
    "-o", "--output", "path", metavar="FILE", default="-", help="A file instead of standard output."
)
@click.option("--live", is_flag=True, help="Do not warn of containers that may be writing to it.")
@click.pass_obj
def backup(session: Session, *, ref: str, path: str, live: bool) -> ExitCode:
    """Write the data of a volume as a tar stream.

    Files that change meanwhile may be torn: stop the containers first, or use the server's own tool for a dump. FILE
    appears once it is whole.

    \b
    Example:
      orchestrator volume backup shop/orders -o orders.tar
      orchestrator volume backup shop/orders | zstd > orders.tar.zst
    """
    from orchestrator.cli.commands import volumes as command

    return command.backup(session, ref, path, live=live)


@volume.command()
@click.argument("ref", shell_complete=completing.volumes)
@click.argument("path", metavar="[FILE]", default="-", shell_complete=completing.files)
@click.option("--replace", is_flag=True, help="Replace the data that is there.")
@click.pass_obj
def restore(session: Session, *, ref: str, path: str, replace: bool) -> ExitCode:
    """Read the data of a volume from a tar stream, compressed or not. No container may run on it.

    The old data stays until the new is there as a whole. A volume that is not there yet is made.

    \b
    Example:
      orchestrator stop db
      orchestrator volume restore shop/orders orders.tar --replace
      orchestrator start db
    """
    from orchestrator.cli.commands import volumes as command

    return command.restore(session, ref, path, replace=replace)
