"""The one event loop of the supervisor: descriptors that became ready, and times that came. Never blocks but in epoll.

In: callbacks. A callback that fails is written to stderr (the keeper's log) and the loop goes on.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
import traceback
from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Timer:
    """A callback that may be taken back."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self.stopped = False

    def watch(self, fd: int, callback: Callable[[], object], events: int = READ) -> None:
        """Call back while `fd` is ready (level-triggered)."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Before the descriptor is closed; unknown ones are fine."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back once, after `delay` seconds."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._order), timer))
        return timer

    def run(self) -> None:
        while not self.stopped:
            timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
            for fd, _ in self._epoll.poll(timeout):
                callback = self._callbacks.get(fd)  # an earlier callback of this round may have unwatched it
                if callback is not None:
                    _guarded(callback)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                callback = heapq.heappop(self._timers)[2].callback
                if callback is not None:
                    _guarded(callback)


def _guarded(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        traceback.print_exc()
