"""Verbs that change the host, and the one that says what they would do: plan, apply, delete."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from orchestrator.cli import interrupts
from orchestrator.cli.arguments import common, completing
from orchestrator.cli.author import author
from orchestrator.cli.commands import manifests
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session
from orchestrator.control.reading import Read
from orchestrator.plan.changes import Policy


@click.command()
@common.files()
@common.env_file
@common.output("text", "json")
@click.option("--check", is_flag=True, help="Exit with 3 if there are changes.")
@common.prune_data
@click.pass_obj
def plan(
    session: Session,
    *,
    paths: tuple[str, ...],
    env_files: tuple[str, ...],
    form: str,
    check: bool,
    prune_data: bool,
) -> ExitCode:
    """Show what apply would do, and why. Touches nothing.

    Each change has its verb (create, start, update, restart, replace, delete), its reason, and the fields with old and new
    value and their place in the manifest. An update happens while the container runs, under the same pid.

    \b
    Example:
      orchestrator plan -f shop.yaml
      orchestrator plan -f shop.yaml --check --output json
    """
    read = _read(session, paths, env_files, fetch=False)
    return _plan(session, read, Policy(prune_data=prune_data), form=form, check=check)


@click.command()
@common.files()
@common.env_file
@click.option("--dry-run", is_flag=True, help="Only plan.")
@common.timeout
@click.option(
    "--no-wait",
    is_flag=True,
    help="Commit, and leave the rest to the agent. Exit with 4 if somebody is at work on the stack.",
)
@common.once
@common.prune_data
@click.option("--resume", is_flag=True, help="If the stack is suspended, resume it.")
@click.option(
    "--allow-prune", is_flag=True, help="Delete even most of the running containers if they are not written."
)
@click.pass_obj
def apply(
    session: Session,
    *,
    paths: tuple[str, ...],
    env_files: tuple[str, ...],
    dry_run: bool,
    timeout: float,
    no_wait: bool,
    once: bool,
    prune_data: bool,
    resume: bool,
    allow_prune: bool,
) -> ExitCode:
    """Make this host as the stack files say, and wait until it is.

    Everything is checked before anything is touched. Then the manifest is kept as a new revision, and the agent (started if
    there is none) brings the host to it and keeps it so. What is not in the manifest any more is deleted; volumes stay
    unless --prune-data is given. Ctrl-C ends the waiting, not the agent's work.

    \b
    Example:
      orchestrator apply -f shop.yaml
      orchestrator apply -f stacks/ --env-file production.env --timeout 2m
      cat shop.yaml | orchestrator apply -f -
    """
    from orchestrator.cli.commands import apply as command
    from orchestrator.cli.views import progress

    read = _read(session, paths, env_files, fetch=not dry_run)
    policy = Policy(prune_data=prune_data)
    if dry_run:
        return _plan(session, read, policy, form="text", check=False)
    code = ExitCode.SETTLED
    with interrupts.noticed() as cancelled:
        options = command.Options(
            policy=policy,
            timeout=timeout,
            wait=not no_wait,
            once=once,
            resume=resume,
            allow_prune=allow_prune,
            author=author("apply"),
            cancelled=cancelled,
        )
        command.guard(session.app, read.stacks, options)
        for stack in read.stacks:
            last = progress.follow(session.terminal, command.apply(session.app, stack, options))
            ended = command.ended(session.app, stack, last)
            progress.applied(session.terminal, ended)
            code = max(code, ended.code)
            if code is ExitCode.INTERRUPTED:
                break
    return code


@click.command()
@click.argument("stack", nargs=-1, shell_complete=completing.stacks)
@common.files(required=False)
@common.env_file
@common.prune_data
@common.timeout
@common.once
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Only a terminal is asked.")
@click.pass_obj
def delete(
    session: Session,
    *,
    stack: tuple[str, ...],
    paths: tuple[str, ...],
    env_files: tuple[str, ...],
    prune_data: bool,
    timeout: float,
    once: bool,
    yes: bool,
) -> ExitCode:
    """End stacks, dependents first. Volumes stay unless --prune-data is given.

    By name it works without the manifest.

    \b
    Example:
      orchestrator delete shop
      orchestrator delete -f shop.yaml --prune-data
    """
    from orchestrator.cli.commands import delete as command
    from orchestrator.cli.views import progress

    if bool(stack) == bool(paths):
        raise click.UsageError("say what to delete: STACK or -f FILE")
    names = stack or tuple(each.name for each in manifests.read(session.app, paths, env_files).stacks)
    targets = command.targets(session.app, names, known=bool(stack))
    if not targets:
        session.terminal.say("nothing of it is here")
        return ExitCode.SETTLED
    targets = command.guarded(session.app, targets, prune_data=prune_data)
    if sys.stdin.isatty() and not yes and not _confirmed(targets, prune_data=prune_data):
        return ExitCode.INTERRUPTED
    code = ExitCode.SETTLED
    with interrupts.noticed() as cancelled:
        options = command.Options(
            prune_data=prune_data, timeout=timeout, once=once, author=author("delete"), cancelled=cancelled
        )
        for target in targets:
            last = progress.follow(session.terminal, command.delete(session.app, target, options))
            ended = command.ended(session.app, target, last)
            progress.deleted(session.terminal, ended)
            code = max(code, ended.code)
            if code is ExitCode.INTERRUPTED:
                break
    return code


def _read(session: Session, paths: Sequence[str], env_files: Sequence[str], *, fetch: bool) -> Read:
    """Valid stacks that this host can have, their images and recipes looked up, or here already."""
    from orchestrator.cli.views import failures, fetching

    read = manifests.read(session.app, paths, env_files)
    failures.diagnostics(session.terminal, read.warnings, read.sources)
    manifests.check(session.app, read)
    if not fetch:
        return manifests.rooted(session.app, read)
    with fetching.shown(session.terminal) as watch:
        return manifests.rooted(session.app, read, watch)


def _plan(session: Session, read: Read, policy: Policy, *, form: str, check: bool) -> ExitCode:
    from orchestrator.cli.commands import plan as command
    from orchestrator.cli.views import plan as view

    app = session.app
    found = [
        command.planned(stack, app.plan(stack, policy), app.orders(stack.name, ()).suspended)
        for stack in read.stacks
    ]
    if form == "json":
        session.terminal.document(view.document(found))
    else:
        view.show(session.terminal, found)
    changed = any(not each.plan.empty for each in found)
    return ExitCode.CHANGES if check and changed else ExitCode.SETTLED


def _confirmed(targets: Sequence[str], *, prune_data: bool) -> bool:
    what = f"delete {', '.join(targets)}{' with all data of its volumes' if prune_data else ''}?"
    return click.confirm(what, default=False, err=True)
