"""`volume`: data that outlives containers."""

from __future__ import annotations

import sys
from typing import IO

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
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Only a terminal is asked.")
@click.pass_obj
def prune(session: Session, *, dry_run: bool, yes: bool) -> ExitCode:
    """Remove the volumes that no stack wishes any more and no container mounts, with their data.

    \b
    Example:
      orchestrator volume prune --dry-run
    """
    from orchestrator.cli.views import volumes as view

    volumes = session.app.volumes_here
    found = volumes.prunable()
    view.pruned(session.terminal, found, dry=dry_run or (sys.stdin.isatty() and not yes))
    if dry_run or not found:
        return ExitCode.SETTLED
    if sys.stdin.isatty() and not yes:
        if not click.confirm("remove these and their data?", default=False, err=True):
            return ExitCode.INTERRUPTED
        view.pruned(session.terminal, found, dry=False)
    for each in found:
        volumes.remove(each)
    return ExitCode.SETTLED


@volume.command()
@click.argument("ref", shell_complete=completing.volumes)
@click.option(
    "-o", "--output", "file", type=click.File("wb"), default="-", help="A file instead of standard output."
)
@click.pass_obj
def backup(session: Session, *, ref: str, file: IO[bytes]) -> ExitCode:
    """Write the data of a volume as a tar stream.

    Files that change meanwhile may be torn: stop the containers first, or use the server's own tool for a dump.

    \b
    Example:
      orchestrator volume backup shop/orders -o orders.tar
      orchestrator volume backup shop/orders | zstd > orders.tar.zst
    """
    if file.isatty():
        raise UsageError(
            "a tar stream is nothing for a terminal", hint="give -o FILE, or send it into a pipe"
        )
    volumes = session.app.volumes_here
    found = volumes.one(ref)
    if found.running:
        head = session.terminal.paint("warning", "warn", err=True)
        session.terminal.complain(f"{head}: {', '.join(found.running)} may be writing to {found.ref}")
    sys.stdout.flush()
    volumes.backup(found, file)
    return ExitCode.SETTLED


@volume.command()
@click.argument("ref", shell_complete=completing.volumes)
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--replace", is_flag=True, help="Replace the data that is there.")
@click.pass_obj
def restore(session: Session, *, ref: str, file: IO[bytes], replace: bool) -> ExitCode:
    """Read the data of a volume from a tar stream. No container may run on it.

    The old data stays until the new is there as a whole.

    \b
    Example:
      orchestrator stop db
      orchestrator volume restore shop/orders orders.tar --replace
      orchestrator start db
    """
    if file.isatty():
        raise UsageError("a tar stream does not come from a terminal", hint="give a FILE, or a pipe")
    volumes = session.app.volumes_here
    found = volumes.one(ref)
    volumes.restore(found, file, replace=replace)
    session.terminal.say(f"{found.ref} is restored")
    return ExitCode.SETTLED
