"""What flows from a source to a sink: files, folders and symlinks, one after the other, each folder before what it holds.

Names are those of one path step each, never `..` and never with a slash; they lead nowhere by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.supervisor.kernel import mounts

CHUNK = 1 << 20
# File systems that are views of the kernel and hold no files: proc, sysfs, cgroup, cgroup2, devpts, mqueue (statfs(2)).
VIEWS = frozenset({mounts.PROC, 0x62656572, 0x27E0EB, 0x63677270, mounts.DEVPTS, 0x19800202})
DEPTH = 256  # folders within folders: each holds a descriptor open on both sides


class EntryKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"  # of tar streams only; `link` is the path of an earlier member


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`names`: its path below the top, () for the top itself. `mode`: permission bits. `content`, of a file: (offset,
    bytes) in order, to be read before the next entry; what lies between is zeros, up to `size`."""

    names: tuple[str, ...]
    kind: EntryKind
    mode: int
    uid: int
    gid: int
    mtime: float
    size: int = 0
    link: str = ""
    content: Iterator[tuple[int, bytes]] = field(default_factory=lambda: iter(()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """What was passed over, and why."""

    names: tuple[str, ...]
    why: str


def shown(names: tuple[str, ...]) -> str:
    """A path for people."""
    return "/".join(names) or "."
