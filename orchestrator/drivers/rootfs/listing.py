"""What a tree holds, a line an entry: by it a content is named, and found to be damaged later.

In: a folder of ours. Out: JSON lines in the order of paths: [path, type, mode, uid, gid, mtime, what], where `what`
is a file's SHA-256, a link's destination, a device's number, and extended attributes follow where there are any.
Follows no link; FIFOs are not opened.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


@dataclass(slots=True)
class Listing:
    """`digest` of all lines (`sha256:…`); `bytes` that its files hold, a hard link once."""

    lines: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(chr(10).join(self.lines).encode('utf-8', 'surrogateescape')).hexdigest()}"

    def write(self, path: Path) -> None:
        with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
            file.write("\n".join(self.lines).encode("utf-8", "surrogateescape"))


def read(path: Path) -> list[str]:
    """The lines of a written listing. OSError or EOFError where it is damaged."""
    with gzip.GzipFile(path) as file:
        return file.read().decode("utf-8", "surrogateescape").split("\n")


def listing(folder: str | os.PathLike[str], digests: Mapping[int, str] | None = None) -> Listing:
    """Of all below `folder`, and of itself as `.`. `digests`: of files, by inode, of whoever wrote them just now; they are
    not read again. Raises OSError."""
    found = Listing()
    known: dict[tuple[int, int], str] = {}
    for path, name in _walk(os.fspath(folder)):
        about = os.lstat(path)
        what: Any = None
        match stat.S_IFMT(about.st_mode):
            case stat.S_IFREG:
                inode = (about.st_dev, about.st_ino)
                if inode not in known:
                    known[inode] = (digests or {}).get(about.st_ino) or _sha256(path)
                    found.bytes += about.st_size
                what = known[inode]
            case stat.S_IFLNK:
                what = os.readlink(path)  # noqa: PTH115
            case stat.S_IFCHR | stat.S_IFBLK:
                what = [os.major(about.st_rdev), os.minor(about.st_rdev)]
            case _:
                pass
        kind, mode = stat.S_IFMT(about.st_mode) >> 12, stat.S_IMODE(about.st_mode)
        attributes = {
            each: os.getxattr(path, each, follow_symlinks=False).hex()
            for each in sorted(os.listxattr(path, follow_symlinks=False))
        }
        line = [name, kind, mode, about.st_uid, about.st_gid, int(about.st_mtime), what]
        found.lines.append(json.dumps([*line, attributes] if attributes else line))
    return found


def differences(old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """In words, which paths are missing, added or changed."""
    before, now = _by_path(old), _by_path(new)
    words = [f"{path}: missing" for path in before.keys() - now.keys()]
    words += [f"{path}: added" for path in now.keys() - before.keys()]
    words += [f"{path}: changed" for path in before.keys() & now.keys() if before[path] != now[path]]
    return tuple(sorted(words))


def _by_path(lines: Iterable[str]) -> dict[str, str]:
    return {json.loads(each)[0]: each for each in lines if each}


def _walk(top: str) -> Iterator[tuple[str, str]]:
    """(path, path below top) in a stable order, without recursion."""
    yield top, "."
    left = [top]
    while left:
        folder = left.pop()
        with os.scandir(folder) as entries:
            found = sorted((each.name, each.is_dir(follow_symlinks=False)) for each in entries)
        for name, is_folder in found:
            path = f"{folder}/{name}"
            yield path, path[len(top) + 1 :]
            if is_folder:
                left.append(path)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
        while found := file.read(_CHUNK):
            digest.update(found)
    return digest.hexdigest()
