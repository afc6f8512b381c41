"""Verbs about what happens inside containers: logs, exec, cp, kill."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.cli.arguments import common, completing
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session
from orchestrator.errors import UsageError


@click.command()
@click.argument("ref", nargs=-1, required=True, shell_complete=completing.containers)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each.")
@common.since
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


@click.command(name="exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Forward standard input from a terminal too.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal inside.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Run as this user of the container.")
@click.option("-w", "--workdir", metavar="DIR", help="Run in this folder of the container.")
@click.option(
    "-e", "--env", metavar="KEY=VALUE", multiple=True, help="Set a variable; KEY alone: as it is here."
)
@click.argument("ref", shell_complete=completing.containers)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(
    session: Session,
    *,
    ref: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    user: str | None,
    workdir: str | None,
    env: tuple[str, ...],
) -> int:
    """Run COMMAND inside a running container; its exit code becomes ours: 127 where it is not found, 126 where it
    cannot be executed. It ends when this command ends.

    Standard input is forwarded where it is a file or a pipe, with -i always. With -it the terminal is joined to one
    inside: keys, Ctrl-C and its size go there.

    \b
    Example:
      orchestrator exec web-1 cat /etc/hosts
      orchestrator exec -it web-1 sh
      echo "select 1" | orchestrator exec db psql -U postgres
    """
    from orchestrator.cli.commands import exec as verb
    from orchestrator.cli.commands.terminal import Ours
    from orchestrator.ports.driver import ExecRequest

    if command[0] == "--":  # as kubectl's users write it
        command = command[1:]
    if not command:
        raise click.UsageError("missing argument 'COMMAND...'")
    here = sys.stdin.isatty()
    if tty and interactive and not here:
        raise UsageError(
            "standard input is not a terminal", hint="leave out -t: input goes through a pipe then"
        )
    variables = {"TERM": os.environ.get("TERM") or "xterm"} if tty else {}
    request = ExecRequest(command=command, env=variables | common.variables(env), user=user, workdir=workdir)
    if tty:
        ours = Ours(stdin=sys.stdin.fileno() if interactive else None, stdout=sys.stdout.fileno())
        return verb.run_in_terminal(session.app, ref, request, ours)
    streams = verb.Streams(
        stdin=None if here and not interactive else sys.stdin.buffer,
        stdout=sys.stdout.buffer,
        stderr=sys.stderr.buffer,
    )
    return verb.run(session.app, ref, request, streams)


@click.command()
@click.option(
    "-a", "--archive", is_flag=True, help="Keep owners; otherwise what comes belongs to root, or to you."
)
@click.option("-L", "--follow-link", is_flag=True, help="If SRC is a symlink, copy what it leads to.")
@click.argument("src", shell_complete=completing.places)
@click.argument("dst", shell_complete=completing.places)
@click.pass_obj
def cp(session: Session, *, src: str, dst: str, archive: bool, follow_link: bool) -> ExitCode:
    """Copy files and folders into or out of a running container. One of SRC and DST is REF:PATH, the other one a path of
    this host, or - for a tar stream.

    As with docker cp: a folder goes into a DST that is there and becomes a DST that is not; SRC/. means only what is in
    it. Devices, FIFOs and sockets are passed over; setuid bits do not leave a container.

    \b
    Example:
      orchestrator cp nginx.conf web-1:/etc/nginx/
      orchestrator cp web-1:/var/log/nginx ./logs
      orchestrator cp db:/var/lib/data - | zstd > data.tar.zst
    """
    from orchestrator.cli.commands import cp as command
    from orchestrator.cli.views import transfer

    if dst == "-" and sys.stdout.isatty():
        raise UsageError(
            "a tar stream is nothing for a terminal", hint="send standard output to a file or a pipe"
        )
    request = command.Request(source=src, target=dst, archive=archive, follow=follow_link)
    transfer.show(session.terminal, command.cp(session.app, request, sys.stdin.buffer, sys.stdout.buffer))
    return ExitCode.SETTLED


@click.command()
@click.option("-s", "--signal", metavar="SIG", default="KILL", show_default=True, help="A name or number.")
@click.argument("ref", nargs=-1, required=True, shell_complete=completing.containers)
@click.pass_obj
def kill(session: Session, *, ref: tuple[str, ...], signal: str) -> ExitCode:
    """Send a signal to the main process of each container. If that ends it, its restart policy applies.

    \b
    Example:
      orchestrator kill web-1
      orchestrator kill -s HUP web-1 web-2
    """
    from orchestrator.cli.commands import kill as command
    from orchestrator.model.signals import signal_name

    for sent in command.kill(session.app, ref, signal):
        session.terminal.say(f"{sent.target.ref}: sent {signal_name(sent.signal)}")
    return ExitCode.SETTLED
