"""Runs a program that needs no process of its own in a thread of this one: it makes namespaces and pins them.

In: a program of NewNamespace, SetHostname, SetSysctl and PinNamespace. Out: nothing, or LaunchError. A thread has net, ipc
and uts namespaces of its own (unshare(2)) and ends with the program, so that no other thread is ever in them. User, pid
and mount namespaces need a process with one thread: such programs go through the supervisor (`client.run`).
"""

from __future__ import annotations

import os
import threading

from orchestrator.supervisor.client import LaunchError
from orchestrator.supervisor.kernel import CallError
from orchestrator.supervisor.mounting import Context
from orchestrator.supervisor.operations import interpret
from orchestrator.supervisor.program import Program


def run(program: Program) -> None:
    """Run `program` to its end. Saves the clone and the start of a process: 1 ms instead of 5. Raises LaunchError."""
    failed: list[tuple[str, Exception]] = []

    def body() -> None:
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            context = Context(root=-1, proc=proc, stdin=False, logs=False, permitted=0, report=-1)
            end = interpret(program, context)
        finally:
            os.close(proc)
        if end is not None:
            failed.append(end)

    thread = threading.Thread(target=body, name="set-up")
    thread.start()
    thread.join()
    if failed:
        raise _told(*failed[0])


def _told(operation: str, error: Exception) -> LaunchError:
    known = error if isinstance(error, CallError) else None
    told = LaunchError(
        str(error),
        call=known.call if known else type(error).__name__,
        argument=known.argument if known else None,
        errno=error.errno if isinstance(error, OSError) else None,
    )
    told.operation = operation
    return told
