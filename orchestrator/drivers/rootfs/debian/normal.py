"""Makes of a built tree what two builds of the same packages have in common.

In: a folder that a build has filled. Out: the same without caches, logs, device nodes, identities and times of the
build. The time of the newest package stands for all later ones. No link in it leads us out of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.drivers.rootfs.debian import beneath
from orchestrator.supervisor.kernel.mounts import open_beneath

_EMPTIED = (
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "var/tmp",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
    "var/cache/ldconfig",
)
_REMOVED = (
    *(f"etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")),
    "etc/hostname",
    "etc/resolv.conf",
    "etc/.pwd.lock",
    "etc/apt/apt.conf.d/99mmdebstrap",  # the host's proxies, with their passwords
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/random-seed",
)


def normalise(folder: Path, sources: str = "") -> None:
    """`sources`: what its apt, if it has one, is to look at. Raises OSError."""
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in _EMPTIED:
            beneath.empty(root, name)
        for name in _REMOVED:
            beneath.remove(root, name)
        if beneath.exists(root, "etc/machine-id"):
            beneath.write(root, "etc/machine-id", b"", 0o444)  # machine-id(5): one is made where it is wanted
        if beneath.exists(root, "etc/apt"):
            beneath.write(root, "etc/apt/sources.list", sources.encode(), 0o644)
        newest = packaged(folder)
        _passwords(root, int(newest // 86400))
    finally:
        os.close(root)
    folder.chmod(0o755)
    for path in _all(os.fspath(folder)):
        about = os.lstat(path)
        if about.st_mtime > newest:
            os.utime(path, (newest, newest), follow_symlinks=False)


def packaged(folder: Path) -> float:
    """When the newest of the installed packages was made: its documentation bears that time (Debian Policy 12.7)."""
    found = 0.0
    for each in (folder / "usr/share/doc").glob("*/*"):
        if each.name.startswith(("changelog", "copyright")) and not each.is_symlink():
            found = max(found, each.stat().st_mtime)
    return found


def _passwords(root: int, day: int) -> None:
    """The day of the last change is that of the build (shadow(5), third field)."""
    text = beneath.read(root, "etc/shadow")
    if text is None:
        return
    fd = open_beneath(root, "etc/shadow", os.O_RDWR | os.O_NONBLOCK)
    with open(fd, "r+b") as file:  # in place: its owner and mode are its package's
        file.truncate(file.write(re.sub(rb"(?m)^([^:]*:[^:]*:)[0-9]+:", rb"\g<1>%d:" % day, text)))


def _all(top: str) -> Iterator[str]:
    """All paths, folders after what is in them."""
    left, folders = [top], []
    while left:
        folder = left.pop()
        folders.append(folder)
        with os.scandir(folder) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    left.append(each.path)
                else:
                    yield each.path
    yield from reversed(folders)
