"""The bytes of configs, by stack and SHA-256: what a revision's document names and does not hold.

In: bytes of a wish about to be committed; documents of revisions that are kept. Out: files. Written, and synced, before
the revision that names them; removed when none of the last revisions does. Must not be used for secrets.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import HostError
from orchestrator.state.store import Store

KEPT_REVISIONS = 20  # whose configs stay, so that they can be gone back to


def kept_documents(store: Store, stack: str) -> Iterator[Mapping[str, Any]]:
    """The documents of the stack's last revisions, newest first, each read when it is asked for."""
    for mark in store.history(stack, limit=KEPT_REVISIONS):
        revision = store.revision(stack, mark.number)
        if revision is not None:
            yield revision.document


class Blobs:
    """One stack's folder of blobs. What is written under `committing` is not collected by another command meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def committing(self, blobs: Mapping[str, bytes]) -> Iterator[None]:
        """Writes `blobs`, then holds the folder until the revision is committed. Raises HostError with the path."""
        if not blobs and not self._folder.is_dir():
            yield
            return
        try:
            for each in (self._folder.parent.parent, self._folder.parent, self._folder):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._told(error) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                for digest, data in blobs.items():
                    self._put(digest, data)
                os.fsync(held)
            except OSError as error:
                raise self._told(error) from error
            yield
        finally:
            os.close(held)

    def collect(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Removes what none of the documents, newest first, names. Under `committing` only; a refusal is no failure."""
        unnamed = {each.name for each in self._files()}
        for document in documents:
            if not unnamed:
                return
            text = json.dumps(document.get("resources", {}))
            unnamed = {each for each in unnamed if each not in text}
        for each in unnamed:
            with contextlib.suppress(OSError):
                (self._folder / each).unlink()

    def _files(self) -> list[Path]:
        return list(self._folder.iterdir()) if self._folder.is_dir() else []

    def _put(self, digest: str, data: bytes) -> None:
        path, new = self._folder / digest, self._folder / f".{digest}"
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        new.replace(path)

    def _told(self, error: OSError) -> HostError:
        word = (error.strerror or str(error)).lower()
        return HostError(f"{self._folder}: {word}", hint="make space or mend the disk, then apply again")
