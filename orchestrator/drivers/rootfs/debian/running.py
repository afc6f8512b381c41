"""Runs a recipe's line inside its root by the launcher of containers, which wants a process with one thread.

In: a program (JSON) on stdin, once a first line was printed; started as process 1 of a pid namespace of its own, so that
nothing of the line outlives it. Out: what the line prints, last of all why it failed; its exit code. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys

from orchestrator.supervisor.kernel import CallError
from orchestrator.supervisor.launcher import FAILED, Birth, Host, launch

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from orchestrator.drivers.rootfs.debian.running import main; main()"


def main() -> None:
    print(flush=True)  # whoever started us hands out the program now, and an empty one if it has died
    text = sys.stdin.buffer.read()
    if not text:
        sys.exit(FAILED)
    sys.exit(_run(Host.read(), text))


def _run(host: Host, program: bytes) -> int:
    """The exit code as a shell counts it."""
    try:
        launched = launch(host, program, Birth(new=tuple(json.loads(program)["new"])))
    except CallError as error:
        print(f"E: {error}", flush=True)
        return FAILED
    launched.start()
    _, status = os.waitpid(launched.pid, 0)
    told = b""
    os.set_blocking(launched.report, True)  # its writers have ended
    while found := os.read(launched.report, 65536):
        told += found
    if told:
        print(f"E: {json.loads(told.splitlines()[0])['message']}", flush=True)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
