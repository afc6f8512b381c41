"""Files on their way: what was passed over, how far it is (on a terminal), and the sum."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from orchestrator.cli.views import text
from orchestrator.cli.views.terminal import Terminal
from orchestrator.transfer.copying import Progress
from orchestrator.transfer.entries import Skipped, shown

_EVERY = 0.2  # seconds


def show(terminal: Terminal, events: Iterable[Progress | Skipped]) -> None:
    """Until the copy has ended; everything goes to stderr, stdout may be the tar stream."""
    live = terminal.verbosity >= 0 and sys.stderr.isatty()
    done, told = Progress(entries=0, bytes=0), time.monotonic()
    try:
        for each in events:
            if isinstance(each, Skipped):
                terminal.complain(f"{_clear(live)}skipped {text.printable(shown(each.names))}: {each.why}")
                continue
            done = each
            if live and time.monotonic() - told > _EVERY:
                told = time.monotonic()
                terminal.complain(f"{_clear(live)}{_sum(done)}", newline=False)
    finally:
        if live:
            terminal.complain(_clear(live), newline=False)
    terminal.say(f"copied {_sum(done)}")


def _sum(done: Progress) -> str:
    return f"{done.entries} {'entry' if done.entries == 1 else 'entries'}, {text.rough_size(done.bytes)}"


def _clear(live: bool) -> str:
    return "\r\x1b[K" if live else ""
