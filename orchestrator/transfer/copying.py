"""One copy by the rules of `docker cp`: what a path names on either side, and where things land.

In: two sides, each an opener and a path, or a stream. Out: `Progress` and `Skipped` as it goes on. An opener decides what a
path may reach: a container's resolves beneath its root, whatever symlinks and renames happen there.
"""

from __future__ import annotations

# ruff: noqa: PTH118
import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import BinaryIO, Protocol

from orchestrator.errors import StepError
from orchestrator.transfer import reading, tarring
from orchestrator.transfer.entries import Entry, Skipped
from orchestrator.transfer.reading import Opener, Top
from orchestrator.transfer.writing import Folder, Owners

_LINKS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A path on one side; `name` is what errors say before it (`web-1:`, or nothing for the host)."""

    opener: Opener
    path: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """So far: entries that are there and bytes that were written."""

    entries: int
    bytes: int


class _Sink(Protocol):
    def put(self, entry: Entry) -> Iterator[int]: ...


def host(path: str, flags: int) -> int:
    """The host's opener."""
    return os.open(path, flags | os.O_CLOEXEC)


def copy(source: Side, target: Side, *, owners: Owners, follow: bool) -> Iterator[Progress | Skipped]:
    """Files and folders from side to side. `follow`: a symlink that the source names is followed."""
    top = _top(source, follow=follow)
    try:
        with contextlib.closing(_place(target, top, owners)) as sink:
            yield from _move(reading.entries(top), sink, source)
    finally:
        os.close(top.fd)


def pack(source: Side, stream: BinaryIO, *, follow: bool) -> Iterator[Progress | Skipped]:
    """A tar stream of what `source` names."""
    top = _top(source, follow=follow)
    try:
        name = "" if top.contents else top.name
        sink = tarring.TarStream(stream, name)
        yield from _move(reading.entries(top), sink, source)
        sink.end()
    finally:
        os.close(top.fd)


def unpack(stream: BufferedReader, target: Side, *, owners: Owners) -> Iterator[Progress | Skipped]:
    """A tar stream into a folder that is there."""
    try:
        base = target.opener(target.path, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise _failed(target, error, hint="a tar stream is unpacked into a folder that is there") from error
    with contextlib.closing(Folder(base, owners=owners, path=str(target))) as sink:
        yield from _move(tarring.entries(stream), sink, target)


def _move(entries: Iterable[Entry | Skipped], sink: _Sink, source: Side) -> Iterator[Progress | Skipped]:
    done = size = 0
    try:
        for each in entries:
            if isinstance(each, Skipped):
                yield each
                continue
            for count in sink.put(each):
                size += count
                yield Progress(entries=done, bytes=size)
            done += 1
            yield Progress(entries=done, bytes=size)
    except BrokenPipeError:
        raise
    except OSError as error:  # of the reading side: a sink explains its own
        raise StepError.of(str(source), error) from error


def _top(source: Side, *, follow: bool) -> Top:
    try:
        return reading.open_top(source.opener, source.path, follow=follow)
    except OSError as error:
        raise _failed(source, error) from error
    except StepError as error:
        raise StepError(f"{source.name}{error.message}", argument=source.path) from error


def _place(target: Side, top: Top, owners: Owners) -> Folder:
    """Where the top's entries go."""
    path, opener = target.path, target.opener
    try:
        folder = _existing(opener, path)
        if folder is not None:
            prefix = () if top.contents or not top.name else (top.name,)
            return Folder(folder, prefix, owners=owners, path=str(target))
        if path.endswith("/") and not top.folder:
            raise StepError(
                f"{target}: no such folder", argument=path, hint="leave out the last / for a file name"
            )
        for _ in range(_LINKS):
            parent, name = os.path.split(path.rstrip("/"))
            base = opener(parent or ".", os.O_PATH | os.O_DIRECTORY)
            sink = Folder(base, (name,), owners=owners, path=f"{target.name}{parent}")
            try:
                found = os.stat(name, dir_fd=base, follow_symlinks=False)
            except FileNotFoundError:
                return sink
            if not stat.S_ISLNK(found.st_mode):
                if top.folder:
                    sink.close()
                    raise StepError(f"{target}: a file is there, and a folder is to be put in its place")
                return sink
            path = os.path.join(
                parent, os.readlink(name, dir_fd=base)
            )  # the opener keeps it beneath the root
            sink.close()
    except OSError as error:
        raise _failed(target, error) from error
    raise StepError(f"{target}: too many symlinks", argument=path)


def _existing(opener: Opener, path: str) -> int | None:
    """The folder `path`; None where there is none."""
    try:
        return opener(path, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def _failed(side: Side, error: OSError, *, hint: str | None = None) -> StepError:
    return StepError.of(str(side), OSError(error.errno, error.strerror), hint=hint)
