"""Reads a tree of files by descriptor, without following a single symlink in it; somebody hostile may change it meanwhile.

In: how to open the top (`Opener`: beneath a container's root, or on the host). Out: entries. A device, FIFO or socket is
never opened on purpose, and an open never waits (O_NONBLOCK); what changes its kind under our eyes is passed over.
"""

from __future__ import annotations

# ruff: noqa: PTH208
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.errors import StepError
from orchestrator.supervisor.kernel import mounts
from orchestrator.transfer.entries import CHUNK, DEPTH, VIEWS, Entry, EntryKind, Skipped, shown

Opener = Callable[[str, int], int]  # (path, flags of open(2)) -> descriptor, close-on-exec

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
_CHANGED = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ESTALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """What is to be read: an open file or folder, or the symlink `link`. `name`: how it is called, "" for a root or `.`;
    `contents`: only what the folder holds is meant (`SRC/.`). Whoever has it closes `fd`."""

    name: str
    fd: int
    status: os.stat_result
    link: str = ""
    contents: bool = False

    @property
    def folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def open_top(opener: Opener, path: str, *, follow: bool) -> Top:
    """What `path` names. A symlink is itself unless `follow`, or a slash after it says that its folder is meant. Raises
    OSError, or StepError for what cannot be copied."""
    plain = path.rstrip("/")
    name = os.path.basename(plain)  # noqa: PTH119
    unnamed = name in ("", ".", "..")
    parent = opener(os.path.dirname(plain) or ("." if plain else "/"), os.O_PATH | os.O_DIRECTORY)  # noqa: PTH120
    try:
        through = unnamed or follow or path != plain
        status = None if through else os.stat(name, dir_fd=parent, follow_symlinks=False)
        if status is not None and stat.S_ISLNK(status.st_mode):
            return Top(name=name, fd=os.dup(parent), status=status, link=os.readlink(name, dir_fd=parent))
        fd = _open_through(opener, path) if status is None else _open(parent, name, status, path)
    finally:
        os.close(parent)
    status = os.fstat(fd)
    why = _refused(fd, status)
    if why is None and path != plain and not unnamed and not stat.S_ISDIR(status.st_mode):
        why = "not a folder"
    if why is not None:
        os.close(fd)
        raise StepError(f"{path}: {why}", argument=path)
    return Top(name="" if unnamed else name, fd=fd, status=status, contents=unnamed and name != "..")


def _open_through(opener: Opener, path: str) -> int:
    """Following symlinks, which the opener keeps where they belong."""
    look = opener(path, os.O_PATH)
    try:
        status = os.fstat(look)
    finally:
        os.close(look)
    _must_be_readable(path, status)
    return opener(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)


def _open(parent: int, name: str, status: os.stat_result, path: str) -> int:
    _must_be_readable(path, status)
    return os.open(name, os.O_RDONLY | _SAFE, dir_fd=parent)


def _must_be_readable(path: str, status: os.stat_result) -> None:
    why = _KINDS.get(stat.S_IFMT(status.st_mode))
    if why:
        raise StepError(f"{path}: {why}, which is not copied", argument=path)


def _refused(fd: int, status: os.stat_result) -> str | None:
    """Why an open file is not copied."""
    kind = stat.S_IFMT(status.st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        return _KINDS.get(kind, "of an unknown kind")
    return "a view of the kernel's, not a file" if mounts.filesystem(fd) in VIEWS else None


def entries(top: Top) -> Iterator[Entry | Skipped]:
    """The top and all below it. Raises OSError where reading fails, StepError for a tree that is too deep."""
    if top.link:
        yield _entry((), top.status, EntryKind.SYMLINK, link=top.link)
    elif not top.folder:
        yield _file((), top.fd, top.status)
    else:
        yield _entry((), top.status, EntryKind.FOLDER)
        yield from _below(top.fd)


def _below(top: int) -> Iterator[Entry | Skipped]:
    stack: list[tuple[int, tuple[str, ...], Iterator[str]]] = [
        (os.dup(top), (), iter(sorted(os.listdir(top))))
    ]
    try:
        while stack:
            fd, names, coming = stack[-1]
            name = next(coming, None)
            if name is None:
                os.close(stack.pop()[0])
                continue
            path = (*names, name)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    link = os.readlink(name, dir_fd=fd)
                    yield _entry(path, status, EntryKind.SYMLINK, link=link)
                    continue
                if stat.S_IFMT(status.st_mode) in _KINDS:
                    yield Skipped(names=path, why=_KINDS[stat.S_IFMT(status.st_mode)])
                    continue
                child = os.open(name, os.O_RDONLY | _SAFE, dir_fd=fd)
            except OSError as error:
                if error.errno not in _CHANGED:
                    raise OSError(error.errno, error.strerror, shown(path)) from error
                yield Skipped(names=path, why="changed while it was looked at")
                continue
            try:
                status = os.fstat(child)
                why = _refused(child, status)
                if why is not None:
                    yield Skipped(names=path, why=why)
                elif not stat.S_ISDIR(status.st_mode):
                    yield _file(path, child, status)
                else:
                    if len(path) >= DEPTH:
                        raise StepError(f"{shown(path)[:80]}…: deeper than {DEPTH} folders")
                    yield _entry(path, status, EntryKind.FOLDER)
                    stack.append((os.dup(child), path, iter(sorted(os.listdir(child)))))
            finally:
                os.close(child)
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def _file(names: tuple[str, ...], fd: int, status: os.stat_result) -> Entry:
    return _entry(names, status, EntryKind.FILE, size=status.st_size, fd=fd)


def _entry(
    names: tuple[str, ...],
    status: os.stat_result,
    kind: EntryKind,
    *,
    link: str = "",
    size: int = 0,
    fd: int | None = None,
) -> Entry:
    return Entry(
        names=names,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime,
        size=size,
        link=link,
        content=iter(()) if fd is None else _content(fd, size),
    )


def _content(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    """What the file held when it was opened, without its holes (lseek(2), SEEK_DATA); growth is not followed."""
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
            end = min(size, os.lseek(fd, at, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            end = size  # this file system knows no holes
        while at < end:
            data = os.pread(fd, min(CHUNK, end - at), at)
            if not data:
                return  # it has shrunk
            yield at, data
            at += len(data)
