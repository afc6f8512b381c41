"""From kill -9 of a container's process until its next one runs, seen from outside: the same for every tool.

In: the marks of containers that run `/bin/sleep MARK`, each a number of its own. Out: seconds for each. Also a command, for
tools that a shell script has started: `python -m benchmarks.restarts MARK...` prints the median. Needs root.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence

LOOK_EVERY = 0.0005
PATIENCE = 30.0


def median(marks: Sequence[int]) -> float:
    """Each is killed once, so that nobody's back-off counts."""
    return statistics.median(after_kill(each) for each in marks)


def after_kill(mark: int) -> float:
    """Seconds until the kernel has another process that has executed the command. RuntimeError: there is none."""
    before = _pids()
    pids = [pid for pid in before if _sleeps(pid, mark)]
    if len(pids) != 1:
        raise RuntimeError(f"{len(pids)} processes sleep for {mark} s, not one")
    begun = time.monotonic()
    os.kill(int(pids[0]), signal.SIGKILL)
    while not any(_sleeps(pid, mark) for pid in _pids() - before):
        if time.monotonic() > begun + PATIENCE:
            raise RuntimeError(f"what slept for {mark} s does not run again after {PATIENCE:.0f} s")
        time.sleep(LOOK_EVERY)
    return time.monotonic() - begun


def _pids() -> frozenset[str]:
    return frozenset(each for each in os.listdir("/proc") if each.isdigit())


def _sleeps(pid: str, mark: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read() == b"/bin/sleep\0%d\0" % mark
    except OSError:  # it has ended
        return False


if __name__ == "__main__":
    print(median([int(each) for each in sys.argv[1:]]))
