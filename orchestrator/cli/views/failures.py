"""Errors as people read them: diagnostics with their place, one line otherwise, never a traceback (but with -v)."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping

from orchestrator.cli.views.terminal import Terminal
from orchestrator.diagnostics import Diagnostic, Severity, render
from orchestrator.errors import OrchestratorError


def diagnostics(terminal: Terminal, found: Iterable[Diagnostic], sources: Mapping[str, str]) -> None:
    for each in found:
        head, _, rest = render([each], sources).partition(":")
        style = "bad" if each.severity is Severity.ERROR else "warn"
        terminal.complain(f"{terminal.paint(head, style, err=True)}:{rest}")


def error(terminal: Terminal, failure: OrchestratorError) -> None:
    terminal.complain(f"{terminal.paint('error', 'bad', err=True)}: {failure.message}")
    if failure.hint:
        terminal.complain(f"  hint: {failure.hint}")


def bug(terminal: Terminal, failure: BaseException) -> None:
    """What we did not foresee."""
    terminal.complain(
        f"{terminal.paint('internal error', 'bad', err=True)}: {type(failure).__name__}: {failure}"
    )
    if terminal.verbosity > 0:
        terminal.complain("".join(traceback.format_exception(failure)), newline=False)
    else:
        terminal.complain(
            "  hint: run it again with -v before the verb, and report what it prints with the manifest"
        )
