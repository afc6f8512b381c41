"""Starts and stops the agent of an instance, from a client's side: the keeper keeps it, as it does the supervisor.

In: the layout, the command that is the agent. Out: it answers, or HostError that names the log. What an agent is, and what
is said to it beyond ping and stop, is `control`'s.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from orchestrator.errors import HostError
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import facts, start, wire

_PATIENCE = 30.0


def ensure(layout: Layout, command: Sequence[str], env: Mapping[str, str], version: str) -> None:
    """An agent of this version answers when this returns, and is kept; any number of callers may ask at once."""
    path = str(layout.agent_socket)
    found = start.answer(path)
    start.ensure(layout)
    if found is not None and found.get("version") == version:
        return
    facts.write_json(str(layout.agent_wish), {"command": list(command), "env": dict(env)})
    if found is not None:  # older code: the keeper starts ours in its place
        wire.ask_to_stop(path)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        _tell_keeper(layout)
        if start.until(lambda: _answers(path, version), min(deadline, time.monotonic() + 3)):
            return
        start.ensure(layout)
    raise HostError(
        f"the agent did not start within {_PATIENCE:.0f} s",
        hint=f"see {start.log_path(layout)}; `apply --once` does without it",
    )


def stop(layout: Layout) -> None:
    """It is gone when this returns, and is not started again until the next `ensure`; containers go on."""
    with suppress(FileNotFoundError):
        os.unlink(layout.agent_wish)
    lock = layout.agent_lock
    if not start.locked(lock):
        return
    wire.ask_to_stop(str(layout.agent_socket))
    if not start.until(lambda: not start.locked(lock), time.monotonic() + _PATIENCE):
        with suppress(OSError, ValueError):
            os.kill(int(lock.read_text()), signal.SIGKILL)  # held by a living agent: the pid is its own
    if not start.until(lambda: not start.locked(lock), time.monotonic() + 2):
        raise HostError("the agent did not end", hint=f"see {start.log_path(layout)}")


def answer(layout: Layout) -> dict[str, Any] | None:
    """What the agent says of itself; None when none answers."""
    return start.answer(str(layout.agent_socket))


def _answers(path: str, version: str) -> bool:
    found = start.answer(path)
    return found is not None and found.get("version") == version


def _tell_keeper(layout: Layout) -> None:
    """Have it look at the wish now."""
    lock = layout.run / "keeper.lock"
    if start.locked(lock):
        with suppress(OSError, ValueError):
            os.kill(int(lock.read_text()), signal.SIGHUP)  # held by a living keeper: the pid in it is its own
