"""Verbs about what happens inside containers: logs, exec."""

from __future__ import annotations

import sys

import click

from orchestrator.cli.arguments import common
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session


@click.command()
@click.argument("ref", nargs=-1, required=True)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each.")
@click.option(
    "--since",
    metavar="T",
    help="Only what is newer: 10m ago, or a time like 2026-01-31T12:00:00 (local unless it says otherwise).",
)
@click.option("--timestamps", is_flag=True, help="Say when each line was written.")
@click.pass_obj
def logs(
    session: Session,
    *,
    ref: tuple[str, ...],
    follow: bool,
    tail: int | None,
    since: str | None,
    timestamps: bool,
) -> ExitCode:
    """Show what containers wrote to stdout and stderr. Works for ended containers too.

    \b
    Example:
      orchestrator logs web-1
      orchestrator logs -f --tail 20 web-1 web-2
      orchestrator logs --since 10m --timestamps shop:db
    """
    from orchestrator.cli.commands import logs as command
    from orchestrator.cli.views import lines

    request = command.Request(refs=ref, follow=follow, tail=tail, since=common.moment(since))
    try:
        lines.show(session.terminal, command.read(session.app, request), timestamps=timestamps)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED  # the usual end of --follow
    return ExitCode.SETTLED


@click.command(
    name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("ref")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(session: Session, *, ref: str, command: tuple[str, ...]) -> int:
    """Run COMMAND inside a running container; its exit code becomes ours: 127 where it is not found, 126 where it
    cannot be executed.

    Standard input is forwarded where it is a file or a pipe. There is no terminal inside.

    \b
    Example:
      orchestrator exec web-1 cat /etc/hosts
      echo "select 1" | orchestrator exec db psql -U postgres
    """
    from orchestrator.cli.commands import exec as verb

    if command[0] == "--":  # as kubectl's users write it
        command = command[1:]
    if not command:
        raise click.UsageError("missing argument 'COMMAND...'")
    streams = verb.Streams(
        stdin=None if sys.stdin.isatty() else sys.stdin.buffer,
        stdout=sys.stdout.buffer,
        stderr=sys.stderr.buffer,
    )
    return verb.run(session.app, ref, command, streams)
