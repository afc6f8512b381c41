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

    Where there is no key yet, one is invented and written by `keep` alone: looking makes nothing.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._key: bytes | None = None
        self._kept = False

    def digest(self, data: bytes) -> str:
        """64 hex digits. Raises HostError where the key cannot be read."""
        return hmac.digest(self._read(), data, "sha256").hex()

    def keep(self) -> None:
        """The key is on disk when this returns. ConflictError: another command was faster, and made another one."""
        key, path = self._read(), self._layout.secret_key
        if self._kept:
            return
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            private_folders(self._layout.state, os.fspath(path.parent))
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "wb") as file:
                    file.write(key)
                    file.flush()
                    os.fsync(fd)
                os.link(new, path)  # whole or not at all, and never over another
            finally:
                new.unlink(missing_ok=True)
        except FileExistsError as error:
            self._key = None
            raise ConflictError(
                f"another command made {path} at the same time", hint="run this again"
            ) from error
        except OSError as error:
            raise HostError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        self._kept = True

    def _read(self) -> bytes:
        if self._key is not None and self._kept:
            return self._key
        path = self._layout.secret_key
        try:
            found = path.read_bytes()
        except (
            FileNotFoundError,
            PermissionError,
        ):  # not applied here yet, or only looked at by another user
            self._key = self._key or secrets.token_bytes(_LENGTH)
            return self._key
        except OSError as error:
            raise HostError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        if len(found) != _LENGTH:
            raise HostError(
                f"{path} is not a key of {_LENGTH} bytes",
                hint="remove it: a new one is made, and all secrets count as changed once",
            )
        if self._key is None or self._key == found:
            self._key, self._kept = found, True
        return self._key


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
