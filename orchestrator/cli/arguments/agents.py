"""The verb of the resident agent: agent."""

from __future__ import annotations

import click

from orchestrator.cli.arguments import common
from orchestrator.cli.exits import ExitCode
from orchestrator.cli.session import Session


@click.command()
@click.option(
    "--status", is_flag=True, help="Show whether one runs and how its stacks stand; exit with 1 if none does."
)
@click.option(
    "--stop", is_flag=True, help="End it until the next apply. Containers go on; nobody restarts them."
)
@common.output("text", "json")
@click.pass_obj
def agent(session: Session, *, status: bool, stop: bool, form: str) -> ExitCode:
    """Keep every stack as its newest revision says, in the foreground.

    Mostly you need not call this: `apply` has the agent started in the background, and it is started again whenever it
    dies. Use it in a service of your own, or to watch one at work, after `agent --stop`.

    \b
    Example:
      orchestrator agent --status
      orchestrator agent --stop
    """
    from orchestrator.cli.views import agents as view

    if status and stop:
        raise click.UsageError("--status and --stop exclude each other")
    if status:
        found = session.app.agent_status()
        if form == "json":
            session.terminal.document(view.document(found))
        else:
            view.show(session.terminal, found)
        return ExitCode.SETTLED if found is not None else ExitCode.FAILED
    if stop:
        session.app.stop_agent()
        session.terminal.say(
            "the agent is stopped; containers go on, and nobody restarts them until the next apply"
        )
        return ExitCode.SETTLED
    session.terminal.say("keeping all stacks; end with Ctrl-C, containers go on")
    session.app.be_agent()
    return ExitCode.SETTLED
