"""Block devices for io limits: from a path, or from the folder whose device is meant, to `major:minor` of a whole disk.

In: paths. Out: numbers, or ValueError with the reason. Must not open the device.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def disk_number(device: str | None, folder: str) -> str:
    """`major:minor` that io.max takes: of `device`, or of what holds `folder`. A partition becomes its disk."""
    if device is None:
        return _whole(*_holding(folder))
    try:
        found = Path(device).stat()
    except OSError as error:
        raise ValueError(f"{device}: {(error.strerror or str(error)).lower()}") from error
    if not stat.S_ISBLK(found.st_mode):
        raise ValueError(f"{device} is not a block device")
    return _whole(os.major(found.st_rdev), os.minor(found.st_rdev))


def _holding(folder: str) -> tuple[int, int]:
    path = Path(folder)
    while not path.exists():
        path = path.parent
    number = path.stat().st_dev
    if os.major(number):
        return os.major(number), os.minor(number)
    # btrfs and others have a number of their own; the mount tells the device.
    kind, source = _mount(path)
    if source.startswith("/dev/"):
        held = Path(source).stat().st_rdev
        return os.major(held), os.minor(held)
    raise ValueError(f"{folder} lies on {kind}, which has no block device; name one by `device`")


def _mount(path: Path) -> tuple[str, str]:
    """(type, source) of the mount that `path` lies in; the longest mount point that is above it."""
    best, answer = "", ("an unknown file system", "")
    target = os.fspath(path.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4]
        above = point == "/" or target == point or target.startswith(point + "/")
        if above and len(point) >= len(best):
            best = point
            kind, source = right.split(" ")[:2]
            answer = (kind, source)
    return answer


def _whole(major: int, minor: int) -> str:
    entry = Path(f"/sys/dev/block/{major}:{minor}")
    if (entry / "partition").exists():
        return (entry.resolve().parent / "dev").read_text().strip()
    return f"{major}:{minor}"
