"""What a running container has used, from its cgroups of either version, pressure files and its network namespace.

In: its names in the cgroup tree. Out: `Usage`. Each file is read once; what a host does not count is None. Where a v1
controller has no folder of this container's (folders are made for limits alone), processes are summed instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from orchestrator.drivers.embedded import files
from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.drivers.embedded.limits import PAGE
from orchestrator.ports.driver import Usage

_UNLIMITED = 1 << 62  # v1 writes the largest multiple of a page
_PRESSURES = ("cpu", "memory", "io")


def read(cgroups: Cgroups, names: Names) -> Usage | None:
    """None where it does not run."""
    processes = cgroups.processes(names)
    if not processes:
        return None
    unified = cgroups.folder(names)
    memory, limit = _memory(cgroups, names, processes)
    received, sent = _network(processes[0])
    read_bytes, written = _io(cgroups, names)
    return Usage(
        # The base counters of v2 are there whatever controllers v2 has (kernel/cgroup/rstat.c).
        cpu=_field(f"{unified}/cpu.stat", b"usage_usec") / 1e6,
        memory=memory,
        memory_limit=limit,
        pids=_number(f"{cgroups.folder(names, 'pids')}/pids.current") or len(processes),
        received=received,
        sent=sent,
        read=read_bytes,
        written=written,
        pressure={each: value for each in _PRESSURES if (value := _pressure(unified, each)) is not None},
    )


def _memory(cgroups: Cgroups, names: Names, processes: Iterable[int]) -> tuple[int | None, int | None]:
    """Bytes without those of files that nobody has used for a while, which the kernel gives up first; and the limit."""
    folder, version = cgroups.folder(names, "memory"), cgroups.versions["memory"]
    v2 = version == 2
    used = _number(f"{folder}/{'memory.current' if v2 else 'memory.usage_in_bytes'}")
    if used is None:
        return sum(map(_resident, processes)), None
    idle = _field(f"{folder}/memory.stat", b"inactive_file" if v2 else b"total_inactive_file")
    limit = _number(f"{folder}/{'memory.max' if v2 else 'memory.limit_in_bytes'}")
    return max(0, used - idle), limit if limit is not None and limit < _UNLIMITED else None


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(files.read(f"/proc/{pid}/statm").split()[1]) * PAGE
    return 0


def _io(cgroups: Cgroups, names: Names) -> tuple[int | None, int | None]:
    folder = cgroups.folder(names, "io")
    with suppress(OSError):
        if cgroups.versions["io"] == 2:
            words = files.read(f"{folder}/io.stat").split()
            return _sum(words, b"rbytes="), _sum(words, b"wbytes=")
        lines = files.read(f"{folder}/blkio.throttle.io_service_bytes_recursive").splitlines()
        split = [line.split() for line in lines]
        return (
            sum(int(each[2]) for each in split if len(each) == 3 and each[1] == b"Read"),
            sum(int(each[2]) for each in split if len(each) == 3 and each[1] == b"Write"),
        )
    return None, None


def _sum(words: Iterable[bytes], key: bytes) -> int:
    return sum(int(each[len(key) :]) for each in words if each.startswith(key))


def _network(pid: int) -> tuple[int | None, int | None]:
    """Bytes over all links but the loopback, of the namespace that the whole group shares (proc_net(5))."""
    received = sent = 0
    try:
        lines = files.read(f"/proc/{pid}/net/dev").splitlines()[2:]
    except OSError:
        return None, None
    for line in lines:
        name, _, rest = line.partition(b":")
        if name.strip() != b"lo":
            words = rest.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent


def _pressure(folder: str, kind: str) -> float | None:
    """The share of the last 10 s in which some process waited, in percent; None where the kernel does not measure it."""
    with suppress(OSError, ValueError, IndexError):
        return float(files.read(f"{folder}/{kind}.pressure").split()[1].removeprefix(b"avg10="))
    return None


def _number(path: str) -> int | None:
    with suppress(OSError, ValueError):  # `max` is no number
        return int(files.read(path))
    return None


def _field(path: str, name: bytes) -> int:
    with suppress(OSError):
        for line in files.read(path).splitlines():
            key, _, value = line.partition(b" ")
            if key == name:
                return int(value)
    return 0
