"""Exits in the model's words, from the dicts of the wire and of journals. For clients; the supervisor knows no model.

In: JSON data. Out: `Exit` values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.model.observed import Exit
from orchestrator.supervisor import journal


def exit_of(data: Mapping[str, Any]) -> Exit:
    """One line of a journal; unknown keys are ignored. Raises KeyError without its times."""
    return Exit(
        started=data["started"],
        ended=data["ended"],
        code=data.get("code"),
        signal=data.get("signal"),
        oom=data.get("oom", False),
        stopped=data.get("stopped", False),
        error=data.get("error"),
        fault=data.get("fault"),
    )


def read_exits(path: str) -> tuple[Exit, ...]:
    """The exits in a journal file, without the supervisor: at most 16, newest last; those of an earlier boot have times
    0."""
    return tuple(exit_of(each) for each in journal.read(path))
