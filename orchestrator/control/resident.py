"""The agent from a client's side: is it there, have it look, follow what it does.

In: the layout, how it is started. Out: events as `loop.follow` gives them, the last of which is an end. An agent that dies
meanwhile is started again and followed further: what is to be done stands in the store, not in the request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.control.events import End, Event, Following, Interrupted, TimedOut, from_json
from orchestrator.errors import HostError
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import agent, wire

_SLICE = 0.25  # seconds between looks at `cancelled`
_LOSSES = 20  # connections in a row that bring no event


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """`command` and `env` start an agent of `version`."""

    layout: Layout
    command: Sequence[str]
    env: Mapping[str, str]
    version: str

    def ensure(self) -> None:
        """It answers when this returns; HostError otherwise."""
        agent.ensure(self.layout, self.command, self.env, self.version)

    def status(self) -> Mapping[str, Any] | None:
        """What it says of itself and of each stack; None: there is none."""
        answer = self._ask({"op": "status"})
        return answer.get("ok") if answer else None

    def nudge(self, stack: str | None) -> bool:
        """Have it look at the stack (None: at all, and at the sources) now; False: there is none."""
        return self._ask({"op": "nudge", "stack": stack}) is not None

    def stop(self) -> None:
        """It is gone when this returns, until somebody wants it again; containers go on."""
        agent.stop(self.layout)

    def follow(self, following: Following) -> Iterator[Event]:
        """Until an End, which is the last event."""
        deadline = None if following.timeout is None else time.monotonic() + following.timeout
        losses = 0
        while True:
            self.ensure()
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                for event in self._events(following, left):
                    yield event
                    losses = 0
                    if isinstance(event, End):
                        return
            except OSError as error:
                losses += 1
                if left == 0.0:
                    yield TimedOut(reasons={})
                    return
                if losses > _LOSSES:
                    raise HostError(
                        f"the agent ends again and again: {error}", hint="`apply --once` does without it"
                    ) from error
                time.sleep(0.05 * losses)

    def _events(self, following: Following, timeout: float | None) -> Iterator[Event]:
        incoming = wire.Incoming()
        with wire.connect(str(self.layout.agent_socket)) as sock:
            request = {"op": "follow", "stack": following.name, "revision": following.revision}
            wire.send(sock, {**request, "timeout": timeout})
            while True:
                while (frame := incoming.take()) is None:
                    if following.cancelled():
                        yield Interrupted(agent=True)
                        return
                    if wire.readable([sock], _SLICE) and not incoming.receive(sock):
                        raise ConnectionResetError("the agent ended")
                if "error" in frame.header:
                    raise HostError(f"the agent does not understand: {frame.header['error']['message']}")
                yield from_json(frame.header)

    def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Its answer as a frame's header; None: there is no agent."""
        try:
            with wire.connect(str(self.layout.agent_socket)) as sock:
                sock.settimeout(10.0)
                wire.send(sock, dict(request))
                return wire.receive(sock, wire.Incoming()).header
        except OSError:
            return None
