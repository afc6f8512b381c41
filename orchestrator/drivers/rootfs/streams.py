"""Archives as streams: decompressed by their first bytes (names and media types lie), hashed on both sides on the way.

In: an open file. Out: the bytes that it unpacks to, never more than was allowed, and the SHA-256 of the file and of those
bytes. Reads the file once, from its start to its very end. A thread of its own reads, decompresses and hashes ahead: that
is most of the work, and none of it needs Python's lock.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import lzma
import queue
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

from orchestrator.drivers.rootfs.tarball import TarError

CHUNK = 1 << 18
_READ = 1 << 16  # of compressed bytes: what is unused of them is copied at the end of each gzip member
_AHEAD = 16  # chunks
_WINDOW = 1 << 27  # bytes that zstd or xz may want to look back on
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, ValueError)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Stream:
    """What an archive unpacks to. Raises TarError where it is damaged or unpacks to more than `most` bytes.

    `raw` and `content`, once all is read: SHA-256 of the file and of what it unpacks to, in hex. Close it: its thread ends.
    """

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most
        self._raw, self._content = hashlib.sha256(), hashlib.sha256()
        self._ready: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._chunk, self._at = b"", 0
        self._ended = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="unpack", daemon=True)
        self._thread.start()

    def read(self, size: int, /) -> bytes:
        """At least one and at most `size` bytes; b"" at the end."""
        at, chunk = self._at, self._chunk
        if at == len(chunk):
            if self._ended:
                return b""
            found = self._ready.get()
            if isinstance(found, BaseException):
                self._ended = True
                raise found
            chunk, at, self._ended = found, 0, not found
            self._chunk = chunk
        found = chunk[at : at + size]
        self._at = at + len(found)
        return found

    def drain(self) -> None:
        """Pass over the rest: padding, for the digests."""
        while self.read(CHUNK):
            pass

    @property
    def raw(self) -> str:
        return self._raw.hexdigest()

    @property
    def content(self) -> str:
        return self._content.hexdigest()

    def close(self) -> None:
        self._closed.set()
        self._ended, self._chunk, self._at = True, b"", 0
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                while True:
                    self._ready.get_nowait()  # it may wait for room
            self._thread.join(0.01)

    # the thread

    def _work(self) -> None:
        try:
            done = 0
            for chunk in self._chunks():
                done += len(chunk)
                if done > self._most:
                    raise TarError(f"it unpacks to more than {self._most} bytes")
                self._content.update(chunk)
                self._ready.put(chunk)
                if self._closed.is_set():
                    return
            self._ready.put(b"")
        except _DAMAGE as error:
            told = error if isinstance(error, TarError) else TarError(f"it is damaged: {error}")
            self._ready.put(told)
        except BaseException as error:  # told to the reader, whatever it is
            if isinstance(error, OSError) and error.errno is None:  # what bz2 says of bad data
                error = TarError(f"it is damaged: {error}")
            self._ready.put(error)

    def _chunks(self) -> Iterator[bytes]:
        first = self._next(_READ)
        magic = first[:6]
        if magic[:4] == b"\x28\xb5\x2f\xfd" or (magic[1:4] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50):
            yield from self._unzstd(first)
        elif magic[:2] == b"\x1f\x8b":
            yield from self._decompressed(first, _Inflate)
        elif magic[:3] == b"BZh":
            yield from self._decompressed(first, bz2.BZ2Decompressor)
        elif magic == b"\xfd7zXZ\0":
            yield from self._decompressed(first, lambda: lzma.LZMADecompressor(memlimit=2 * _WINDOW))
        else:
            while first:
                yield first
                first = self._next(CHUNK)

    def _next(self, size: int) -> bytes:
        found = self._file.read(size)
        self._raw.update(found)
        return found

    def _decompressed(self, data: bytes, new: Callable[[], _Decompressor]) -> Iterator[bytes]:
        """Of one compressed stream after the other; zeros may follow the last."""
        decompressor, ended = new(), False
        while True:
            found = decompressor.decompress(data, CHUNK)
            data = b""
            if found:
                yield found
            if decompressor.eof:
                data = decompressor.unused_data.lstrip(b"\0")
                while not data and (data := self._next(_READ)):
                    data = data.lstrip(b"\0")
                if not data:
                    return
                decompressor, ended = new(), False
            elif decompressor.needs_input:
                if ended and not found:
                    raise TarError("it is damaged: it ends in the middle")
                data = b"" if ended else self._next(_READ)
                ended = ended or not data

    def _unzstd(self, first: bytes) -> Iterator[bytes]:
        import zstandard  # lazily: most archives need none

        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(
            cast("IO[bytes]", _Rest(first, self._next)), read_size=_READ, read_across_frames=True
        )
        done = 0
        try:
            while found := reader.read(CHUNK):
                done += len(found)
                yield found
        except zstandard.ZstdError as error:
            raise TarError(f"it is damaged: {error}") from error
        if not done:
            raise TarError("it is damaged: there is nothing in it")
        while self._next(_READ):
            pass


class _Inflate:
    """zlib's decompressor with the words of bz2's and lzma's."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        tail = self._object.unconsumed_tail
        return self._object.decompress(tail + data if tail else data, max_length)


class _Rest:
    """What was read already, then the rest."""

    def __init__(self, first: bytes, read: Callable[[int], bytes]) -> None:
        self._first, self._read = first, read

    def read(self, size: int) -> bytes:
        found, self._first = self._first[:size], self._first[size:]
        return found or self._read(size)
