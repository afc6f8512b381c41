"""Remove a folder with whatever a container left in it: any depth, no following of links, no recursion.

In: a path whose parent is ours alone. Out: nothing. Must not be used on a tree that somebody still writes to.
"""

from __future__ import annotations

import contextlib
import os
import secrets

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove `path` and all below it; nothing there is success. Raises OSError with the path it failed at.

    Sub-folders are moved up to the top before they are emptied, so that a tree 100,000 folders deep needs neither a
    deep stack nor a path longer than PATH_MAX.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)  # noqa: PTH108
        return
    try:
        _empty(top)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{os.fspath(path)}/…/{error.filename or ''}") from error
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)  # noqa: PTH106


def _empty(top: int) -> None:
    mark = f".{secrets.token_hex(8)}-"
    moved = 0
    folders = _unlink_files(top)
    while folders:
        name = folders.pop()
        fd = os.open(name, _DIRECTORY, dir_fd=top)
        try:
            for inner in _unlink_files(fd):
                new = f"{mark}{moved}"
                moved += 1
                os.rename(inner, new, src_dir_fd=fd, dst_dir_fd=top)
                folders.append(new)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=top)


def _unlink_files(fd: int) -> list[str]:
    """Unlink all that is no folder, rmdir the empty ones; the names of the folders that are left."""
    left = []
    with os.scandir(fd) as entries:
        found = [(each.name, each.is_dir(follow_symlinks=False)) for each in entries]
    for name, folder in found:
        if not folder:
            os.unlink(name, dir_fd=fd)
            continue
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError:
            left.append(name)
    return left
