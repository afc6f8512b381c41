"""Verbs by which operators overrule a manifest for a while: restart, stop, start, suspend, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click

from orchestrator.cli import interrupts
from orchestrator.cli.arguments import common, completing
from orchestrator.cli.author import author
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session

if TYPE_CHECKING:
    from orchestrator.cli.commands.words import Options, Told

F = TypeVar("F", bound=Callable[..., object])


class _How(TypedDict):
    timeout: float
    no_wait: bool
    once: bool


def _following(verb: F) -> F:
    for option in (
        common.once,
        click.option("--no-wait", is_flag=True, help="Say it, and leave the rest to the agent."),
        common.timeout,
    ):
        verb = option(verb)
    return verb


@click.command()
@click.argument("ref", nargs=-1, required=True, shell_complete=completing.containers)
@_following
@click.pass_obj
def restart(session: Session, *, ref: tuple[str, ...], **how: Unpack[_How]) -> ExitCode:
    """Give containers a new process: REF is a container, an instance (web-1) or a whole group (web).

    The instances of a group come one after the other, each when the one before it is healthy again. One that was given
    up is started anew, and its past is forgiven. What needs it goes on, unless it says `on_restart: restart`.

    \b
    Example:
      orchestrator restart web-1
      orchestrator restart web shop:db
    """
    from orchestrator.cli.commands import words

    return _say(session, "restart", lambda options: words.restart(session.app, ref, options), **how)


@click.command()
@click.argument("ref", nargs=-1, required=True, shell_complete=completing.containers)
@_following
@click.pass_obj
def stop(session: Session, *, ref: tuple[str, ...], **how: Unpack[_How]) -> ExitCode:
    """Stop containers and hold them: nothing starts them, no apply, no agent, no reboot, until `start`.

    They stop in the reverse of their start order. What needs them goes on, but is not started anew. `ps`, `plan` and
    `status` show who holds what. Of a group, the instances that are there now are held.

    \b
    Example:
      orchestrator stop web-2
      orchestrator stop shop:db
    """
    from orchestrator.cli.commands import words

    return _say(session, "stop", lambda options: words.stop(session.app, ref, options), **how)


@click.command()
@click.argument("ref", nargs=-1, required=True, shell_complete=completing.containers)
@_following
@click.pass_obj
def start(session: Session, *, ref: tuple[str, ...], **how: Unpack[_How]) -> ExitCode:
    """Start containers that `stop` holds, and those that have ended or were given up.

    What they need comes first, as in an apply; edits made meanwhile are taken up.

    \b
    Example:
      orchestrator start web-2
      orchestrator start shop:db
    """
    from orchestrator.cli.commands import words

    return _say(session, "start", lambda options: words.start(session.app, ref, options), **how)


@click.command()
@click.argument("stack", shell_complete=completing.stacks)
@_following
@click.pass_obj
def suspend(session: Session, *, stack: str, **how: Unpack[_How]) -> ExitCode:
    """Leave STACK as it is until `resume`: nothing is started, stopped, mended or changed.

    For work by hand. An apply is recorded and takes effect at `resume`; `delete` works.

    \b
    Example:
      orchestrator suspend shop
    """
    from orchestrator.cli.commands import words

    return _say(session, "suspend", lambda options: [words.suspend(session.app, stack, options)], **how)


@click.command()
@click.argument("stack", shell_complete=completing.stacks)
@_following
@click.pass_obj
def resume(session: Session, *, stack: str, **how: Unpack[_How]) -> ExitCode:
    """Keep STACK as its newest revision says again, after `suspend`.

    \b
    Example:
      orchestrator resume shop
    """
    from orchestrator.cli.commands import words

    return _say(session, "resume", lambda options: [words.resume(session.app, stack, options)], **how)


def _say(
    session: Session, verb: str, say: Callable[[Options], Sequence[Told]], **how: Unpack[_How]
) -> ExitCode:
    from orchestrator.cli.commands import words
    from orchestrator.cli.views import progress

    code = ExitCode.SETTLED
    with interrupts.noticed() as cancelled:
        options = words.Options(
            author=author(verb),
            timeout=how["timeout"],
            wait=not how["no_wait"],
            once=how["once"],
            cancelled=cancelled,
        )
        for told in say(options):
            last = progress.follow(session.terminal, words.follow(session.app, told, options))
            ended = words.ended(session.app, told, last, options)
            progress.briefly(session.terminal, ended)
            code = max(code, ended.code)
            if code is ExitCode.INTERRUPTED:
                break
    return code
