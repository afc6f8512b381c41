"""Which cgroup controllers this host has, and where: all on v2, all on v1, or both mounted (hybrid).

In: /proc/self/mountinfo (proc_pid_mountinfo(5)). Out: `Hierarchies`. Must not make anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Ours are named as on v2; v1 calls the last one blkio.
CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io")
_V1_NAMES = {"blkio": "io"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchies:
    """`unified`: the v2 mount, None where there is none; `v2`: controllers there; `v1`: controller -> its mount."""

    unified: str | None
    v2: frozenset[str] = frozenset()
    v1: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def detect(cls) -> Hierarchies:
        """What this process sees now."""
        return cls.of(Path("/proc/self/mountinfo").read_text())

    @classmethod
    def of(cls, mountinfo: str) -> Hierarchies:
        """From the text of a mountinfo file; which controllers v2 has is read from its mount."""
        unified: str | None = None
        v1: dict[str, str] = {}
        for line in mountinfo.splitlines():
            left, _, right = line.partition(" - ")
            if not right.startswith("cgroup"):
                continue
            point = _unescape(left.split(" ")[4])
            kind, _, options = right.split(" ", 2)
            if kind == "cgroup2":
                unified = unified or point
                continue
            for name in options.split(" ")[-1].split(","):
                name = _V1_NAMES.get(name, name)
                if name in CONTROLLERS:
                    v1.setdefault(name, point)
        found = _controllers(unified) if unified else ()
        return cls(unified=unified, v2=frozenset(found) & frozenset(CONTROLLERS), v1=v1)

    def version(self, controller: str) -> int | None:
        """2, 1, or None where the kernel or its command line leaves the controller out."""
        if controller in self.v2:
            return 2
        return 1 if controller in self.v1 else None


def _controllers(mount: str) -> list[str]:
    try:
        return (Path(mount) / "cgroup.controllers").read_text().split()
    except OSError:
        return []


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def systemd_runs() -> bool:
    """Whether PID 1 is systemd (sd_booted(3)): the tree is its, and ours lies in a unit with Delegate=yes."""
    return os.path.isdir("/run/systemd/system")  # noqa: PTH112
