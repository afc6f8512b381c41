"""How far pulls and builds are, on stderr: a block of lines that is drawn anew on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.cli.views.terminal import Terminal
from orchestrator.cli.views.text import printable, rough_size
from orchestrator.model.images import Wish
from orchestrator.ports.images import Progress, Watch

_REDRAW = 0.1  # seconds between two drawings
_UP, _CLEAR = "\x1b[{}A", "\x1b[J"
_WORDS = {"pull": "pulling", "unpack": "unpacking", "build": "building"}


@dataclass(slots=True)
class _Line:
    """One wish. `begun`: when it was first told of; `seen`: whether anything but `ready` was."""

    progress: Progress
    begun: float
    seen: bool = False


class _Fetching:
    """Told from several threads."""

    def __init__(self, terminal: Terminal, *, live: bool, width: int) -> None:
        self._terminal, self._live, self._width = terminal, live, width
        self._lines: dict[Wish, _Line] = {}
        self._drawn = 0
        self._next = 0.0
        self._lock = threading.Lock()

    def told(self, progress: Progress) -> None:
        with self._lock:
            now = time.monotonic()
            line = self._lines.get(progress.wish)
            changed = line is None or line.progress.stage != progress.stage
            line = self._lines.setdefault(progress.wish, _Line(progress, now))
            line.progress = progress
            line.seen = line.seen or progress.stage != "ready"
            if progress.stage == "ready":
                self._ready(line, now)
            elif not self._live and changed:
                self._terminal.say(_shown(progress))
            elif self._live and (changed or now >= self._next):
                self._draw(now)

    def clear(self) -> None:
        with self._lock:
            self._erase()

    def _ready(self, line: _Line, now: float) -> None:
        self._erase()
        del self._lines[line.progress.wish]
        if line.seen:  # what was there already is no news
            word = self._terminal.paint("ready", "good", err=True)
            self._terminal.say(f"{word} {printable(line.progress.wish.name)} in {now - line.begun:.1f} s")
        if self._live:
            self._draw(now)

    def _draw(self, now: float) -> None:
        self._erase()
        for each in self._lines.values():
            self._terminal.say(_shown(each.progress)[: self._width - 1])
        self._drawn, self._next = len(self._lines), now + _REDRAW

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(_UP.format(self._drawn) + _CLEAR)
            self._drawn = 0


@contextmanager
def shown(terminal: Terminal) -> Iterator[Watch]:
    """Give it to whoever pulls and builds; what is not ready when the block ends is not shown any more."""
    import shutil

    live = sys.stderr.isatty() and terminal.verbosity >= 0
    fetching = _Fetching(terminal, live=live, width=shutil.get_terminal_size().columns)
    try:
        yield fetching.told
    finally:
        fetching.clear()


def _shown(progress: Progress) -> str:
    name = printable(progress.wish.name)
    text = f"{_WORDS.get(progress.stage, progress.stage)} {name}"
    if progress.total:
        part = min(100, progress.done * 100 // progress.total)
        text += f"  {rough_size(progress.done)} of {rough_size(progress.total)} ({part} %)"
    return text + (f"  {printable(progress.line)}" if progress.line else "")
