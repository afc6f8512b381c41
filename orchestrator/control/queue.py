"""The names of stacks that want to be looked at, and when: each once, however often it was asked for.

In: names, now or at a time. Out: one name to one worker at a time; a name that was added while it is worked on comes
again afterwards. It carries no events: whoever takes a name looks at the world.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Queue:
    """Safe for any number of threads. Times: seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._taken: set[str] = set()
        self._changed = threading.Condition()
        self._closed = False

    def add(self, name: str) -> None:
        """As soon as a worker is free."""
        self.add_at(name, self._clock())

    def add_at(self, name: str, when: float) -> None:
        """At `when`, or earlier where that was asked for."""
        with self._changed:
            known = self._due.get(name)
            if known is None or when < known:
                self._due[name] = when
                self._changed.notify()

    def forget(self, name: str) -> None:
        """Nobody need look at it any more."""
        with self._changed:
            self._due.pop(name, None)

    def names(self) -> frozenset[str]:
        with self._changed:
            return frozenset((*self._due, *self._taken))

    def take(self) -> str | None:
        """The name that has been due for longest and that nobody works on; waits for one. None: the queue was closed."""
        with self._changed:
            while not self._closed:
                free = [(when, name) for name, when in self._due.items() if name not in self._taken]
                when, name = min(free, default=(None, ""))
                now = self._clock()
                if when is not None and when <= now:
                    del self._due[name]
                    self._taken.add(name)
                    return name
                self._changed.wait(None if when is None else when - now)
            return None

    def done(self, name: str) -> None:
        """The worker has let go of it."""
        with self._changed:
            self._taken.discard(name)
            if name in self._due:
                self._changed.notify()

    def close(self) -> None:
        """Nobody gets a name any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
