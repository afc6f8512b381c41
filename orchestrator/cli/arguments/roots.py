"""`rootfs`: the store where containers' roots come from."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.cli.arguments import common, completing
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session


@click.group()
def rootfs() -> None:
    """The store of roots: images, recipes and archives that are here, for whom, and how large.

    \b
    Example:
      orchestrator rootfs ls
      orchestrator rootfs pull registry.example/shop/app:1.4
      orchestrator rootfs prune
    """


@rootfs.command()
@common.output("text", "json")
@click.pass_obj
def ls(session: Session, *, form: str) -> ExitCode:
    """List what is in the store.

    SIZE is what it takes on disk, OWN what of that nothing else shares; STACKS run on it.

    \b
    Example:
      orchestrator rootfs ls
    """
    from orchestrator.cli.views import roots as view

    found = session.app.roots.entries()
    if form == "json":
        session.terminal.document(view.document(found))
    else:
        view.show(session.terminal, found)
    return ExitCode.SETTLED


@rootfs.command()
@click.argument("image", nargs=-1, required=True)
@common.output("text", "json")
@click.pass_obj
def pull(session: Session, *, image: tuple[str, ...], form: str) -> ExitCode:
    """Have images in the store, as their names stand now.

    IMAGE is a name in a registry, oci:DIR[:TAG], oci-archive:FILE or docker-archive:FILE. Credentials are those of
    `skopeo login` and `docker login`. What was fetched before is not fetched again.

    \b
    Example:
      orchestrator rootfs pull nginx:1.27 localhost:5000/shop/app
    """
    from orchestrator.cli.views import fetching
    from orchestrator.cli.views import roots as view

    with fetching.shown(session.terminal) as watch:
        found = session.app.roots.pull(image, os.getcwd(), watch)  # noqa: PTH109
    return view.fetched(session.terminal, found, form)


@rootfs.command()
@click.argument("name", nargs=-1)
@common.files()
@common.env_file
@common.output("text", "json")
@click.pass_obj
def build(
    session: Session, *, name: tuple[str, ...], paths: tuple[str, ...], env_files: tuple[str, ...], form: str
) -> ExitCode:
    """Build the recipes of stack files, all of them or those called NAME.

    `apply` builds what is missing by itself; this is for doing it before.

    \b
    Example:
      orchestrator rootfs build -f shop.yaml
      orchestrator rootfs build -f shop.yaml database
    """
    from orchestrator.cli.commands import roots as command
    from orchestrator.cli.views import fetching
    from orchestrator.cli.views import roots as view

    wishes = command.recipes(session.app, paths, env_files, name)
    with fetching.shown(session.terminal) as watch:
        found = session.app.roots.fetch(wishes, watch)
    return view.fetched(session.terminal, found, form)


@rootfs.command()
@click.argument("name", shell_complete=completing.roots)
@common.output("text", "json")
@click.pass_obj
def inspect(session: Session, *, name: str, form: str) -> ExitCode:
    """Show what is known of an image, recipe or archive: by its name, its digest or the beginning of that.

    Of an image also how it says that it is run: these are the defaults of its containers.

    \b
    Example:
      orchestrator rootfs inspect nginx:1.27
    """
    from orchestrator.cli.views import roots as view

    found = session.app.roots.details(name, os.getcwd())  # noqa: PTH109
    if form == "json":
        session.terminal.document(view.details_document(found))
    else:
        view.details(session.terminal, found)
    return ExitCode.SETTLED


@rootfs.command()
@click.argument("name", nargs=-1, shell_complete=completing.roots)
@click.option(
    "--repair",
    is_flag=True,
    help="Remove what is damaged and not in use; it is fetched again when it is needed.",
)
@click.pass_obj
def verify(session: Session, *, name: tuple[str, ...], repair: bool) -> ExitCode:
    """Compare what is in the store with what was put there, file by file. Exit with 1 if something differs.

    \b
    Example:
      orchestrator rootfs verify
      orchestrator rootfs verify nginx:1.27 --repair
    """
    from orchestrator.cli.views import roots as view

    roots, damaged = session.app.roots, False
    for each in roots.verify(name, os.getcwd()):  # noqa: PTH109
        refused = roots.repair(each) if repair and each.damage else None
        view.verified(session.terminal, each, repair=repair, refused=refused)
        damaged = damaged or bool(each.damage)
    return ExitCode.FAILED if damaged else ExitCode.SETTLED


@rootfs.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Only a terminal is asked.")
@click.pass_obj
def prune(session: Session, *, dry_run: bool, yes: bool) -> ExitCode:
    """Remove what nothing uses: no container, no kept revision of a stack, no lock file.

    Tags that were pulled and recipes that were built go too, if no stack uses them.

    \b
    Example:
      orchestrator rootfs prune --dry-run
    """
    from orchestrator.cli.views import roots as view

    roots = session.app.roots
    if not dry_run and not yes and sys.stdin.isatty():
        view.pruned(session.terminal, roots.prune(dry=True), dry=True)
        if not click.confirm("remove these?", default=False, err=True):
            return ExitCode.INTERRUPTED
    view.pruned(session.terminal, roots.prune(dry=dry_run), dry=dry_run)
    return ExitCode.SETTLED
