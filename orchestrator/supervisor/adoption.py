"""What an earlier supervisor left: containers that run, or ended while nobody of us looked.

In: process records, and the files in which the keeper put the ends of orphans (`orphans/PID-TICKS`). Out: containers, a
pidfd that surely is theirs, and how they ended. A pid is believed only together with its start ticks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from orchestrator.supervisor import facts
from orchestrator.supervisor.container import RECORD, Container
from orchestrator.supervisor.kernel import processes


def found(run: str, boot: str) -> Iterator[Container]:
    """Every container with a record of this boot. Records of an earlier boot are taken away: nothing of theirs runs."""
    with suppress(FileNotFoundError):
        for id in os.listdir(f"{run}/containers"):
            folder = f"{run}/containers/{id}"
            container = Container.load(folder, boot)
            if container is not None:
                yield container
            elif facts.read_json(f"{folder}/{RECORD}") is not None:
                os.unlink(f"{folder}/{RECORD}")


def pidfd(container: Container) -> int:
    """A descriptor of its process; -1 when it is gone, also when its pid is another's by now."""
    if container.pid is None:
        return -1
    try:
        fd = processes.pidfd_open(container.pid)
    except ProcessLookupError:
        return -1
    if facts.start_ticks(container.pid) == container.ticks:
        return fd
    os.close(fd)
    return -1


def orphan_path(run: str, container: Container) -> str:
    return f"{run}/orphans/{container.pid}-{container.ticks}"


def ending(run: str, container: Container) -> dict[str, Any] | None:
    """{"code" | "signal", "ended"} as the keeper read it; or from the zombie, whoever is to reap it; or afterwards from
    the kernel where it tells (Linux 6.15); else None."""
    recorded = facts.read_json(orphan_path(run, container))
    if recorded is not None:
        return recorded
    status = facts.zombie_status(container.pid, container.ticks) if container.pid is not None else None
    if status is None and container.pidfd >= 0:
        status = processes.pidfd_exit(container.pidfd)
    if status is None:
        return None
    code = os.waitstatus_to_exitcode(status)
    return {"code": code} if code >= 0 else {"signal": -code}


def undecided(container: Container) -> bool:
    """Whether its process is still there, a zombie that somebody has yet to reap (and read)."""
    return container.pid is not None and facts.start_ticks(container.pid) == container.ticks


def sweep(run: str, containers: Iterable[Container]) -> None:
    """Take away the ends of processes that are nobody's (what a container's exec left)."""
    wanted = {f"{each.pid}-{each.ticks}" for each in containers}
    with suppress(FileNotFoundError):
        for name in os.listdir(f"{run}/orphans"):
            if name not in wanted:
                with suppress(FileNotFoundError):
                    os.unlink(f"{run}/orphans/{name}")
