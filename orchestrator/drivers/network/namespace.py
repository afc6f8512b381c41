"""The network namespace in which a thread works, and what is read there.

In: the path of a pinned namespace, or None for the one that the process is in. A thread is always brought back.
/proc/thread-self/net and /proc/sys/net follow the thread, /sys/class/net does not: it is not used.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import StepError
from orchestrator.supervisor.kernel.processes import setns

_NEWNET = 0x40000000  # CLONE_NEWNET


@contextlib.contextmanager
def entered(path: str | None) -> Iterator[None]:
    """Run the body with this thread in the namespace at `path`; OSError where it cannot be entered."""
    if path is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(there, _NEWNET)
        finally:
            os.close(there)
        try:
            yield
        finally:
            setns(home, _NEWNET)
    finally:
        os.close(home)


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
