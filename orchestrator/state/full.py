"""What history does while its disk refuses: a copy in memory to read from, and tombstones that need no space.

In: the path of a database that cannot be opened or written as usual. Out: a connection to a copy; the deletions that
the database does not know of yet, each an empty file beside it, which needs a name and no block. Must not write into it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

LITTLE = 256 * 1024  # bytes: a transaction and the files beside a database in WAL mode need less

_REFUSALS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def refused(error: sqlite3.Error) -> bool:
    """Whether the disk refused to be written to, as opposed to a damaged file or another writer."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _REFUSALS


def full(path: Path) -> bool:
    """Whether the file system of `path` has no room left: blocks, or inodes where it counts them (statvfs(3))."""
    try:
        found = os.statvfs(path if path.exists() else path.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < LITTLE or (found.f_files > 0 and found.f_favail == 0)


def copied(path: Path, *, timeout: float) -> sqlite3.Connection | None:
    """The database as it is, in memory; None where not even that can be read. `timeout`: seconds for other users of it.

    A reader of a WAL database makes a -shm file, for which there is no space (https://sqlite.org/wal.html#noshm): with
    an exclusive lock its index is kept in memory. Where no file can be made at all, what is in the WAL cannot be seen.
    """
    for options, locking in (("mode=rw", "EXCLUSIVE"), ("mode=ro&immutable=1", "NORMAL")):
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            uri = f"file:{quote(os.fspath(path))}?{options}"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=timeout)) as source:
                source.execute(f"PRAGMA locking_mode={locking}")
                source.backup(copy)
            return copy
        except sqlite3.Error:
            copy.close()
    return None


class Tombstones:
    """Revisions that are deleted, and for whose tombstone the database `path` had no space; a mark is all in its name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self, stack: str, number: int, *, prune_data: bool) -> None:
        """Nothing is wished of `stack` since its revision `number`, nor (`prune_data`) of its data; durable when this
        returns. Raises OSError."""
        fd = os.open(self._file(stack, number, prune_data), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def marked(self, stack: str, number: int) -> bool:
        return any(self._file(stack, number, prune_data).exists() for prune_data in (False, True))

    def prunes(self, stack: str, number: int) -> bool:
        return self._file(stack, number, True).exists()

    def all(self) -> tuple[tuple[str, int, bool], ...]:
        """(stack, number, prune_data) of each."""
        return tuple(
            (stack, int(number), prune_data)
            for prune_data in (False, True)
            for stack, _, number in (name.rpartition(".") for name in self._names(prune_data))
            if stack and number.isdigit()
        )

    def clear(self, done: Iterable[tuple[str, int, bool]]) -> None:
        """Forgets those that the database has now; one that stays says nothing new."""
        for each in done:
            with contextlib.suppress(OSError):
                self._file(*each).unlink()

    def _file(self, stack: str, number: int, prune_data: bool) -> Path:
        return self._path.with_name(f"{self._head(prune_data)}{stack}.{number}")

    def _head(self, prune_data: bool) -> str:
        return f"{self._path.name}-{'pruned' if prune_data else 'deleted'}."

    def _names(self, prune_data: bool) -> list[str]:
        head = self._head(prune_data)
        found = (each.name for each in self._path.parent.iterdir())
        return sorted(each.removeprefix(head) for each in found if each.startswith(head))
