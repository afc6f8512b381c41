"""What the layers below show together, found as overlayfs finds it (Documentation/filesystems/overlayfs.rst, kernel).

In: folders of the store, topmost first, and names. Out: where in them the entry lies that a container would see. Reads the
attributes of entries only, follows no symlink, mounts nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

OPAQUE = "trusted.overlay.opaque"


def is_whiteout(about: os.stat_result) -> bool:
    return stat.S_ISCHR(about.st_mode) and about.st_rdev == 0


def is_opaque(folder: str | int) -> bool:
    """Whether the folder hides all that lies below it."""
    try:
        return os.getxattr(folder, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def find(folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The path of what `names` leads to, or None. No name is that of a symlink, but for the last."""
    stack, found = list(folders), None
    for name in names:
        inner: list[str] = []
        found = None
        for folder in stack:
            path = f"{folder}/{name}"
            try:
                about = os.lstat(path)
            except FileNotFoundError:
                continue
            if is_whiteout(about):
                break
            if not stat.S_ISDIR(about.st_mode):
                found = found or path  # below a folder of a layer above it is hidden
                break
            found = found or path
            inner.append(path)
            if is_opaque(path):
                break
        if found is None:
            return None
        stack = inner  # none, of a file
    return found


def root_names(folders: Sequence[str]) -> set[str]:
    """What is seen at the top."""
    names = {each for folder in folders for each in os.listdir(folder)}  # noqa: PTH208
    return {each for each in names if find(folders, [each]) is not None}
