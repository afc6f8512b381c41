"""Files of a built root, read, written and removed by its descriptor: every path is resolved beneath it by the kernel.

In: the root's descriptor and paths in it, whatever links it holds. Out: files; folders above them that were missing, 755
root's. Nothing outside the root is ever touched. Raises OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from orchestrator.drivers.trees import remove_tree
from orchestrator.supervisor.kernel import CallError
from orchestrator.supervisor.kernel.mounts import open_beneath


def write(root: int, path: str, content: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
    """In the place of any file or link of that path; not of a folder."""
    *above, name = [each for each in path.split("/") if each not in ("", ".")] or [""]
    if not name or ".." in above or name == "..":
        raise OSError(errno.EINVAL, "it is no path of a file")
    parent = _folder(root, above)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise OSError(errno.EISDIR, "there is a folder of that name")
            os.unlink(name, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)  # after chown, which takes setuid away
    finally:
        os.close(parent)


def read(root: int, path: str) -> bytes | None:
    """None where there is no ordinary file: nothing else is opened for its content."""
    try:
        fd = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except CallError:
        return None
    with open(fd, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(fd).st_mode) else None


def empty(root: int, path: str) -> None:
    """Remove what the folder holds; nothing where it is none, or lies behind a link."""
    try:
        fd = open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY, symlinks=False)
    except CallError:
        return
    try:
        for each in sorted(os.listdir(fd)):  # noqa: PTH208 -- by descriptor
            remove_tree(f"/proc/self/fd/{fd}/{each}")
    finally:
        os.close(fd)


def exists(root: int, path: str) -> bool:
    """Also a link that leads nowhere."""
    above, _, name = path.rpartition("/")
    try:
        parent = open_beneath(root, above or "/", os.O_PATH | os.O_DIRECTORY)
    except CallError:
        return False
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        return True
    except FileNotFoundError:
        return False
    finally:
        os.close(parent)


def remove(root: int, path: str) -> None:
    """A file or link, if it is there."""
    above, _, name = path.rpartition("/")
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        try:
            parent = open_beneath(root, above or "/", os.O_PATH | os.O_DIRECTORY)
        except CallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        try:
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)


def _folder(root: int, names: list[str]) -> int:
    """O_PATH descriptor of a folder beneath the root, made with its parents where missing."""
    path = "/".join(names) or "."
    try:
        return open_beneath(root, path, os.O_PATH | os.O_DIRECTORY)
    except CallError as error:
        if error.errno != errno.ENOENT:
            raise
    parent = _folder(root, names[:-1])
    try:
        os.mkdir(names[-1], 0o755, dir_fd=parent)
    except FileExistsError:
        raise OSError(errno.ELOOP, f"/{path} is a link that leads nowhere") from None
    finally:
        os.close(parent)
    return open_beneath(root, path, os.O_PATH | os.O_DIRECTORY)
