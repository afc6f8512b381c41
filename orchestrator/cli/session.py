"""What every verb receives: the application, opened for one root, and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.cli.views.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Session:
    app: App
    terminal: Terminal
