"""Unpacks an archive of strangers into an empty folder of ours: nothing is written, read or linked outside it.

In: an open archive file and an empty folder. Out: files, links, folders, FIFOs with owners, modes, times and file
capabilities; device nodes are passed over and counted. Every path is resolved beneath the folder by the kernel (openat2,
RESOLVE_IN_ROOT), so a member below a symlink (`lib/x` where lib -> usr/lib) lands where it would in the container.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import hashlib
import lzma
import os
import stat
import zlib
from dataclasses import dataclass
from typing import IO, cast

from orchestrator.drivers.rootfs.tarball import BLOCK, Member, MemberType, Source, Tarball, TarError
from orchestrator.supervisor.kernel.mounts import open_beneath

_CHUNK = 1 << 20
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What an archive may become at most: `bytes` and `entries` in all, `ratio` times its own size past a GiB."""

    bytes: int = 64 << 30
    entries: int = 2_000_000
    ratio: int = 100
    depth: int = 256


@dataclass(slots=True)
class Unpacked:
    """`devices`: how many nodes were passed over."""

    entries: int = 0
    bytes: int = 0
    devices: int = 0


class _Hashed:
    """A stream that remembers the digest of what went through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self.digest.update(found)
        return found


def sha256(file: IO[bytes]) -> str:
    """The digest of an open file, which is left at its start."""
    digest = hashlib.sha256()
    file.seek(0)
    while found := file.read(_CHUNK):
        digest.update(found)
    file.seek(0)
    return digest.hexdigest()


def unpack(file: IO[bytes], folder: str, expected: str, bounds: Bounds | None = None) -> Unpacked:
    """Unpack the open archive into the empty `folder`. It has `expected` as its digest before; and after, or TarError:
    somebody wrote to it meanwhile. Raises TarError for what the archive says, OSError for what the disk does.
    """
    size = os.fstat(file.fileno()).st_size
    bounds = bounds or Bounds()
    hashed = _Hashed(file)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with _opened(file, hashed) as source:
            done = _Unpacker(root, folder, bounds, size).run(Tarball(source))
            while source.read(_CHUNK):  # the rest is padding
                pass
        while hashed.read(_CHUNK):
            pass
        if hashed.digest.hexdigest() != expected:
            raise TarError("it was written to while we read it")
        os.fchown(root, 0, 0)
        os.fchmod(root, 0o755)  # unprivileged users of the container must get in, whatever the archive says
        return done
    except _DAMAGE as error:
        raise TarError(f"it is damaged: {error}") from error
    except OSError as error:
        if error.errno is None:  # what bz2 says of bad data
            raise TarError(f"it is damaged: {error}") from error
        raise
    finally:
        os.close(root)


@contextlib.contextmanager
def _opened(file: IO[bytes], hashed: _Hashed):  # type: ignore[no-untyped-def]
    """The decompressed stream, by the file's first bytes; names lie."""
    magic = file.read(6)
    file.seek(0)
    raw = cast("IO[bytes]", hashed)
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        raise TarError(
            "zstd is not supported by Python's library; recompress it: zstd -dc A.tar.zst | gzip > A.tar.gz"
        )
    if magic[:2] == b"\x1f\x8b":
        # GzipFile wants seek and tell only to write; a buffer would hide what was read from the digest.
        with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
            yield stream
    elif magic[:3] == b"BZh":
        with bz2.BZ2File(raw) as stream:
            yield stream
    elif magic == b"\xfd7zXZ\0":
        with lzma.LZMAFile(raw) as stream:
            yield stream
    else:
        yield hashed


class _Unpacker:
    def __init__(self, root: int, folder: str, bounds: Bounds, size: int) -> None:
        self._root = root
        self._folder = folder
        self._bounds = bounds
        self._most = min(bounds.bytes, (1 << 30) + bounds.ratio * size)
        self._done = Unpacked()

    def run(self, tarball: Tarball) -> Unpacked:
        for member in tarball:
            self._count(member)
            names = self._names(member.name)
            if not names:
                continue  # the root itself
            if member.type is MemberType.DEVICE:
                self._done.devices += 1
                continue
            try:
                self._put(member, names, tarball)
            except OSError as error:
                path = f"{self._folder}/{'/'.join(names)}"
                raise OSError(error.errno, error.strerror or str(error), path) from error
        return self._done

    def _count(self, member: Member) -> None:
        self._done.entries += 1
        self._done.bytes += member.size + BLOCK
        if self._done.entries > self._bounds.entries:
            raise TarError(f"it holds more than {self._bounds.entries} entries")
        if self._done.bytes > self._most:
            raise TarError(f"it unpacks to more than {self._most} bytes")

    def _names(self, path: str) -> list[str]:
        names = [each for each in path.split("/") if each not in ("", ".")]
        if ".." in names:
            raise TarError(f"member {path!r} leads out of it")
        if len(names) > self._bounds.depth:
            raise TarError(f"member {path[:60]!r}… lies deeper than {self._bounds.depth} folders")
        return names

    def _put(self, member: Member, names: list[str], tarball: Tarball) -> None:
        parent = self._directory(names[:-1])
        try:
            if member.type is MemberType.DIRECTORY:
                self._make_directory(parent, names, member)
                return
            self._clear(parent, names[-1])
            match member.type:
                case MemberType.FILE:
                    self._write(parent, names[-1], member, tarball)
                case MemberType.LINK:
                    self._link(parent, names[-1], member)
                case MemberType.SYMLINK:
                    os.symlink(member.link, names[-1], dir_fd=parent)
                    os.chown(names[-1], member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
                case MemberType.FIFO:
                    os.mkfifo(names[-1], 0o600, dir_fd=parent)
                    self._own(parent, names[-1], member)
                case MemberType.DEVICE:
                    raise AssertionError("passed over before")
        finally:
            os.close(parent)

    def _directory(self, names: list[str]) -> int:
        """O_PATH descriptor of a folder beneath the root, made with its parents where missing."""
        path = "/".join(names) or "."
        try:
            return open_beneath(self._root, path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise TarError(f"member {path!r} lies below a loop of symlinks") from error
            if error.errno != errno.ENOENT:
                raise
        parent = self._directory(names[:-1])
        try:
            os.mkdir(names[-1], dir_fd=parent)
            os.chmod(names[-1], 0o755, dir_fd=parent)  # whatever our umask is
        except FileExistsError:
            raise TarError(f"member {path!r} lies below a symlink that leads nowhere") from None
        finally:
            os.close(parent)
        return open_beneath(self._root, path, os.O_PATH | os.O_DIRECTORY)

    def _make_directory(self, parent: int, names: list[str], member: Member) -> None:
        name = names[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            kind = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISLNK(kind):
                # `lib/` over lib -> usr/lib: the link stays, if a folder beneath the root is behind it.
                os.close(open_beneath(self._root, "/".join(names), os.O_PATH | os.O_DIRECTORY))
                return
            if not stat.S_ISDIR(kind):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        self._own(parent, name, member)

    def _clear(self, parent: int, name: str) -> None:
        """What an earlier member of the same name left; a folder only if it is empty."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            os.rmdir(name, dir_fd=parent)

    def _write(self, parent: int, name: str, member: Member, tarball: Tarball) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            while found := tarball.read(_CHUNK):
                view = memoryview(found)
                while view:
                    view = view[os.write(fd, view) :]
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)  # after chown, which takes setuid away
            if member.capability is not None:
                os.setxattr(fd, "security.capability", member.capability)
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _link(self, parent: int, name: str, member: Member) -> None:
        names = self._names(member.link)
        if not names:
            raise TarError(f"member {member.name!r} is a hard link to the root")
        source = open_beneath(self._root, "/".join(names[:-1]) or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(names[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise TarError(
                f"member {member.name!r} is a hard link to {member.link!r}, which is not there"
            ) from None
        finally:
            os.close(source)

    def _own(self, parent: int, name: str, member: Member) -> None:
        """Of a folder or FIFO that we made just now: nobody else is here to put a symlink in its place."""
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        os.chmod(name, member.mode, dir_fd=parent)


__all__ = ["Bounds", "Source", "TarError", "Unpacked", "sha256", "unpack"]
