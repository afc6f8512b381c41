"""Signal names as users write them (`TERM`, `SIGHUP`, `RTMIN+3`, `9`) to numbers (signal(7))."""

from __future__ import annotations

import signal

from orchestrator.errors import StepError


def signal_number(name: str) -> int:
    """The number; raises StepError for what is no signal here."""
    text = name.upper().removeprefix("SIG")
    base, plus, offset = text.partition("+")
    try:
        number = (
            int(text) if text.isdigit() else int(signal.Signals[f"SIG{base}"]) + (int(offset) if plus else 0)
        )
    except (KeyError, ValueError):
        number = 0
    if not 0 < number <= signal.SIGRTMAX:
        raise StepError(f"no signal {name!r}", argument=name)
    return number
