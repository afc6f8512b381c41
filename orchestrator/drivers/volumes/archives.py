"""A volume's data as a tar stream, out and in again, by tar(1): numeric owners, extended attributes, hard links, the folder
itself.

In: a volume's folder, an open stream. Out: the stream, or the data replaced as a whole: restored beside and swapped by
renames, so that whoever is killed in the middle leaves the old data. Must not be used on data that somebody writes to.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO

from orchestrator.drivers.trees import remove_tree
from orchestrator.drivers.volumes.seeding import DATA, SEEDED
from orchestrator.errors import StepError

_BESIDE, _OLD = ".restore", ".replaced"
_EXACTLY = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")


def write(volume: Path, out: IO[bytes]) -> None:
    """Raises StepError with tar's words."""
    _tar(("--create", *_EXACTLY, "--sparse", "-C", f"{volume}/{DATA}", "-f", "-", "."), stdout=out)


def read(volume: Path, source: IO[bytes]) -> None:
    """The data becomes what the stream holds. Raises StepError with tar's words, OSError."""
    beside, old, data = volume / _BESIDE, volume / _OLD, volume / DATA
    recover(volume)
    remove_tree(beside)
    beside.mkdir(mode=0o755)
    try:
        options = ("--extract", *_EXACTLY, "--same-owner", "--same-permissions")
        _tar((*options, "-C", str(beside), "-f", "-"), stdin=source)
        data.rename(old)
        beside.rename(data)
        (volume / SEEDED).touch(mode=0o600)
    finally:
        remove_tree(beside)
    remove_tree(old)


def recover(volume: Path) -> None:
    """Between the two renames there is no data: put the old one back. Else what is left of it goes."""
    old, data = volume / _OLD, volume / DATA
    if old.is_dir() and not data.exists():
        old.rename(data)
    remove_tree(old)


def _tar(
    arguments: tuple[str, ...], *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
) -> None:
    done = subprocess.run(
        ["tar", *arguments],
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit {done.returncode}"]
        told = [each for each in words if "Exiting with failure" not in each] or words
        raise StepError(
            f"tar: {told[0].removeprefix('tar: ')}",
            hint="a plain tar stream is expected; unpack with gzip -dc first",
        )
