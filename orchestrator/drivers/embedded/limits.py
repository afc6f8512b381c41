"""One model of limits, two kernels' files: `Limits` to (file, text) and back. Pure.

In: limits in v2's terms and the version of each controller. Out: `Setting`s to write, values read. Sources: the kernel's
admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/*.rst.

v1 differs so: `cpu_weight` w becomes cpu.shares w * 1024 / 100 (weight 100 = shares 1024, both kernels' default; crun maps
differently, by the ends of the two ranges); `swap` is added to `memory` in memory.memsw; `memory_high` has no file.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from orchestrator.model.desired import IoLimit, Limits

DEFAULT_PIDS = 4096
PERIOD = 100_000  # µs; the default of both kernels
PAGE = resource.getpagesize()

CONTROLLER_OF: Mapping[str, str] = {
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "cpuset": "cpuset",
    "memory": "memory",
    "memory_high": "memory",
    "swap": "memory",
    "pids": "pids",
    "io": "io",
}
_FILES = {
    2: {
        "cpus": "cpu.max",
        "cpu_weight": "cpu.weight",
        "cpuset": "cpuset.cpus",
        "memory": "memory.max",
        "memory_high": "memory.high",
        "swap": "memory.swap.max",
        "pids": "pids.max",
    },
    1: {
        "cpus": "cpu.cfs_quota_us",
        "cpu_weight": "cpu.shares",
        "cpuset": "cpuset.cpus",
        "memory": "memory.limit_in_bytes",
        "swap": "memory.memsw.limit_in_bytes",
        "pids": "pids.max",
    },
}
_NONE = {
    2: {
        "cpus": f"max {PERIOD}",
        "cpu_weight": "100",
        "cpuset": "\n",
        "memory": "max",
        "memory_high": "max",
        "swap": "max",
        "pids": "max",
    },
    1: {"cpus": "-1", "cpu_weight": "1024", "cpuset": "\n", "memory": "-1", "swap": "-1", "pids": "max"},
}
_V1_UNLIMITED = 1 << 62  # what memory.limit_in_bytes shows without a limit is the largest page-aligned s64
IO_FIELDS = (("read_bps", "rbps"), ("write_bps", "wbps"), ("read_iops", "riops"), ("write_iops", "wiops"))


@dataclass(frozen=True, slots=True)
class Setting:
    """`text` for `file` in the folder of `controller`, on behalf of `field` of `Limits`."""

    field: str
    controller: str
    file: str
    text: str


def effective(limits: Limits, *, container: bool) -> Limits:
    """With our defaults: no swap where memory is limited, and 4096 processes for a container."""
    if limits.memory is not None and limits.swap is None:
        limits = replace(limits, swap=0)
    if container and limits.pids is None:
        limits = replace(limits, pids=DEFAULT_PIDS)
    return limits


def controllers(limits: Limits) -> frozenset[str]:
    """The controllers that enforce what is set."""
    return frozenset(
        controller for name, controller in CONTROLLER_OF.items() if getattr(limits, name) not in (None, ())
    )


def settings(limits: Limits, versions: Mapping[str, int | None], *, reset: bool) -> Iterator[Setting]:
    """What to write, but io (see `io_settings`). `reset`: also what takes away the limits that are not set."""
    for name, controller in CONTROLLER_OF.items():
        version = versions.get(controller)
        if version is None or name == "io":
            continue
        file = _FILES[version].get(name)
        text = value_text(name, limits, version)
        if text is None and reset:
            text = _NONE[version].get(name)
        if file and text is not None:
            yield Setting(name, controller, file, text)


def files_of(name: str, version: int) -> tuple[str, ...]:
    """The files that hold a field; none where this version has no such limit."""
    if name == "io":
        return ("io.max",) if version == 2 else tuple(file for file, _ in io_v1(None, ""))
    file = _FILES[version].get(name)
    return (file,) if file else ()


def value_text(name: str, limits: Limits, version: int) -> str | None:
    """A set field as the kernel will show it (whole pages, whole µs); None where it is not set."""
    value = getattr(limits, name)
    if value is None:
        return None
    match name:
        case "cpus":
            quota = max(1000, round(value * PERIOD))
            return f"{quota} {PERIOD}" if version == 2 else str(quota)
        case "cpu_weight":
            return str(value) if version == 2 else str(max(2, value * 1024 // 100))
        case "swap" if version == 1:
            return None if limits.memory is None else str(_pages(limits.memory + value))
        case "memory" | "memory_high" | "swap":
            return str(_pages(value))
        case _:
            return str(value)


def value_read(name: str, text: str, wanted: Limits, version: int) -> object:
    """The field's value as the file shows it, in the model's terms; None is no limit.

    Where the file shows what writing `wanted` gives, that is `wanted`'s own value: 0.3333333 cores are not 0.33333.
    """
    text = text.strip()
    expected = value_text(name, wanted, version)
    if expected is not None and (text == expected or (name == "cpuset" and cpus(text) == cpus(expected))):
        return getattr(wanted, name)
    if text == _NONE[version][name].strip():
        return None
    if name == "cpus":
        quota, _, period = text.partition(" ")
        return None if quota in ("max", "-1") else int(quota) / int(period or PERIOD)
    if name == "cpuset" or not text:
        return text or None
    value = int(text)
    if name == "cpu_weight" and version == 1:
        return round(value * 100 / 1024)
    if version == 1 and name in ("memory", "swap"):
        if value >= _V1_UNLIMITED:
            return None
        return value - _pages(wanted.memory or 0) if name == "swap" else value
    return value


def io_line(limit: IoLimit, device: str) -> str:
    """A v2 io.max line; what is not set is max. `device` is major:minor."""
    return " ".join([device, *(f"{key}={getattr(limit, name) or 'max'}" for name, key in IO_FIELDS)])


def io_v1(limit: IoLimit | None, device: str) -> Iterator[tuple[str, str]]:
    """(file, line) of v1's blkio.throttle; 0 takes a limit away."""
    for name, _ in IO_FIELDS:
        verb, unit = name.split("_")
        yield f"blkio.throttle.{verb}_{unit}_device", f"{device} {(limit and getattr(limit, name)) or 0}"


def cpus(text: str) -> frozenset[int]:
    """`0-2,5` -> {0, 1, 2, 5}; raises ValueError on what is no list of CPUs (cpuset(7), List Format)."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        low, high = int(first), int(last) if dash else int(first)
        if not 0 <= low <= high < 65536:
            raise ValueError(f"{part!r} is not a range of CPUs")
        found.update(range(low, high + 1))
    return frozenset(found)


def _pages(value: int) -> int:
    return value // PAGE * PAGE
