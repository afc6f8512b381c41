"""Makes of a built tree what two builds of the same packages have in common.

In: a folder that a build has filled. Out: the same without caches, logs, device nodes, identities and times of the
build. The time of the newest package stands for all later ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.drivers.trees import remove_tree

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
    "usr/sbin/policy-rc.d",
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


def normalise(folder: Path) -> None:
    """Raises OSError."""
    for name in _EMPTIED:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            for each in sorted((folder / name).iterdir()):
                remove_tree(each)
    for name in _REMOVED:
        if (folder / name).is_symlink() or (folder / name).exists():
            (folder / name).unlink()
    machine = folder / "etc/machine-id"
    if machine.exists():
        machine.write_text("")  # machine-id(5): one is made where it is wanted
    newest = packaged(folder)
    _passwords(folder / "etc/shadow", int(newest // 86400))
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


def _passwords(shadow: Path, day: int) -> None:
    """The day of the last change is that of the build (shadow(5), third field)."""
    if shadow.exists():
        text = shadow.read_text()
        shadow.write_text(re.sub(r"^([^:]*:[^:]*:)[0-9]+:", rf"\g<1>{day}:", text, flags=re.MULTILINE))


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
