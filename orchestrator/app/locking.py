"""Lock files written: what has no entry is looked up, recipes are built, and the file is replaced.

In: manifests, what is to be taken anew. Out: lock files, and what of them moved. A lock is whole or as it was before:
killed at any line, nothing but a hidden file beside it is left, which the next lock writes over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.app.pinning import AT_ONCE, told
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import HostError, OrchestratorError
from orchestrator.manifest.load import Manifest
from orchestrator.manifest.lock import Lock, LockedRoot, Roots, lock_text, read_lock
from orchestrator.model.images import Recipe
from orchestrator.ports.images import Images, Watch
from orchestrator.resolve.locked import Misfit, entry_of, fits, misfits
from orchestrator.resolve.roots import Wanted, wanted_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A root whose entry is another one now. `old`: None, it is new; `new`: None, the manifest does not have it any more.
    `shown`: the root's name for people."""

    stack: str
    name: str
    shown: str
    old: LockedRoot | None
    new: LockedRoot | None


class Locks:
    """Lock files of one instance's images."""

    def __init__(self, images: Images) -> None:
        self._images = images

    @staticmethod
    def misfits(manifest: Manifest, lock: Lock | None, file: str) -> tuple[Misfit, ...]:
        """What a lock at that absolute path does not say of the manifest, or says too much."""
        return tuple(misfits(tuple(wanted_of(manifest)), _roots(lock, manifest), os.path.dirname(file)))  # noqa: PTH120

    def renewed(
        self, manifest: Manifest, lock: Lock | None, file: str, *, update: frozenset[str], watch: Watch
    ) -> tuple[Roots, tuple[Diagnostic, ...]]:
        """The entries of all roots of the manifest: the lock's own where they fit and are not among `update`."""
        folder, before = os.path.dirname(file), _roots(lock, manifest)  # noqa: PTH120

        def one(each: Wanted) -> LockedRoot | OrchestratorError:
            known = before.get(each.name)
            if known is not None and each.name not in update and fits(each.wish, known, folder):
                return known
            try:
                return self._entry(each, folder, update=each.name in update, watch=watch)
            except OrchestratorError as error:
                return error

        wanted = tuple(wanted_of(manifest))
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="lock") as pool:
            results = tuple(zip(wanted, pool.map(one, wanted), strict=True))
        roots = {each.name: found for each, found in results if isinstance(found, LockedRoot)}
        problems = [
            told(found, manifest, each) for each, found in results if not isinstance(found, LockedRoot)
        ]
        return roots, tuple(problems)

    def write(self, file: str, stacks: Mapping[str, Roots]) -> bool:
        """Put the entries of these stacks into the file, beside those of others; whether it changed."""
        try:
            with _alone(Path(file).parent):
                text = Path(file).read_text("utf-8") if Path(file).exists() else None
                known, _ = read_lock(text, file) if text is not None else (None, ())
                lock = Lock(stacks={**(known.stacks if known else {}), **stacks})
                changed = text != lock_text(lock)
                if changed:
                    _replace(Path(file), lock_text(lock))
        except OSError as error:
            word = (error.strerror or str(error)).lower()
            raise HostError(f"{file}: {word}", hint="the lock is as it was before") from error
        self._images.hold(file, lock.digests)
        return changed

    def _entry(self, wanted: Wanted, folder: str, *, update: bool, watch: Watch) -> LockedRoot:
        if update:
            pin = self._images.renew(wanted.wish, watch)
        else:
            pin = self._images.pin(wanted.wish)
            if isinstance(wanted.wish, Recipe):  # only what was built has a digest
                pin = self._images.fetch(wanted.wish, pin, watch)
        return entry_of(wanted.wish, pin, folder)


def moves(manifest: Manifest, lock: Lock | None, roots: Roots) -> tuple[Move, ...]:
    """From what the lock says of the manifest's stack to `roots`, by name."""
    before = _roots(lock, manifest)
    shown = {each.name: each.wish.name for each in wanted_of(manifest)}
    return tuple(
        Move(
            stack=manifest.name,
            name=name,
            shown=shown.get(name, ""),
            old=before.get(name),
            new=roots.get(name),
        )
        for name in sorted(before.keys() | roots.keys())
        if before.get(name) != roots.get(name)
    )


def names_of(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """Of all roots that can be locked."""
    return tuple(dict.fromkeys(each.name for manifest in manifests for each in wanted_of(manifest)))


def _roots(lock: Lock | None, manifest: Manifest) -> Roots:
    return lock.stacks.get(manifest.name, {}) if lock else {}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else writes a lock there meanwhile."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(file: Path, text: str) -> None:
    """By rename, with the mode that the file has; a symlink's destination is what is replaced."""
    real = file.resolve()
    new = real.with_name(f".{real.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(fd, "w", encoding="utf-8") as out:
            if real.exists():
                os.fchmod(fd, real.stat().st_mode & 0o7777)
            out.write(text)
            out.flush()
            os.fsync(fd)
        new.replace(real)
    except OSError:
        new.unlink(missing_ok=True)
        raise
