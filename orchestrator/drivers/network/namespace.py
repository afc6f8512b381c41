"""What is read and set in the network namespace in which a thread works (`entered`).

In: names of links, files and settings. Out: what they are there.
/proc/thread-self/net and /proc/sys/net follow the thread, /sys/class/net does not: it is not used.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import StepError
from orchestrator.supervisor.kernel.namespaces import entered as entered


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """OSErrors of the body as StepError: `what` failed, which call, why."""
    try:
        yield
    except OSError as error:
        call = getattr(error, "call", None)  # NetlinkError, CallError
        step = StepError.of(what if call is None else f"{what}: {call}", error)
        step.call = call
        raise step from error


def link_exists(name: str) -> bool:
    """Whether this thread's namespace has the link."""
    return link_index(name) is not None


def link_index(name: str) -> int | None:
    """The link's index in this thread's namespace; None where there is no such link."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def read_net(name: str) -> str:
    """A file of /proc/net as this thread's namespace sees it; empty where there is none."""
    try:
        return Path("/proc/thread-self/net", name).read_text()
    except FileNotFoundError:
        return ""


def set_sysctl(path: str, value: str) -> None:
    """Write /proc/sys/net/`path`; one that this kernel does not have (no IPv6) is left."""
    with contextlib.suppress(FileNotFoundError), open(f"/proc/sys/net/{path}", "w") as file:
        file.write(value)


def get_sysctl(path: str) -> str:
    return Path("/proc/sys/net", path).read_text().strip()
