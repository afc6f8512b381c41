"""The network namespace in which a thread works: setns(2) there and back.

In: the path of a pinned namespace, or None for the one that the process is in. A thread is always brought back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.supervisor.kernel.processes import NAMESPACES, setns


@contextmanager
def entered(path: str | None) -> Iterator[None]:
    """Run the body with this thread in the namespace at `path`; OSError where it cannot be entered."""
    if path is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(there, NAMESPACES["net"])
        finally:
            os.close(there)
        try:
            yield
        finally:
            setns(home, NAMESPACES["net"])
    finally:
        os.close(home)
