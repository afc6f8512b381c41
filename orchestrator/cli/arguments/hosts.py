"""Verbs about this host and this shell: doctor, completion."""

from __future__ import annotations

import click

from orchestrator.cli.arguments import common
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session


@click.command()
@common.output("text", "json")
@click.pass_obj
def doctor(session: Session, *, form: str) -> ExitCode:
    """Say what this host can and cannot do, and how to mend it. Exits with 1 where something needed is missing.

    \b
    Example:
      orchestrator doctor
      orchestrator doctor --output json
    """
    from orchestrator.cli.commands import doctor as command
    from orchestrator.cli.views import doctor as view
    from orchestrator.doctor.judging import failed

    findings = command.doctor(session.app)
    if form == "json":
        session.terminal.document(view.document(findings))
    else:
        view.show(session.terminal, findings)
    return ExitCode.FAILED if failed(findings) else ExitCode.SETTLED


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> ExitCode:
    """Print what makes SHELL complete verbs, options, stacks and containers.

    \b
    Example:
      orchestrator completion bash > /etc/bash_completion.d/orchestrator
      orchestrator completion zsh > "${fpath[1]}/_orchestrator"
      orchestrator completion fish > ~/.config/fish/completions/orchestrator.fish
      eval "$(orchestrator completion bash)"              for this shell alone
    """
    from click.shell_completion import ShellComplete, get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    script = found(click.Command("orchestrator"), {}, "orchestrator", "_ORCHESTRATOR_COMPLETE")
    click.echo(ShellComplete.source(script))  # not bash's own, which starts bash to ask for its version
    return ExitCode.SETTLED
