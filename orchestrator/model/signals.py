"""Signal names as users write them (`TERM`, `SIGHUP`, `RTMIN+3`, `9`) to numbers (signal(7)), and back."""

from __future__ import annotations

import difflib
import re
import signal

from orchestrator.errors import UsageError

VALID = frozenset(map(int, signal.valid_signals()))


def signal_number(name: str) -> int:
    """The number; raises UsageError for what is no signal here."""
    text = name.upper().removeprefix("SIG")
    found = re.fullmatch(r"([A-Z][A-Z0-9]*)(?:\+(\d{1,2}))?|\d{1,2}", text, re.ASCII)
    number = 0
    if found and found[1] is None:
        number = int(text)
    elif found and (found[2] is None or found[1] == "RTMIN"):
        base = signal.Signals.__members__.get(f"SIG{found[1]}")
        number = int(base) + int(found[2] or 0) if base else 0
    if number not in VALID:
        raise UsageError(f"no signal is called {name!r}", hint=_near(text))
    return number


def signal_name(number: int) -> str:
    """9 -> SIGKILL, 37 -> SIGRTMIN+3."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _near(text: str) -> str:
    names = [each.removeprefix("SIG") for each in signal.Signals.__members__]
    near = difflib.get_close_matches(text, names, n=1)
    return f"did you mean {near[0]}?" if near else "see `kill -l` for what there is"
