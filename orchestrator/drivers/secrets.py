"""Secrets: the instance's key, the keyed digest by which a changed secret is seen, and the reading of their files.

In: `Layout`, bytes, paths. Out: digests, bytes. The bytes go nowhere but to the caller: no message ever holds them.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import stat

from orchestrator.drivers.records import private_folders
from orchestrator.errors import ConflictError, HostError
from orchestrator.ports.layout import Layout

LARGEST = 1024 * 1024
_LENGTH = 32


class SecretKey:
    """HMAC-SHA256 (RFC 2104) under a key that never leaves this host, so that a digest tells nothing of a short secret.

    Where there is no key yet, one is invented and written by `keep` alone: looking makes nothing. The file is asked each
    time, for it may be made or lost while a process of ours lives on.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = layout.secret_key
        self._invented: bytes | None = None

    def digest(self, data: bytes) -> str:
        """64 hex digits. Raises HostError where the key cannot be read."""
        return hmac.digest(self._found() or self._invent(), data, "sha256").hex()

    def keep(self) -> None:
        """The key of all digests so far is on disk when this returns. ConflictError: another command made another one."""
        found = self._found()
        if found is None:
            self._write(self._invent())
        elif self._invented not in (None, found):
            raise self._conflict()

    def _invent(self) -> bytes:
        self._invented = self._invented or secrets.token_bytes(_LENGTH)
        return self._invented

    def _found(self) -> bytes | None:
        try:
            found = self._path.read_bytes()
        except (FileNotFoundError, PermissionError):  # not applied here yet; another user only looks
            return None
        except OSError as error:
            raise self._told(error) from error
        if len(found) != _LENGTH:
            raise HostError(
                f"{self._path} is not a key of {_LENGTH} bytes",
                hint="remove it: a new one is made, and all secrets count as changed once",
            )
        return found

    def _write(self, key: bytes) -> None:
        new = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            private_folders(self._layout.state, os.fspath(self._path.parent))
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "wb") as file:
                    file.write(key)
                    file.flush()
                    os.fsync(fd)
                os.link(new, self._path)  # whole or not at all, and never over another
            finally:
                new.unlink(missing_ok=True)
        except FileExistsError as error:
            raise self._conflict() from error
        except OSError as error:
            raise self._told(error) from error

    def _conflict(self) -> ConflictError:
        return ConflictError(f"another command made {self._path} at the same time", hint="run this again")

    def _told(self, error: OSError) -> HostError:
        return HostError(f"{self._path}: {(error.strerror or str(error)).lower()}")


def read(path: str) -> bytes:
    """A secret's file: a regular file of at most 1 MiB. Raises OSError with the path."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(LARGEST + 1)
    finally:
        os.close(fd)
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, "larger than 1 MiB", path)
    return data
