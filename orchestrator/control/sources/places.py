"""Where a change of a path shows: the entries of folders on the way to it, and what is at its end.

In: absolute paths. Out: (folder, name) pairs to be watched; signatures (cheap) and fingerprints (of contents) to be
compared. Symbolic links are followed as the kernel does it, so that a swapped link on the way is seen.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_LINKS = 40  # path_resolution(7)
LARGEST = (
    16 * 1024 * 1024
)  # bytes of one file that count: nothing larger is read as a stack file, env file, secret or config

Signature = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Absolute paths, there or not. `files`: what they hold counts; `bound`: only which file is there."""

    files: frozenset[str]
    bound: frozenset[str] = frozenset()

    def __or__(self, other: Places) -> Places:
        return Places(files=self.files | other.files, bound=self.bound | other.bound)

    def signatures(self) -> dict[str, Signature]:
        """Of each path."""
        return {path: identity(path) for path in self.bound} | {path: signature(path) for path in self.files}

    def fingerprint(self) -> str:
        """A digest of what all files hold, in full; what cannot be read is told apart by its error."""
        whole = hashlib.sha256()
        for path in sorted(self.files):
            whole.update(hashlib.sha256(os.fsencode(path)).digest())
            whole.update(_content(path))
        for path in sorted(self.bound):
            whole.update(repr((path, identity(path))).encode())
        return whole.hexdigest()


def entries(path: str) -> frozenset[tuple[str, str]]:
    """The entries (folder, name) whose change may change what is at `path`: itself, its folder, and every link before."""
    steps = list(_steps(path))
    return frozenset((folder, name) for folder, name, link in steps if link) | {
        (folder, name) for folder, name, _ in steps[-2:]
    }


def _steps(path: str) -> Iterator[tuple[str, str, bool]]:
    """Each entry on the way to `path`: (its folder without links, its name, whether it is a link)."""
    at, links = "/", 0
    left = deque(path.split("/"))
    while left:
        name = left.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            at = os.path.dirname(at)  # noqa: PTH120
            continue
        full = os.path.join(at, name)  # noqa: PTH118
        try:
            target = os.readlink(full)  # noqa: PTH115
        except OSError:
            yield at, name, False
            at = full
            continue
        yield at, name, True
        links += 1
        if links > MOST_LINKS:
            return
        at = "/" if target.startswith("/") else at
        left.extendleft(reversed(target.split("/")))


def signature(path: str) -> Signature:
    """Changes whenever anything about the file does, or about which stack files a folder holds."""
    try:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            return found.st_dev, found.st_ino, *_stack_files(path)
    except (OSError, ValueError) as error:
        return (getattr(error, "errno", errno.EINVAL),)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def identity(path: str) -> Signature:
    """Changes when another file or folder is there, or none."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:
        return (getattr(error, "errno", errno.EINVAL),)
    return found.st_dev, found.st_ino


def _content(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        return f"error {getattr(error, 'errno', 0)}".encode()
    try:
        about = os.fstat(fd)
        if stat.S_ISDIR(about.st_mode):
            return hashlib.sha256("/".join(_stack_files(path)).encode(errors="surrogateescape")).digest()
        if not stat.S_ISREG(about.st_mode):
            return b"special"
        content = hashlib.sha256()
        if about.st_size > LARGEST:  # an archive of a root
            content.update(f"{about.st_size} {about.st_mtime_ns}".encode())
        left = LARGEST + 1
        while left and (chunk := os.read(fd, min(left, 1 << 20))):
            content.update(chunk)
            left -= len(chunk)
        return content.digest()
    except OSError as error:
        return f"error {error.errno}".encode()
    finally:
        os.close(fd)


def _stack_files(folder: str) -> list[str]:
    from orchestrator.manifest.load import (
        is_stack_file,
    )  # its libraries are for an agent that watches anything

    return sorted(each for each in os.listdir(folder) if is_stack_file(folder, each))  # noqa: PTH208
