"""Verbs about the text alone: validate, graph, schema, version. They need no root and touch nothing."""

from __future__ import annotations

import click

from orchestrator.cli.arguments import common
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session


@click.command()
@common.files()
@common.env_file
@click.pass_obj
def validate(session: Session, *, paths: tuple[str, ...], env_files: tuple[str, ...]) -> ExitCode:
    """Check stack files: every error at once, with its line.

    \b
    Example:
      orchestrator validate -f shop.yaml
      orchestrator validate -f stacks/ -f extra.yaml --env-file production.env
    """
    from orchestrator.cli.commands import manifests
    from orchestrator.cli.views import documents, failures

    read = manifests.read(session.app, paths, env_files)
    failures.diagnostics(session.terminal, read.warnings, read.sources)
    documents.valid(session.terminal, read)
    return ExitCode.SETTLED


@click.command()
@common.files()
@common.env_file
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "dot", "mermaid", "json"]),
    default="text",
    show_default=True,
    help="A tree, Graphviz, Mermaid, or a document.",
)
@click.pass_obj
def graph(session: Session, *, paths: tuple[str, ...], env_files: tuple[str, ...], form: str) -> ExitCode:
    """Show what needs what.

    \b
    Example:
      orchestrator graph -f examples/quickstart.yaml
      orchestrator graph -f shop.yaml --format dot | dot -Tsvg > shop.svg
    """
    from orchestrator.cli.commands import manifests
    from orchestrator.cli.views import documents

    documents.graph(session.terminal, manifests.read(session.app, paths, env_files).stacks, form)
    return ExitCode.SETTLED


@click.command()
@click.pass_obj
def schema(session: Session) -> ExitCode:
    """Print the JSON Schema of stack files, for editors.

    \b
    Example:
      orchestrator schema > stack.schema.json
    and as the first line of a stack file:
      # yaml-language-server: $schema=stack.schema.json
    """
    session.terminal.out(session.app.schema(), newline=False)
    return ExitCode.SETTLED


@click.command()
@click.pass_obj
def version(session: Session) -> ExitCode:
    """Print the version.

    \b
    Example:
      orchestrator version
    """
    from orchestrator import __version__

    session.terminal.out(f"orchestrator {__version__}")
    return ExitCode.SETTLED
