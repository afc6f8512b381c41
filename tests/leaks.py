"""What a run of ours could leave on a machine: taken before and after the tests, and compared.

In: the live kernel. Out: sets of names. Looks only at what bears our marks, plus mounts and network namespaces as a whole.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

Snapshot = Mapping[str, frozenset[str]]

SYSCTLS = ("net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/all/route_localnet")
MODULES = (b"orchestrator.supervisor", b"orchestrator/supervisor", b"-m\0orchestrator")


def snapshot() -> Snapshot:
    """Everything of ours that lives now, by the kind of thing."""
    return {
        "mount": frozenset(_mounts()),
        "cgroup": frozenset(_cgroups()),
        "link": frozenset(_links()),
        "nft table": frozenset(_tables()),
        "network namespace": frozenset(_listing(Path("/run/netns"))),
        "process": frozenset(_processes()),
        "sysctl": frozenset(f"{name} = {_read(name)}" for name in SYSCTLS),
    }


def leaked(before: Snapshot, *, patience: float = 10.0) -> list[str]:
    """What is there now and was not before; waits up to `patience` seconds for things that are just going."""
    deadline = time.monotonic() + patience
    while True:
        now = snapshot()
        found = [f"{kind}: {name}" for kind in now for name in sorted(now[kind] - before[kind])]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _mounts() -> list[str]:
    # Field 5 of proc_pid_mountinfo(5) is the mount point.
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _cgroups() -> list[str]:
    root = Path("/sys/fs/cgroup")
    hierarchies = [root, *(each for each in _paths(root) if each.is_dir())]
    found = [
        each for folder in hierarchies for each in _paths(folder) if each.name.startswith("orchestrator-")
    ]
    return [str(each) for each in found if each.is_dir()]


def _links() -> list[str]:
    return [name for name in _listing(Path("/sys/class/net")) if name.startswith(("orc", "orchestrator"))]


def _tables() -> list[str]:
    try:
        done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [line for line in done.stdout.splitlines() if "orchestrator_" in line]


def _processes() -> list[str]:
    found = []
    for each in _listing(Path("/proc")):
        if not each.isdigit() or int(each) in (os.getpid(), os.getppid()):
            continue
        try:
            command = Path(f"/proc/{each}/cmdline").read_bytes()
        except OSError:
            continue
        if any(module in command for module in MODULES):
            found.append(f"{each} {command.replace(bytes(1), b' ').decode(errors='replace')[:160]}")
    return found


def _read(name: str) -> str:
    return Path("/proc/sys", name).read_text().strip()


def _paths(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _listing(folder: Path) -> list[str]:
    return [each.name for each in _paths(folder)]
