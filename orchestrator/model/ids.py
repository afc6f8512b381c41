"""Names of things: `Ref` names a wish, an id names one incarnation of it.

In and out: plain values. Every layer above speaks in these; nothing here touches the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a resource is. The order is that of creation where nothing else decides."""

    STACK = "stack"  # the whole stack's budget: the parent cgroup
    ROOTFS = "rootfs"
    NETWORK = "network"  # `edge`, or another stack's: `infra/edge`
    VOLUME = "volume"  # likewise
    GROUP = "group"  # one instance (web-1): namespaces, addresses, hosts file, budget
    SERVICE = "service"  # the name `web`: virtual address and published ports over its instances
    CONTAINER = "container"


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """The only way to name a thing; prints as `container/web-1/server`."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def owner(self) -> str | None:
        """The other stack whose network or volume this is: `infra` of `network/infra/edge`; None of one's own."""
        if self.kind is not Kind.NETWORK and self.kind is not Kind.VOLUME:
            return None
        owner, slash, _ = self.name.partition("/")
        return owner if slash else None

    @classmethod
    def parse(cls, text: str) -> Ref:
        """`container/web-1/server` -> Ref; raises ValueError on an unknown kind or an empty name."""
        kind, _, name = text.partition("/")
        if not name:
            raise ValueError(f"{text!r} is not KIND/NAME")
        return cls(Kind(kind), name)


@dataclass(frozen=True, slots=True, order=True)
class Incarnation:
    """One living (or once living) instance of a wish: `id` is 12 hex digits, unique on this host."""

    stack: str
    ref: Ref
    id: str

    def __str__(self) -> str:
        return f"{self.stack}:{self.ref}@{self.id}"
