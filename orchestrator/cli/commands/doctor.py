"""`doctor`: what this host can and cannot do."""

from __future__ import annotations

from orchestrator.app import App
from orchestrator.doctor.facts import Finding
from orchestrator.doctor.judging import judge


def doctor(app: App) -> tuple[Finding, ...]:
    return judge(app.examine())
