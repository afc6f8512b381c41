"""Taking an instance out of its services before it stops, and waiting for those who are still being served.

In: groups, by which of their containers. Out: a drain in effect, seconds waited, flows forgotten. Its addresses stay out
until that container has started again, or the service is updated with the instance ready.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Sequence

from orchestrator.drivers.network.attached import Register
from orchestrator.drivers.network.conntrack import Flow, Tracking
from orchestrator.drivers.network.effect import Drain, Effect, reached
from orchestrator.model.ids import Incarnation, Ref

_PAUSE = 0.05  # seconds between two looks; a look costs 9 ms, shared by all who wait


class Drains:
    def __init__(self, register: Register, effect: Effect, tracking: Tracking) -> None:
        self._register = register
        self._effect = effect
        self._tracking = tracking

    def begin(self, group: Incarnation, by: Ref, seconds: float) -> bool:
        """No new flow reaches the group by a service; those that are open have `seconds` from then on. Whether there are
        any flows that `forget` would find."""
        addresses = self._addresses(group)
        if not addresses:
            return False
        if not reached(self._effect.loaded().services.values()).isdisjoint(addresses):
            self._effect.put(_key(group, by), Drain(addresses=addresses))
        deadline = self._effect.left(addresses) + seconds
        while True:
            flows = self._tracking.flows(addresses)
            self._tracking.forget(each for each in flows if _moves(each, addresses))
            busy = any(each.server in addresses and each.is_open() for each in flows)
            left = deadline - time.monotonic()
            if not busy or left <= 0:
                return bool(flows)
            time.sleep(min(_PAUSE, left))

    def end(self, group: Incarnation, by: Ref) -> None:
        """The container runs again."""
        if _key(group, by) in self._effect.loaded().drains:
            self._effect.put(_key(group, by), None)

    def of(self, addresses: Collection[str]) -> Sequence[str]:
        """The ids of the drains of any of these addresses."""
        drains = self._effect.loaded().drains
        return [id for id, each in drains.items() if any(address in addresses for address in each.addresses)]

    def move(self, addresses: Collection[str]) -> None:
        """Datagrams that went to these addresses by a service find another one; what is TCP may end by itself."""
        self._tracking.forget(each for each in self._tracking.flows(addresses) if _moves(each, addresses))

    def forget(self, group: Incarnation) -> None:
        """Nothing of the group is left: whoever gets its address next is not taken for it."""
        self._tracking.forget(self._tracking.flows(self._addresses(group)))

    def _addresses(self, group: Incarnation) -> tuple[str, ...]:
        found = self._register.read(group.id)
        return tuple(found.networks.values()) if found is not None else ()


def _moves(flow: Flow, addresses: Collection[str]) -> bool:
    translated = flow.server in addresses and flow.target != flow.server
    return translated and flow.protocol == socket.IPPROTO_UDP


def _key(group: Incarnation, by: Ref) -> str:
    return f"{group.stack}:{by}"
