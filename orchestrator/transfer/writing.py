"""Writes entries beneath one open folder, step by step by descriptor, without following a single symlink below it.

In: entries of a source that nobody has checked, and a folder in which somebody hostile may rename and replace things while
we write. Out: files that appear whole (written beside, then renamed). An existing inode is never written to, a mode and an
owner are only given to what this made itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.errors import StepError
from orchestrator.supervisor.kernel import mounts
from orchestrator.transfer.entries import DEPTH, VIEWS, Entry, EntryKind, shown

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLAIN = 0o1777  # no setuid, no setgid


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """`keep`: as in the source; otherwise those of whoever runs this. `plain`: no setuid and setgid bits."""

    keep: bool = False
    plain: bool = False

    def of(self, entry: Entry) -> tuple[int, int]:
        return (entry.uid, entry.gid) if self.keep else (os.geteuid(), os.getegid())

    def mode(self, entry: Entry) -> int:
        return entry.mode & (_PLAIN if self.plain else 0o7777)


class Folder:
    """The sink. `base`: a descriptor of the folder, closed with this; `prefix`: what comes before an entry's names; `path`:
    what errors call the folder."""

    def __init__(self, base: int, prefix: tuple[str, ...] = (), *, owners: Owners, path: str) -> None:
        self._base, self._prefix, self._owners, self._path = base, prefix, owners, path
        self._stack: list[
            tuple[str, int, float | None]
        ] = []  # name, descriptor, the time of one that we made

    def put(self, entry: Entry) -> Iterator[int]:
        """Write one entry; yields numbers of bytes as they are written. Raises StepError that names it."""
        names = (*self._prefix, *entry.names)
        try:
            if not names:
                return  # the folder itself: it was there before us
            if mounts.filesystem(self._base) in VIEWS:
                raise StepError(f"{self._path}: a view of the kernel's, where no files are kept")
            if len(names) > DEPTH:
                raise StepError(f"{shown(names)[:80]}…: deeper than {DEPTH} folders")
            parent = self._enter(names[:-1])
            match entry.kind:
                case EntryKind.FOLDER:
                    self._make_folder(parent, names[-1], entry)
                case EntryKind.FILE:
                    yield from self._write(parent, names[-1], entry)
                case EntryKind.SYMLINK:
                    self._symlink(parent, names[-1], entry)
                case EntryKind.HARD_LINK:
                    self._link(parent, names, entry)
        except OSError as error:
            raise _explained("/".join((self._path.rstrip("/"), *names)), entry, error) from error

    def close(self) -> None:
        """Let go of what is open; the folders that were made get their times."""
        self._leave(0)
        os.close(self._base)

    def _enter(self, names: tuple[str, ...]) -> int:
        """Descriptor of a folder beneath the base; folders that no entry has told of are made."""
        common = 0
        for (name, _, _), wanted in zip(self._stack, names, strict=False):
            if name != wanted:
                break
            common += 1
        self._leave(common)
        for name in names[common:]:
            parent = self._top()
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=parent)
            self._stack.append((name, os.open(name, _FOLDER, dir_fd=parent), None))
        return self._top()

    def _top(self) -> int:
        return self._stack[-1][1] if self._stack else self._base

    def _leave(self, depth: int) -> None:
        while len(self._stack) > depth:
            _, fd, mtime = self._stack.pop()
            if mtime is not None:
                os.utime(fd, (mtime, mtime))
            os.close(fd)

    def _make_folder(self, parent: int, name: str, entry: Entry) -> None:
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            made = False
        fd = os.open(name, _FOLDER, dir_fd=parent)
        status = os.fstat(fd)  # somebody may have put another folder there since
        made = made and (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o700)
        self._stack.append((name, fd, entry.mtime if made else None))
        if made:
            os.fchown(fd, *self._owners.of(entry))
            os.fchmod(fd, self._owners.mode(entry))

    def _write(self, parent: int, name: str, entry: Entry) -> Iterator[int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _beside(parent, name) as new:
            fd = os.open(new, flags, 0o600, dir_fd=parent)
            try:
                for offset, data in entry.content:
                    view = memoryview(data)
                    while view:
                        written = os.pwrite(fd, view, offset)
                        view, offset = view[written:], offset + written
                        yield written
                os.ftruncate(fd, entry.size)
                os.fchown(fd, *self._owners.of(entry))
                os.fchmod(fd, self._owners.mode(entry))  # after chown, which takes setuid away
                os.utime(fd, (entry.mtime, entry.mtime))
            finally:
                os.close(fd)

    def _symlink(self, parent: int, name: str, entry: Entry) -> None:
        with _beside(parent, name) as new:
            os.symlink(entry.link, new, dir_fd=parent)
            if not self._owners.keep:
                return
            fd = os.open(new, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                if stat.S_ISLNK(os.fstat(fd).st_mode):  # and not what somebody has put in its place
                    os.chown(
                        f"/proc/self/fd/{fd}", *self._owners.of(entry)
                    )  # chown(2) takes no O_PATH descriptor
            finally:
                os.close(fd)

    def _link(self, parent: int, names: tuple[str, ...], entry: Entry) -> None:
        target = (*self._prefix, *entry.link.split("/"))
        here = os.dup(parent)  # the stack moves on to the target's folder
        try:
            source = self._enter(target[:-1])
            with _beside(here, names[-1]) as new:
                os.link(target[-1], new, src_dir_fd=source, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)


@contextlib.contextmanager
def _beside(parent: int, name: str) -> Iterator[str]:
    """A free name in the same folder; what is made there takes the place of `name` at once, or goes away."""
    new = f".{secrets.token_hex(8)}.orchestrator"
    try:
        yield new
        if _mounted(parent, name):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=parent)
        raise


def _mounted(parent: int, name: str) -> bool:
    """Whether something is mounted there. The kernel would not mind: a rename onto a mount of another mount namespace
    takes that mount away (fs/namei.c, is_local_mountpoint)."""
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return False
    try:
        return _mount_id(fd) != _mount_id(parent)
    finally:
        os.close(fd)


def _mount_id(fd: int) -> str:
    """From fdinfo of proc(5)."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return next(line for line in file if line.startswith("mnt_id:"))


def _explained(path: str, entry: Entry, error: OSError) -> StepError:
    match error.errno:
        case errno.EISDIR | errno.ENOTEMPTY:
            text = f"a folder is there already, and a {entry.kind} is to be put in its place"
        case errno.ENOTDIR | errno.ELOOP:
            text = "a file or symlink is there already, where a folder is needed"
        case errno.EBUSY:
            text = "it is a mount of its own and cannot be replaced"
        case _:
            return StepError.of(path, OSError(error.errno, error.strerror))
    return StepError(f"{path}: {text}", argument=path, errno=error.errno)
