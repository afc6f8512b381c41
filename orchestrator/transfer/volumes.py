"""A volume's data as a tar stream, out and in again: owners, modes, times, hard links, extended attributes.

In: the folder of a volume, a stream. Out: a stream; or a new folder beside the data that takes its place in one rename, so
that a killed restore leaves what was there. The stream is a stranger's: it is unpacked by the parser of rootfs archives.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from orchestrator.drivers.rootfs.members import Bounds, Unpacked, Unpacker
from orchestrator.drivers.rootfs.streams import Stream
from orchestrator.drivers.rootfs.tarball import Member, MemberType, Source, Tarball, TarError
from orchestrator.drivers.trees import remove_tree
from orchestrator.errors import StepError
from orchestrator.supervisor.kernel.mounts import exchange

BESIDE = ".restore"
_MOST = 1 << 50
_CHANGED = 1  # the exit code of tar(1) where a file changed while it was read


def write(data: str, stream: IO[bytes]) -> bool:
    """The tar stream of what lies in the folder; False: something of it changed meanwhile. tar(1) opens every name beneath
    its folder without following a link. Raises StepError."""
    command = ["tar", "--create", "--format=posix", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    done = subprocess.run(
        [*command, "--one-file-system", "--warning=no-file-ignored", "-C", data, "."],
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        check=False,
    )
    if done.returncode > _CHANGED or done.returncode < 0:
        words = done.stderr.decode(errors="replace").strip().split("\n")
        raise StepError(f"tar of {data}: {words[0] or f'ended with {done.returncode}'}", call="tar")
    return done.returncode == 0


def read(volume: Path, stream: IO[bytes]) -> Unpacked:
    """Unpack the stream beside the data of the folder `volume`. Raises StepError; what is half there is removed then."""
    beside = volume / BESIDE
    try:
        remove_tree(beside)
        beside.mkdir(mode=0o755)
        return _unpacked(beside, stream)
    except TarError as error:
        remove_tree(beside)
        raise StepError(f"the tar stream: {error}") from error
    except OSError as error:
        remove_tree(beside)
        raise StepError.of("cannot restore", error) from error
    except BaseException:
        remove_tree(beside)
        raise


def swap(volume: Path, data: str) -> None:
    """What was unpacked becomes the data, what was the data goes. Raises StepError."""
    try:
        parent = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.sync()  # a new folder with files that the power took away would be worse than the old one
            exchange(parent, BESIDE, data)
            os.fsync(parent)
        finally:
            os.close(parent)
        remove_tree(volume / BESIDE)
    except OSError as error:
        raise StepError.of("cannot put the restored data in place", error) from error


def _unpacked(beside: Path, file: IO[bytes]) -> Unpacked:
    root = os.open(beside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stream = Stream(file, _MOST)
    try:
        whole = _Whole(stream)
        tarball = _Topped(whole)
        bounds = Bounds(bytes=_MOST, entries=1 << 40, depth=1024)
        done = Unpacker(root, os.fspath(beside), bounds, _MOST).run(tarball)
        if whole.ended:
            raise TarError("it ends without its end mark: it is not whole")
        stream.drain()  # whoever writes it is not told that nobody reads on
        if tarball.top is not None:
            os.fchown(root, tarball.top.uid, tarball.top.gid)
            os.fchmod(root, tarball.top.mode)
        return done
    finally:
        stream.close()
        os.close(root)


class _Topped(Tarball):
    """Remembers what the archive says of its own top."""

    top: Member | None = None

    def __iter__(self) -> Iterator[Member]:
        for member in super().__iter__():
            if member.type is MemberType.DIRECTORY and not member.name.strip("./"):
                self.top = member
            yield member


class _Whole:
    """Remembers whether the source came to its end: the reader of an archive stops at the two empty blocks before it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.ended = False

    def read(self, size: int, /) -> bytes:
        found = self._source.read(size)
        self.ended = self.ended or not found
        return found
