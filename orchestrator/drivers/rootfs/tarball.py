"""Reads tar archives as a stream of members: ustar, GNU long names and pax (tar(5), pax(1p)). Own parser, no tarfile:
its 3.11 loops for ever on some negative sizes, and believes more than a hostile archive should be believed.

In: a binary stream, already decompressed. Out: `Member`s, each with its bytes to be read before the next one.
Refused: sizes or numbers that cannot be, headers with a wrong sum. Must not touch a file system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from orchestrator.drivers.rootfs import sparse, tarwords
from orchestrator.drivers.rootfs.tarwords import BLOCK, TarError

__all__ = ["BLOCK", "Member", "MemberType", "Source", "TarError", "Tarball"]
_MAX_EXTRA = 1024 * 1024  # bytes of one pax header or long name
_XATTR = "SCHILY.xattr."
_PAX = frozenset(
    {"path", "linkpath", "size", "uid", "gid", "mtime"}
)  # with xattrs, all that we read of pax headers


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class MemberType(StrEnum):
    FILE = "file"
    LINK = "hard link"
    SYMLINK = "symlink"
    DIRECTORY = "directory"
    FIFO = "fifo"
    DEVICE = "device"


_TYPES = {
    b"0": MemberType.FILE,
    b"\0": MemberType.FILE,
    b"7": MemberType.FILE,
    b"S": MemberType.FILE,  # GNU's sparse files
    b"1": MemberType.LINK,
    b"2": MemberType.SYMLINK,
    b"3": MemberType.DEVICE,
    b"4": MemberType.DEVICE,
    b"5": MemberType.DIRECTORY,
    b"6": MemberType.FIFO,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry as the archive names it, unchecked; `size` bytes follow for a file. `extents`, of a sparse one: where those
    that do follow belong, (offset, length)."""

    name: str
    type: MemberType
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str = ""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    extents: sparse.Extents | None = None

    @property
    def mtime(self) -> float:
        """In seconds."""
        return self.mtime_ns / 1e9


@dataclass(slots=True)
class _Next:
    """What GNU and pax headers said of the member that comes."""

    pax: dict[str, bytes] = field(default_factory=dict)
    name: bytes | None = None
    link: bytes | None = None
    told: int = 0  # bytes of pax headers
    sparse: sparse.SparseWords = field(default_factory=sparse.SparseWords)


class Tarball:
    """Members in order; `read` gives the current one's bytes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0  # bytes of the current member, then its padding
        self._padding = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes of the current member; b"" at its end. Raises TarError where the archive ends early."""
        want = min(size, self._left)
        if not want:
            return b""
        found = self._source.read(want)
        if not found:
            raise TarError("it ends in the middle of a file")
        self._left -= len(found)
        return found

    def __iter__(self) -> Iterator[Member]:
        shared = _Next()
        coming = _Next()
        while (header := self._header()) is not None:
            kind, size = header[156:157], tarwords.size(tarwords.number(header[124:136]))
            if kind in b"xgLK" and kind:
                text = self._extra(size)
                match kind:
                    case b"x":
                        _tell(coming, text)
                    case b"g":
                        _tell(shared, text)
                    case b"L":
                        coming.name = text.rstrip(b"\0")
                    case _:
                        coming.link = text.rstrip(b"\0")
                continue
            old = sparse.old_extents(header, lambda: self._exactly(BLOCK)) if kind == b"S" else None
            member = _member(header, size, coming, {**shared.pax, **coming.pax})
            words, coming = coming.sparse, _Next()
            body = size if member is None else member.size
            self._left, self._padding = body, -body % BLOCK
            if member is not None and old is not None:
                yield self._sparse(member, *old)
            elif member is not None and words.said and member.type is MemberType.FILE:
                extents = words.extents(lambda: self._whole(BLOCK))
                name = member.name if words.name is None else _decoded(words.name)
                yield self._sparse(replace(member, name=name), extents, words.size())
            elif member is not None:
                yield member
            self._skip()

    def _sparse(self, member: Member, extents: sparse.Extents, size: int) -> Member:
        if sum(length for _, length in extents) != self._left:
            raise TarError("a sparse member is not as long as its map says")
        return replace(member, extents=extents, size=size)

    def pieces(self, member: Member, size: int) -> Iterator[tuple[int, bytes]]:
        """The current member's bytes, at most `size` at once, each with its offset in the file; between them are holes."""
        for offset, length in ((0, member.size),) if member.extents is None else member.extents:
            at, end = offset, offset + length
            while at < end:
                found = self.read(min(size, end - at))
                yield at, found
                at += len(found)

    def _whole(self, size: int) -> bytes:
        """Exactly `size` bytes of the current member."""
        found = b""
        while len(found) < size:
            if not (more := self.read(size - len(found))):
                raise TarError("a sparse member ends in its map")
            found += more
        return found

    def _header(self) -> bytes | None:
        header = self._exactly(BLOCK, end=True)
        if not header or not header.strip(b"\0"):
            return None
        stored = tarwords.number(header[148:156])
        real = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if stored != real and stored != real - 256 * sum(each > 127 for each in header[:148] + header[156:]):
            raise TarError("it is no tar archive, or damaged: a header's checksum is wrong")
        return header

    def _extra(self, size: int) -> bytes:
        if size > _MAX_EXTRA:
            raise TarError(f"a header of {size} bytes")
        text = self._exactly(size)
        self._exactly(-size % BLOCK)
        return text

    def _skip(self) -> None:
        while self.read(1 << 20):
            pass
        self._exactly(self._padding)

    def _exactly(self, size: int, *, end: bool = False) -> bytes:
        parts, left = [], size
        while left:
            found = self._source.read(left)
            if not found:
                if end and left == size:
                    return b""
                raise TarError("it ends early")
            parts.append(found)
            left -= len(found)
        return b"".join(parts)


def _member(header: bytes, size: int, coming: _Next, pax: Mapping[str, bytes]) -> Member | None:
    """None for a type that we do not know; its bytes are passed over."""
    kind = _TYPES.get(header[156:157])
    if kind is None:
        return None
    name = _text(header[0:100])
    if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500])):
        name = prefix + b"/" + name
    name = pax.get("path", coming.name if coming.name is not None else name)
    if kind is MemberType.FILE and name.endswith(b"/"):
        kind = MemberType.DIRECTORY  # pre-POSIX archives
    size = tarwords.size(_decimal(pax, "size", size))
    return Member(
        name=_decoded(name),
        type=kind,
        mode=tarwords.number(header[100:108]) & 0o7777,
        uid=_id(_decimal(pax, "uid", tarwords.number(header[108:116]))),
        gid=_id(_decimal(pax, "gid", tarwords.number(header[116:124]))),
        size=size if kind is MemberType.FILE else 0,
        mtime_ns=_time(pax, header[136:148]),
        link=_decoded(
            pax.get("linkpath", coming.link if coming.link is not None else _text(header[157:257]))
        ),
        xattrs={key.removeprefix(_XATTR): pax[key] for key in pax if key.startswith(_XATTR)} if pax else {},
    )


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _decoded(raw: bytes) -> str:
    if b"\0" in raw:
        raise TarError("a name holds a zero byte")
    return raw.decode("utf-8", "surrogateescape")


def _decimal(pax: Mapping[str, bytes], key: str, default: int) -> int:
    raw = pax.get(key)
    return default if raw is None else tarwords.decimal(raw, f"a pax header's {key}")


def _id(number: int) -> int:
    if not 0 <= number < 2**32 - 1:
        raise TarError(f"an owner of {number}")
    return number


def _time(pax: Mapping[str, bytes], header: bytes) -> int:
    """In nanoseconds; 0 for one before 1970 or too far away."""
    text = pax.get("mtime")
    if text is None:
        return seconds * 10**9 if 0 <= (seconds := tarwords.number(header)) < 2**33 else 0
    whole, _, part = text.removeprefix(b"-").partition(b".")
    if not (whole + part).isdigit() or len(text) > 64:
        raise TarError("a pax header's mtime is no number")
    ns = int(whole or b"0") * 10**9 + int(part[:9].ljust(9, b"0"))
    return ns if ns < 2**33 * 10**9 and not text.startswith(b"-") else 0


def _tell(about: _Next, text: bytes) -> None:
    about.told += len(text)
    if about.told > _MAX_EXTRA:
        raise TarError(f"headers of {about.told} bytes")
    found = _pax(text)
    for key, value in found:
        if key in _PAX or key.startswith(_XATTR):
            about.pax[key] = value
        elif key.startswith(sparse.KEY):
            about.sparse.tell(key, value)


def _pax(text: bytes) -> list[tuple[str, bytes]]:
    """Records `LENGTH key=value\\n`, where LENGTH counts the whole record."""
    found = []
    while text.strip(b"\0"):
        digits = text.partition(b" ")[0]
        if not digits.isdigit() or len(digits) > 8:
            raise TarError("a pax header is damaged")
        length = int(digits)
        record = text[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if length > len(text) or length <= len(digits) + 1 or not equals or not value.endswith(b"\n"):
            raise TarError("a pax header is damaged")
        found.append((key.decode("utf-8", "replace"), value[:-1]))
        text = text[length:]
    return found
