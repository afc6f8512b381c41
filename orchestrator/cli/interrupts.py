"""Ctrl-C and SIGTERM while we change the host: noticed between two steps; a second one ends us at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Gives the question "was there one?"; the usual handlers are back afterwards."""
    seen: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {each: signal.signal(each, notice) for each in _SIGNALS}
    try:
        yield lambda: bool(seen)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
