"""A bounded ring of what a container wrote, with times: `Ring` fills it, `read` and `Cursor` give its lines back.

Files of `folder`: NUMBER.log holds raw bytes, NUMBER.idx 16-byte records (wall time in ns; offset << 2 | stream) that say
where a chunk begins; the highest number is the newest. A record is written before its bytes and the bytes go from pipe to
file inside the kernel (splice(2)): a kill at any point loses none and assigns none to the wrong stream.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

STREAMS = ("note", "stdout", "stderr")  # note: what we have to say, as of dropped bytes
_RECORD = struct.Struct("<QQ")
_COALESCE = 5_000_000  # ns within which chunks of one stream share a record
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
_LONGEST = 1024 * 1024


class LogLine(NamedTuple):
    """`time` is wall time in ns at which the line's first bytes were seen; `text` has no newline."""

    time: int
    stream: str
    text: bytes


class Ring:
    """At most `files` files of `max_size` bytes each (and an index of at most half of that). Opened at the first byte."""

    def __init__(self, folder: str, max_size: int, files: int) -> None:
        self.folder = folder
        self.max_size = max(max_size, 4096)
        self.files = max(files, 1)
        self.used = 0.0  # monotonic time of the last byte, for `close` of idle ones
        self.dropped = 0
        self._number = 0
        self._data = self._index = -1
        self._size = self._records = 0
        self._last = (0, -1)  # time and stream of the last record

    def pump(self, fifo: int, stream: int) -> int:
        """Move what the non-blocking `fifo` holds (at most one pipe's fill) into the ring; the number of bytes moved.

        Never blocks and never leaves bytes behind: where nothing can be written they are dropped and counted.
        """
        waiting = _waiting(fifo)
        if not waiting:
            return 0
        self.used = time.monotonic()
        try:
            self._prepare()
            if self.dropped:
                self._note()
            self._mark(stream)
            moved = self._move(fifo, min(waiting, self.max_size - self._size))
        except OSError as error:
            if error.errno not in _FULL and error.errno not in (
                errno.ENOENT,
                errno.EMFILE,
                errno.ENFILE,
                errno.ENOTDIR,
            ):
                raise
            moved = len(os.read(fifo, waiting))
            self.dropped += moved
            self.close()
            return moved
        self._size += moved
        return moved

    def resize(self, max_size: int, files: int) -> None:
        self.max_size, self.files = max(max_size, 4096), max(files, 1)
        if self._data >= 0:
            self._prune()

    def close(self) -> None:
        for fd in (self._data, self._index):
            if fd >= 0:
                os.close(fd)
        self._data = self._index = -1

    def _prepare(self) -> None:
        if self._data < 0:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            self._open(max(_numbers(self.folder), default=1))
        if self._size >= self.max_size or self._records * 2 >= self.max_size:
            number = self._number + 1
            self.close()
            self._open(number)
            self._prune()

    def _open(self, number: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._data = os.open(_path(self.folder, number, "log"), flags, 0o600)
        self._index = os.open(_path(self.folder, number, "idx"), flags | os.O_APPEND, 0o600)
        self._number, self._last = number, (0, -1)
        self._size = os.fstat(self._data).st_size
        self._heal()

    def _heal(self) -> None:
        """After a kill or a loss of power: whole records only, none that begins behind the bytes, one at the front."""
        size = os.fstat(self._index).st_size
        kept = size - size % _RECORD.size
        while (
            kept
            and _RECORD.unpack(os.pread(self._index, _RECORD.size, kept - _RECORD.size))[1] >> 2 > self._size
        ):
            kept -= _RECORD.size
        if kept != size:
            os.ftruncate(self._index, kept)
        self._records = kept
        if not kept and self._size:
            self._records += os.write(self._index, _RECORD.pack(time.time_ns(), 1))

    def _prune(self) -> None:
        for number in _numbers(self.folder):
            if number <= self._number - self.files:
                for kind in ("log", "idx"):
                    with suppress(OSError):
                        os.unlink(_path(self.folder, number, kind))

    def _mark(self, stream: int) -> None:
        now = time.time_ns()
        if self._last[1] == stream and 0 <= now - self._last[0] < _COALESCE:
            return
        written = os.write(self._index, _RECORD.pack(now, self._size << 2 | stream))
        if written != _RECORD.size:
            os.ftruncate(self._index, self._records)
            raise OSError(errno.ENOSPC, "index")
        self._records += written
        self._last = (now, stream)

    def _move(self, fifo: int, count: int) -> int:
        try:
            return os.splice(fifo, self._data, count, offset_dst=self._size, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return os.pwrite(self._data, os.read(fifo, count), self._size)  # a file system without splice

    def _note(self) -> None:
        text = f"[{self.dropped} bytes were dropped: the log could not be written]\n".encode()
        self._mark(0)
        if os.pwrite(self._data, text, self._size) != len(text):
            raise OSError(errno.ENOSPC, "note")
        self._size += len(text)
        self.dropped = 0


class Cursor:
    """A place in a ring that moves on as lines come: `poll` gives those that are whole."""

    def __init__(self, folder: str, *, tail: int | None = None) -> None:
        self._folder = folder
        self._number = _first(folder, tail)
        self._offset = 0
        self._parts: dict[int, tuple[int, bytearray]] = {}

    def poll(self) -> Iterator[LogLine]:
        """Those that became whole since the last poll, one at a time: a ring may hold millions.

        Reads at most as many files as there are when it begins: a writer who outruns us must not keep us for ever.
        """
        numbers = _numbers(self._folder)
        for _ in range(len(numbers)):
            if numbers and self._number not in numbers:
                later = [each for each in numbers if each > self._number]
                self._number, self._offset = (min(later) if later else min(numbers)), 0
            newer = [
                each for each in numbers if each > self._number
            ]  # before the read: then this one is complete
            yield from self._read()
            if not newer:
                return
            self._number, self._offset = min(newer), 0
            numbers = _numbers(self._folder)

    def rest(self) -> list[LogLine]:
        """Beginnings of lines that have not ended."""
        found = [
            LogLine(when, STREAMS[stream], bytes(text))
            for stream, (when, text) in self._parts.items()
            if text
        ]
        self._parts.clear()
        return sorted(found)

    def whole(self) -> Iterator[LogLine]:
        """`poll`, then `rest`: all that is there now."""
        yield from self.poll()
        yield from self.rest()

    def _read(self) -> Iterator[LogLine]:
        try:
            with open(_path(self._folder, self._number, "log"), "rb", buffering=0) as data:
                size = os.fstat(data.fileno()).st_size  # before the index: every byte below it has its record
                if size <= self._offset:
                    return
                records = _records(_path(self._folder, self._number, "idx"))
                text = os.pread(data.fileno(), size - self._offset, self._offset)
        except FileNotFoundError:
            return
        base, end = self._offset, self._offset + len(text)
        self._offset = end
        for position, (when, start, stream) in enumerate(records):
            stop = records[position + 1][1] if position + 1 < len(records) else end
            if stop > base and start < end:
                yield from self._split(when, stream, text[max(start, base) - base : stop - base])

    def _split(self, when: int, stream: int, chunk: bytes) -> Iterator[LogLine]:
        begun, part = self._parts.pop(stream, (when, bytearray()))
        *whole, last = chunk.split(b"\n")
        for line in whole:
            yield LogLine(begun, STREAMS[stream], bytes(part + line))
            begun, part = when, bytearray()
        part += last
        if len(part) > _LONGEST:
            yield LogLine(begun, STREAMS[stream], bytes(part))
        elif part:
            self._parts[stream] = (begun, part)


def read(folder: str, *, since: float | None = None, tail: int | None = None) -> Iterator[LogLine]:
    """The lines in the ring, oldest first: the last `tail` of those seen at `since` (wall seconds) or later."""
    cursor = Cursor(folder, tail=tail if since is None else None)
    yield from wanted(cursor.whole(), since=since, tail=tail)


def wanted(lines: Iterable[LogLine], *, since: float | None, tail: int | None) -> Iterator[LogLine]:
    """The last `tail` (default: all) of the lines that began at `since` (wall seconds) or later."""
    late = (each for each in lines if since is None or each.time >= since * 1e9)
    yield from late if tail is None else deque(late, maxlen=tail)


def _waiting(fifo: int) -> int:
    """FIONREAD (pipe(7))."""
    buffer = bytearray(4)
    fcntl.ioctl(fifo, termios.FIONREAD, buffer)
    return int(struct.unpack("=i", buffer)[0])


def _numbers(folder: str) -> list[int]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".log") and name[:-4].isdigit())


def _path(folder: str, number: int, kind: str) -> str:
    return f"{folder}/{number:06}.{kind}"


def _records(path: str) -> list[tuple[int, int, int]]:
    """(time, offset, stream) of each chunk."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        return []
    whole = raw[: len(raw) - len(raw) % _RECORD.size]
    return [(when, place >> 2, min(place & 3, 2)) for when, place in _RECORD.iter_unpack(whole)]


def _first(folder: str, tail: int | None) -> int:
    """The file to begin with: the oldest, or the last one from which on there are more than `tail` lines."""
    numbers = _numbers(folder)
    if tail is None or not numbers:
        return numbers[0] if numbers else 1
    lines = 0
    for number in reversed(numbers):
        with suppress(FileNotFoundError), open(_path(folder, number, "log"), "rb") as file:
            lines += file.read().count(b"\n")
        if lines > tail:
            return number
    return numbers[0]
