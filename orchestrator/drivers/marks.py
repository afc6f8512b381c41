"""Whether a file is the one that was read before, by what stat(2) says of it: then it need not be decoded again.

In: paths. Out: marks to compare. The kernel is asked each time; only decoding is saved.
"""

from __future__ import annotations

import os
import time

Mark = tuple[int, int, int, int]  # inode, size, times of modification and of change in ns

_TICK = 50_000_000  # ns; a kernel stamps files by its tick (at most 10 ms): two writes within one look alike


def of(path: str) -> Mark | None:
    """The mark of the file at `path`, to be taken before it is read; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 -- called for every container at each look
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def settled(mark: Mark | None) -> bool:
    """Whether a write from now on would give another mark; asked before the file is read, or what was read may be old."""
    return mark is not None and time.time_ns() - max(mark[2], mark[3]) > _TICK
