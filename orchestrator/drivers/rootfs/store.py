"""The store of roots: contents by name, whole or absent, shared by all stacks and images, and what is known of them.

In: names that we give. Out, below `Layout.rootfs`: NAME (a folder that is only read, an overlay's lower),
`.about/NAME.json` and its listing, `.images/DIGEST.json`, `.names/…json` (what a tag or recipe came down to),
`.holds/…json` (what lock files name), `.partial/…` (fetched, not yet used). A content appears by a rename. One file
lock a name guards its making, across processes; who makes and then records one does it inside `held`, who collects is
`held(alone=True)`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.drivers.records import private_folders
from orchestrator.drivers.rootfs import listing
from orchestrator.drivers.trees import remove_tree
from orchestrator.errors import HostError
from orchestrator.ports.layout import Layout

TEMPORARY = ".tmp-"


def layer_name(diff_id: str) -> str:
    """Of a layer's content by the digest of its uncompressed tar (config.md, "Layer DiffID"). Short, because the
    kernel takes a page of lower layers at most; the whole digest is in `about`, to be compared."""
    return f"l-{diff_id.removeprefix('sha256:')[:24]}"


def chain_name(diff_id: str, parents: Sequence[str]) -> str:
    """Of a layer that is what it is only on top of `parents` (content names, topmost first)."""
    chain = "\n".join((*reversed(parents), diff_id))
    return f"c-{hashlib.sha256(chain.encode()).hexdigest()[:24]}"


def tree_name(digest: str) -> str:
    """Of a content by its listing's digest."""
    return f"t-{digest.removeprefix('sha256:')[:24]}"


class ContentStore:
    """Holds nothing but paths; safe for several threads and processes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._root = layout.rootfs

    # contents

    def folder(self, name: str) -> Path:
        return self._root / name

    def has(self, name: str) -> bool:
        return self.folder(name).is_dir()

    def contents(self) -> tuple[str, ...]:
        """The names of those that are whole."""
        with contextlib.suppress(FileNotFoundError):
            return tuple(sorted(each.name for each in self._root.iterdir() if not each.name.startswith(".")))
        return ()

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """An empty folder to fill, and nobody else fills one of that name meanwhile; removed when the block fails.

        Ask `has` inside: somebody may have made it while we waited."""
        with self.lock(name):
            folder = self._root / f"{TEMPORARY}{name}"
            remove_tree(folder)
            folder.mkdir()
            folder.chmod(0o755)  # whatever our umask is: users of containers walk through it
            try:
                yield folder
            finally:
                remove_tree(folder)  # a full disk is to be emptied at once; after `keep` nothing is there

    def keep(
        self,
        folder: Path,
        name: str,
        about: Mapping[str, Any],
        digests: Mapping[int, str] | None = None,
    ) -> listing.Listing:
        """The folder of `making` becomes the content `name`, unless there is one. `about`: plain data; what it holds is
        added: `digest` of the listing, `bytes`, `entries`, `made` (seconds since 1970). `digests`: of files, by inode."""
        found = listing.listing(folder, digests)
        self.keep_listed(folder, name, about, found)
        return found

    def keep_listed(self, folder: Path, name: str, about: Mapping[str, Any], found: listing.Listing) -> None:
        """As `keep`, of a folder whose listing was made already."""
        if self.has(name):
            return
        self._folder(".about")
        lines = self._root / ".about" / f"{name}.list.gz"
        try:
            found.write(lines)
        except OSError:
            lines.unlink(missing_ok=True)  # a full disk
            raise
        more = {
            "digest": found.digest,
            "bytes": found.bytes,
            "entries": len(found.lines),
            "made": time.time(),
        }
        self._write(self._root / ".about" / f"{name}.json", {**about, **more})
        folder.rename(self.folder(name))

    def about(self, name: str) -> Mapping[str, Any]:
        """What `keep` was told; empty: nothing is known."""
        return self._read(self._root / ".about" / f"{name}.json") or {}

    def damage(self, name: str) -> tuple[str, ...]:
        """What of the content is not as it was made, in words."""
        try:
            before = listing.read(self._root / ".about" / f"{name}.list.gz")
        except (OSError, EOFError):
            return ("its listing is missing or damaged",)
        return listing.differences(before, listing.listing(self.folder(name)).lines)

    def remove(self, name: str) -> bool:
        """Whether nobody is making it just now. Out of sight first: what is removed half must not be found as whole."""
        try:
            with self.lock(name, wait=False):
                hidden = self._root / f"{TEMPORARY}{name}"
                remove_tree(hidden)
                with contextlib.suppress(FileNotFoundError):
                    self.folder(name).rename(hidden)
                remove_tree(hidden)
                for end in ("json", "list.gz"):
                    (self._root / ".about" / f"{name}.{end}").unlink(missing_ok=True)
                (self._root / ".locks" / name).unlink(missing_ok=True)
            return True
        except BlockingIOError:
            return False

    def half_made(self) -> tuple[str, ...]:
        """The names of which something half made or half removed is there."""
        with contextlib.suppress(FileNotFoundError):
            found = (each.name for each in self._root.iterdir() if each.name.startswith(TEMPORARY))
            return tuple(sorted(each.removeprefix(TEMPORARY) for each in found))
        return ()

    def discard(self, name: str) -> None:
        """Remove what is half made of it, unless somebody is at it just now."""
        with contextlib.suppress(BlockingIOError), self.lock(name, wait=False):
            remove_tree(self._root / f"{TEMPORARY}{name}")

    # images, names, holds: small JSON documents

    def document(self, kind: str, key: str) -> Mapping[str, Any] | None:
        """One of `images` (by digest), `names` or `holds` (by name)."""
        return self._read(self._root / f".{kind}" / _file(key))

    def documents(self, kind: str) -> tuple[Mapping[str, Any], ...]:
        with contextlib.suppress(FileNotFoundError):
            found = sorted((self._root / f".{kind}").glob("*.json"))
            return tuple(each for path in found if (each := self._read(path)) is not None)
        return ()

    def put(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        self._folder(f".{kind}")
        self._write(self._root / f".{kind}" / _file(key), data)

    def drop(self, kind: str, key: str) -> None:
        (self._root / f".{kind}" / _file(key)).unlink(missing_ok=True)

    def partials(self) -> tuple[tuple[str, int], ...]:
        """(key, bytes) of what was fetched and never used."""
        with contextlib.suppress(FileNotFoundError):
            found = sorted((self._root / ".partial").iterdir())
            return tuple(
                (each.name.replace("-", ":", 1), sum(p.lstat().st_blocks * 512 for p in each.rglob("*")))
                for each in found
            )
        return ()

    def discard_partial(self, key: str, *, dry: bool) -> bool:
        """Whether nobody is fetching it just now; `dry`: only say so."""
        try:
            with self.lock(f"pull-{key.removeprefix('sha256:')}", wait=False):
                if not dry:
                    remove_tree(self._root / ".partial" / key.replace(":", "-"))
            return True
        except BlockingIOError:
            return False

    def partial(self, key: str) -> Path:
        """A folder for what was fetched and is not used yet; outlives us, so that the next attempt goes on with it."""
        return self._folder(".partial", key.replace(":", "-"))

    @contextlib.contextmanager
    def log(self, name: str) -> Iterator[IO[bytes]]:
        """A file for what is said while a content is made; the last one of that name stays."""
        with (self._folder(".logs") / name).open("wb") as file:
            yield file

    # locks

    @contextlib.contextmanager
    def held(self, *, alone: bool = False) -> Iterator[None]:
        """Nothing is collected while the block runs; `alone`: and nobody else is in such a block."""
        fd = os.open(self._folder(".locks") / "all", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool = True, passing: bool = False) -> Iterator[None]:
        """One holder a name, across processes; BlockingIOError where one is not to wait. `passing`: the name is rarely
        needed again, so that nothing of it stays."""
        path = self._folder(".locks") / name
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if _same(path, fd):  # else it was removed meanwhile
                    try:
                        yield
                    finally:
                        if passing:
                            path.unlink(missing_ok=True)
                    return
            finally:
                os.close(fd)

    # inside

    def _folder(self, *names: str) -> Path:
        path = self._root.joinpath(*names)
        private_folders(self._layout.state, os.fspath(path))
        return path

    def _write(self, path: Path, data: Mapping[str, Any]) -> None:
        new = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
        try:
            new.write_text(json.dumps(data))
            new.rename(path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise HostError(f"{path}: {(error.strerror or str(error)).lower()}") from error

    def _read(self, path: Path) -> Mapping[str, Any] | None:
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def _same(path: Path, fd: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def _file(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"
