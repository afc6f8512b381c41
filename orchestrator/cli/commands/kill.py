"""`kill`: a signal for the main process of each container; what follows from its end is the restart policy's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.cli import running
from orchestrator.errors import UsageError
from orchestrator.model.ids import Incarnation
from orchestrator.model.signals import signal_number


@dataclass(frozen=True, slots=True)
class Sent:
    target: Incarnation
    signal: int


def kill(app: App, texts: Sequence[str], signal: str) -> Iterator[Sent]:
    """What was sent, as it happens. Every name is understood before the first signal."""
    number = signal_number(signal)
    for target in running.find_all(app, texts):
        if not app.runtime.signal(target, number):
            raise UsageError(f"{target.ref} has just ended", hint=f"see `orchestrator logs {target.ref}`")
        yield Sent(target, number)
