"""Findings of `doctor`: a line each, and what mends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.doctor.facts import Finding, Verdict

_STYLES = {Verdict.OK: "good", Verdict.WARN: "warn", Verdict.BAD: "bad"}


def show(terminal: Terminal, findings: Sequence[Finding]) -> None:
    width = max(len(each.name) for each in findings)
    for each in findings:
        mark = terminal.paint(f"{each.verdict:<4}", _STYLES[each.verdict])
        terminal.out(f"{mark}  {each.name:<{width}}  {text.printable(each.text)}")
        if each.mend:
            terminal.out(terminal.paint(f"      {'':<{width}}  -> {each.mend}", "soft"))
    counts = Counter(each.verdict for each in findings)
    terminal.out(", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict))


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Version 1: {"version", "findings": [{"name", "verdict", "text", "mend"}]}; verdicts are ok, warn, bad."""
    return {
        "version": 1,
        "findings": [
            {"name": each.name, "verdict": each.verdict.value, "text": each.text, "mend": each.mend}
            for each in findings
        ],
    }
