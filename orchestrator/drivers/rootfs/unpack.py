"""Unpacks an archive of strangers into an empty folder of ours, and finds whether it is the one that was meant.

In: an open archive file, its digest, an empty folder. Out: what the archive holds (`members`), or TarError. Nothing but
the folder is touched; what is in it after an error is the caller's to remove.
"""

from __future__ import annotations

import hashlib
import os
from typing import IO

from orchestrator.drivers.rootfs.members import Bounds, Unpacked, Unpacker
from orchestrator.drivers.rootfs.streams import Stream
from orchestrator.drivers.rootfs.tarball import Source, Tarball, TarError

_CHUNK = 1 << 20


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
    bounds = bounds or Bounds()
    most = bounds.most(os.fstat(file.fileno()).st_size)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stream = Stream(file, most)
    try:
        done = Unpacker(root, folder, bounds, most).run(Tarball(stream))
        stream.drain()
        if stream.raw != expected:
            raise TarError("it was written to while we read it")
        open_to_all(root)
        return done
    finally:
        stream.close()
        os.close(root)


def open_to_all(root: int) -> None:
    """Unprivileged users of the container must get into its root, whatever the archive says."""
    os.fchown(root, 0, 0)
    os.fchmod(root, 0o755)


__all__ = ["Bounds", "Source", "TarError", "Unpacked", "open_to_all", "sha256", "unpack"]
