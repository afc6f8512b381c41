"""Tar streams as source and as sink. Reading is the parser of rootfs archives; nothing is unpacked by a library.

In: a binary stream. Out: entries; or bytes. No owner's name is looked up or written, so no library of the system is loaded.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from typing import IO, BinaryIO, cast

from orchestrator.drivers.rootfs.tarball import BLOCK, Member, MemberType, Source, Tarball, TarError
from orchestrator.errors import StepError
from orchestrator.transfer.entries import CHUNK, Entry, EntryKind, Skipped

_KINDS = {
    MemberType.FILE: EntryKind.FILE,
    MemberType.DIRECTORY: EntryKind.FOLDER,
    MemberType.SYMLINK: EntryKind.SYMLINK,
    MemberType.LINK: EntryKind.HARD_LINK,
}
_TYPES = {
    EntryKind.FILE: tarfile.REGTYPE,
    EntryKind.FOLDER: tarfile.DIRTYPE,
    EntryKind.SYMLINK: tarfile.SYMTYPE,
}
_DAMAGE = (TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def entries(stream: BufferedReader) -> Iterator[Entry | Skipped]:
    """The members of a tar stream, compressed by gzip, bzip2, xz or not at all. Raises StepError where it is damaged."""
    try:
        tarball = Tarball(_opened(stream))
        for member in tarball:
            names = _names(member.name)
            kind = _KINDS.get(member.type)
            if kind is None:
                yield Skipped(names=names, why=f"a {member.type}")
            elif names or kind is EntryKind.FOLDER:
                yield _entry(member, kind, names, tarball)
    except _DAMAGE as error:
        raise StepError(f"the tar stream: {error}") from error
    except OSError as error:
        if error.errno is None:  # what bz2 says of bad data
            raise StepError(f"the tar stream is damaged: {error}") from error
        raise


def _entry(member: Member, kind: EntryKind, names: tuple[str, ...], tarball: Tarball) -> Entry:
    link = "/".join(_names(member.link)) if kind is EntryKind.HARD_LINK else member.link
    if kind is EntryKind.HARD_LINK and not link:
        raise TarError(f"member {member.name!r} is a hard link to nothing")
    return Entry(
        names=names,
        kind=kind,
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=member.mtime,
        size=member.size if kind is EntryKind.FILE else 0,
        link=link,
        content=tarball.pieces(member, CHUNK),
    )


def _names(path: str) -> tuple[str, ...]:
    names = tuple(each for each in path.split("/") if each not in ("", "."))
    if ".." in names:
        raise TarError(f"member {path!r} leads out of it")
    return names


def _opened(stream: BufferedReader) -> Source:
    """Decompressed, by its first bytes."""
    magic = stream.peek(6)[:6]
    raw = cast("IO[bytes]", stream)
    if magic[:2] == b"\x1f\x8b":
        return cast("Source", gzip.GzipFile(fileobj=raw, mode="rb"))
    if magic[:3] == b"BZh":
        return cast("Source", bz2.BZ2File(raw))
    if magic == b"\xfd7zXZ\0":
        return cast("Source", lzma.LZMAFile(raw))
    return stream


class TarStream:
    """The sink. `name`: that of the top."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name

    def put(self, entry: Entry) -> Iterator[int]:
        """Write one member; yields numbers of bytes as they are written."""
        info = tarfile.TarInfo("/".join((self._name, *entry.names) if self._name else entry.names) or ".")
        info.type, info.mode = _TYPES[entry.kind], entry.mode
        info.uid, info.gid, info.mtime = entry.uid, entry.gid, int(entry.mtime)
        info.size, info.linkname = entry.size, entry.link
        self._stream.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        at = 0
        for offset, data in entry.content:
            yield from self._zeros(offset - at)
            self._stream.write(data)
            yield len(data)
            at = offset + len(data)
        yield from self._zeros(entry.size - at)
        self._stream.write(bytes(-entry.size % BLOCK))

    def end(self) -> None:
        """The two empty blocks that end an archive."""
        self._stream.write(bytes(2 * BLOCK))
        self._stream.flush()

    def _zeros(self, count: int) -> Iterator[int]:
        while count > 0:
            size = min(count, CHUNK)
            self._stream.write(bytes(size))
            count -= size
            yield size
