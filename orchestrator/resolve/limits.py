"""Limits as written to limits as meant, with what must hold between a container, its group and the stack."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.manifest import pieces
from orchestrator.manifest.codes import Code
from orchestrator.manifest.scalars import cpus_of
from orchestrator.model.desired import IoLimit, Limits
from orchestrator.resolve.report import Path, Report

DEFAULT_PIDS = 4096
_EMPTY = pieces.Limits()
_SIZES = ("memory", "swap")


def limits_of(written: pieces.Limits, path: Path, report: Report) -> Limits:
    """`swap` is 0 when memory is set and swap is not."""
    if written is _EMPTY or not written.model_fields_set:
        return Limits()
    if (
        written.memory is not None
        and written.memory_high is not None
        and written.memory_high > written.memory
    ):
        report.fail(
            Code.LIMIT,
            "memory_high is above memory",
            (*path, "memory_high"),
            hint="processes are slowed at memory_high and killed at memory: write it below",
            first=(*path, "memory"),
        )
    swap = 0 if written.memory is not None and written.swap is None else written.swap
    return Limits(
        cpus=written.cpus,
        cpu_weight=written.cpu_weight,
        cpuset=written.cpuset,
        memory=written.memory,
        memory_high=written.memory_high,
        swap=swap,
        pids=written.pids,
        io=tuple(
            IoLimit(
                device=each.device,
                read_bps=each.read,
                write_bps=each.write,
                read_iops=each.read_iops,
                write_iops=each.write_iops,
            )
            for each in written.io
        ),
    )


Level = tuple[str, Limits, Path]  # a word for it ("the stack"), its limits, the path of them


def check_within(inner: Level, outer: tuple[Level, ...], report: Report) -> None:
    """Every limit of `inner` lies within the nearest of `outer` that has it."""
    word, limits, path = inner
    for name in ("cpus", "memory", "swap", "pids", "cpuset"):
        value = getattr(limits, name)
        if value is None:
            continue
        above = next((each for each in outer if getattr(each[1], name) is not None), None)
        if above is None:
            continue
        bound = getattr(above[1], name)
        outside = not cpus_of(value) <= cpus_of(bound) if name == "cpuset" else value > bound
        if outside:
            report.fail(
                Code.LIMIT_ABOVE_PARENT,
                f"{name} of {word} ({_shown(name, value)}) lies above that of {above[0]} ({_shown(name, bound)})",
                (*path, name),
                hint=f"lower it, or raise {name} of {above[0]}",
                first=(*above[2], name),
            )


def with_default_pids(limits: Limits, outer: tuple[Level, ...]) -> Limits:
    """A container's own limit of processes where none is written: never above its group's or stack's."""
    if limits.pids is not None:
        return limits
    bounds = [each[1].pids for each in outer if each[1].pids is not None]
    return replace(limits, pids=min([DEFAULT_PIDS, *bounds]))


def _shown(name: str, value: float | str) -> str:
    if name not in _SIZES or not isinstance(value, int):
        return f"{value:g}" if isinstance(value, float) else str(value)
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return f"{value} bytes"
