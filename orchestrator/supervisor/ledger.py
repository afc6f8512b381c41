"""What changed since a client last asked: a thousand states that are the same need not be told every time.

In: ids as their state changes. Out: pages of states. A client's point is (epoch, number): the epoch is (a part of) one
life of the supervisor, the number counts changes in it. Whoever comes with another epoch, or none, is told everything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from orchestrator.supervisor.container import Container

_PAGE = 2000  # states in one answer; each has at most 16 exits, so that it stays far below a frame's limit
_GONE = 1000  # forgotten ids that are remembered, beyond as many as there are others


class Ledger:
    """The containers of one supervisor by id, and in which order they changed."""

    def __init__(self) -> None:
        self._epoch = os.urandom(6).hex()
        self._number = 0
        self._changed: dict[str, int] = {}  # id -> number of its last change, in ascending order

    def touch(self, id: str) -> None:
        """The state of `id` is another now, or it is forgotten."""
        self._number += 1
        self._changed.pop(id, None)
        self._changed[id] = self._number

    def page(self, containers: Mapping[str, Container], point: Sequence[Any] | None) -> dict[str, Any]:
        """The changes since `point`, the earliest first. `fresh`: what was told before does not hold any more; `more`: ask
        again with the new `point`."""
        self._prune(containers)
        known = point[1] if point and point[0] == self._epoch else None
        later = list(takewhile(lambda id: self._changed[id] > (known or 0), reversed(self._changed)))
        told = later[::-1][:_PAGE]
        return {
            "point": [self._epoch, self._changed[told[-1]] if told else self._number],
            "fresh": known is None,
            "more": len(told) < len(later),
            "states": [containers[id].state() for id in told if id in containers],
            "gone": [id for id in told if id not in containers],
        }

    def _prune(self, containers: Mapping[str, Container]) -> None:
        """Forget the forgotten, where they are many; who last asked before is told everything."""
        if len(self._changed) > 2 * len(containers) + _GONE:
            self._changed = {id: number for id, number in self._changed.items() if id in containers}
            self._epoch = os.urandom(6).hex()
