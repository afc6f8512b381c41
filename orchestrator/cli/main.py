"""`orchestrator`: the entry point. Finds the verb, and turns every ending into one exit code and one clear message.

Verbs are imported when they are called, so that `ps` and `--help` start fast.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from orchestrator.app import App
from orchestrator.cli.exits import TABLE, ExitCode
from orchestrator.cli.session import Session
from orchestrator.cli.views import failures
from orchestrator.cli.views.terminal import Color, Terminal
from orchestrator.errors import HostError, ManifestError, OrchestratorError

# verb -> module of `arguments`, in the order of --help; each module has a command of that name.
_VERBS = {
    "validate": "manifests",
    "plan": "changes",
    "apply": "changes",
    "delete": "changes",
    "restart": "words",
    "stop": "words",
    "start": "words",
    "suspend": "words",
    "resume": "words",
    "ls": "looking",
    "ps": "looking",
    "top": "looking",
    "status": "conditions",
    "wait": "conditions",
    "logs": "inside",
    "exec": "inside",
    "cp": "inside",
    "kill": "inside",
    "inspect": "looking",
    "events": "history",
    "history": "history",
    "watch": "watching",
    "rootfs": "roots",
    "volume": "volumes",
    "lock": "locking",
    "agent": "agents",
    "doctor": "hosts",
    "graph": "manifests",
    "schema": "manifests",
    "completion": "hosts",
    "version": "manifests",
}


class Verbs(click.Group):
    """The group of all verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"orchestrator.cli.arguments.{_VERBS[cmd_name]}")
        found: click.Command = getattr(module, "exec_" if cmd_name == "exec" else cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.get_short_help_str(70)) for name, verb in found if verb])

    def main(self, *args: Any, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except click.ClickException as error:
            _usage(error)
            code = ExitCode.USAGE
        except click.Abort:
            code = ExitCode.INTERRUPTED
        sys.exit(int(code or 0))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # The reader has seen enough (`| head`). Python would complain once more when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return ExitCode.SETTLED
        except KeyboardInterrupt:
            _terminal(ctx).complain("interrupted")
            return ExitCode.INTERRUPTED
        except OrchestratorError as error:
            return _failed(_terminal(ctx), error)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except PermissionError as error:
            if os.geteuid() == 0:
                failures.bug(_terminal(ctx), error)
                return ExitCode.FAILED
            reason = f"{error.filename or 'this'}: only root may do that"
            return _failed(_terminal(ctx), HostError(reason, hint="run it with sudo"))
        except Exception as error:
            failures.bug(_terminal(ctx), error)
            return ExitCode.FAILED


def _failed(terminal: Terminal, error: OrchestratorError) -> int:
    if isinstance(error, ManifestError):
        failures.diagnostics(terminal, error.diagnostics, getattr(error, "sources", {}))
    else:
        failures.error(terminal, error)
    return error.exit_code


def _usage(error: click.ClickException) -> None:
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    failures.error(
        Terminal(),
        OrchestratorError(
            message[:1].lower() + message[1:],
            hint=f"see `{context.command_path} --help`" if context else None,
        ),
    )


def _terminal(ctx: click.Context) -> Terminal:
    return ctx.obj.terminal if isinstance(ctx.obj, Session) else Terminal()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\n" + TABLE,
)
@click.option(
    "--root",
    metavar="DIR",
    envvar="ORCHESTRATOR_ROOT",
    help="Keep everything of this instance under DIR instead of /var/lib and /run. Also ORCHESTRATOR_ROOT.",
)
@click.option(
    "--color",
    type=click.Choice([each.value for each in Color]),
    default=Color.AUTO.value,
    help="Colour: auto is only on a terminal.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, only results and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Traces of internal errors.")
@click.pass_context
def cli(ctx: click.Context, *, root: str | None, color: str, quiet: bool, verbose: bool) -> None:
    """Make this host look like a stack of containers written in YAML, and look at what runs.

    \b
    Example:
      orchestrator plan  -f examples/quickstart.yaml     what would change, and why
      orchestrator apply -f examples/quickstart.yaml     make it so
      orchestrator ps                                    what runs
      orchestrator logs web-1                            what it printed
      orchestrator delete quickstart                     end it; volumes stay
    """
    opened: Callable[[str | None], App] = ctx.obj or App.open
    verbosity = 1 if verbose else -1 if quiet else 0
    ctx.obj = Session(opened(root), Terminal(color=Color(color), verbosity=verbosity))


def main() -> None:
    """The console script."""
    # What a command makes is needed until it ends: looking for garbage in it took a twelfth of an `apply`.
    gc.set_threshold(100_000)
    cli()
