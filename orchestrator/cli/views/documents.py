"""What is about the text alone: the answer of `validate`, and graphs in their formats."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.control.reading import Read
from orchestrator.model.desired import Stack
from orchestrator.model.ids import Kind


def valid(terminal: Terminal, read: Read) -> None:
    for stack in read.stacks:
        containers = sum(each.kind is Kind.CONTAINER for each in stack.resources)
        terminal.out(f"stack {stack.name} is valid ({text.plural(containers, 'container')})")


def graph(terminal: Terminal, stacks: Sequence[Stack], form: str) -> None:
    from orchestrator.graph import render

    if form == "json":
        documents = [render.document(each) for each in stacks]
        terminal.document(documents[0] if len(documents) == 1 else documents)
        return
    draw = {"text": render.text, "dot": render.dot, "mermaid": render.mermaid}[form]
    for stack in stacks:
        terminal.out(draw(stack), newline=False)
