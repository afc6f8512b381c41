"""The first use of a volume: it takes content, owner and mode of the folder that it is mounted over, as people know it from
Docker's volumes, and as images rely on it.

In: a volume's folder, a root's lowers, the target. Out: the data folder filled, once in the volume's life. The root is a
stranger's: the target is resolved beneath it by the kernel, and what lies there is copied without following links. Copied
beside and renamed, so that half a copy is never used.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

from orchestrator.drivers.trees import remove_tree
from orchestrator.supervisor.kernel.mounts import MS_PRIVATE, MS_REC, mount, open_beneath
from orchestrator.supervisor.kernel.processes import unshare
from orchestrator.supervisor.mounting import Context, mount_overlay
from orchestrator.supervisor.program import MountOverlay

DATA, SEEDED, _BESIDE, _ROOT = "data", "seeded", ".seed", ".root"
_CLONE_NEWNS = 0x00020000


def seeded(volume: Path) -> bool:
    """Whether the volume was used before, by us or by an earlier version of us."""
    return (volume / SEEDED).exists()


def seed(volume: Path, lowers: Sequence[str], target: str) -> None:
    """Fill `volume`/data from `target` beneath the root, unless it was used before. Raises OSError."""
    with alone(volume):
        if seeded(volume):
            return
        with os.scandir(volume / DATA) as entries:
            used = any(entries)
        if not used:
            _with_root(volume / _ROOT, lowers, lambda root: _copy(root, target, volume))
        (volume / SEEDED).touch(mode=0o600)


@contextmanager
def alone(volume: Path) -> Iterator[None]:
    """Replicas start side by side."""
    fd = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock(fd, LOCK_EX)
        yield
    finally:
        os.close(fd)


def _with_root(point: Path, lowers: Sequence[str], use: Callable[[int], None]) -> None:
    """Calls `use` with a descriptor of the merged root. Several layers are mounted in a thread with a mount namespace
    of its own (unshare(2)), which ends with it, also when we are killed."""
    if len(lowers) == 1:
        _used(lowers[0], use)
        return
    failed: list[BaseException] = []

    def body() -> None:
        try:
            unshare(_CLONE_NEWNS)
            mount("none", "/", "", MS_REC | MS_PRIVATE)
            point.mkdir(mode=0o700, exist_ok=True)
            context = Context(root=-1, proc=-1, stdin=False, logs=False, permitted=0, report=-1)
            mount_overlay(context, MountOverlay(lowers=tuple(lowers), target=os.fspath(point)))
            _used(os.fspath(point), use)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body, name="seed")
    thread.start()
    thread.join()
    if point.exists():
        point.rmdir()
    if failed:
        raise failed[0]


def _used(path: str, use: Callable[[int], None]) -> None:
    root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(root)
    finally:
        os.close(root)


def _copy(root: int, target: str, volume: Path) -> None:
    try:
        source = open_beneath(root, target.strip("/") or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            return  # there is no folder to take anything from
        raise
    beside = volume / _BESIDE
    try:
        remove_tree(beside)
        beside.mkdir(mode=0o755)
        # cp(1) knows of owners, times, hard links, holes and extended attributes; it follows no link with --archive.
        done = subprocess.run(
            ["cp", "--archive", "--one-file-system", "--", f"/proc/self/fd/{source}/.", beside],
            pass_fds=(source,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            words = done.stderr.strip().rpartition("\n")[2]
            full = "no space left" in words.lower()
            raise OSError(errno.ENOSPC if full else errno.EIO, words, os.fspath(beside))
        beside.rename(volume / DATA)  # over the empty one
    finally:
        os.close(source)
        remove_tree(beside)
