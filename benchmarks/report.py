"""The table of a benchmark's figures, beside what the project wants to reach. In: the JSON data. Out: text."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Row = tuple[str, str, str, bool | None]
"""What, measured, wanted, whether it is reached (None: nothing is wanted)."""


def machine() -> dict[str, Any]:
    """The kind of machine, in general words; `load`: what else ran in the minute before."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / (1 << 20)),
        "kernel": ".".join(platform.release().split("-")[0].split(".")[:2]),
        "cgroups": "v2" if unified else "hybrid",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


def rows(found: dict[str, Any]) -> list[Row]:
    """Of the figures that were measured."""
    return [row for name, told in ROWS.items() if name in found for row in told(found[name])]


def _bring_up(found: list[dict[str, Any]]) -> list[Row]:
    result: list[Row] = []
    for each in found:
        n, ratio = each["count"], each["ratio"]
        result += [
            (f"limit, N={n}", _rate(n, each["limit"]), "", None),
            (f"bring-up, N={n}", _rate(n, each["product"]), "", None),
            (f"limit / bring-up, N={n}", f"{ratio:.2f} of the limit", ">= 0.25", ratio >= 0.25),
            (f"`apply`, supervisor warm, N={n}", f"{each['warm_wall']:.2f} s", "", None),
            (f"`apply`, cold, N={n}", f"{each['cold_wall']:.2f} s", "", None),
        ]
    return result


def _weight(found: dict[str, Any]) -> list[Row]:
    n, extra, kernel = found["count"], found["extra_processes"], found["kernel_kib"]
    own = ", ".join(f"{role} {kib / 1024:.0f} MiB" for role, kib in found["own_kib"].items())
    return [
        (f"kernel memory each, N={n}", f"{kernel:.0f} KiB", "<= 600 KiB", kernel <= 600),
        ("same, droppable caches dropped", f"{found['kernel_kib_without_caches']:.0f} KiB", "", None),
        (f"processes besides the containers', N={n}", f"{extra}", "0", extra == 0),
        (f"resident memory of ours, N={n}", own, "", None),
    ]


def _looking(found: dict[str, Any]) -> list[Row]:
    return [
        (_of("plan", found["plan_count"]), f"{found['plan']:.2f} s", "<= 1.5 s", found["plan"] <= 1.5),
        (_of("validate", found["plan_count"]), f"{found['validate']:.2f} s", "", None),
        (_of("ps", found["ps_count"]), f"{found['ps']:.2f} s", "<= 0.3 s", found["ps"] <= 0.3),
        ("`version`", f"{found['version']:.2f} s", "", None),
    ]


def _probes(found: dict[str, Any]) -> list[Row]:
    what = f"{found['count']} http probes every {found['interval']:g} s"
    return [(what, f"{found['core']:.1%} of a core", "< 5 %", found["core"] < 0.05)]


def _restart(found: dict[str, Any]) -> list[Row]:
    return [_at_most(f"kill -9 to the next process, {found['count']} times", found["median"], 0.05)]


def _edit(found: dict[str, Any]) -> list[Row]:
    n = found["settled"]["count"]
    return [
        (f"file saved to limit in force, N={n}", _seconds(found["kernel"]["median"]), "", None),
        _at_most(f"file saved to settled, N={n}", found["settled"]["median"], 0.3),
    ]


IDLE = {200: 0.005, 1000: 0.02}
"""By the number of containers, the part of a core that the agent may take."""


def _idle(found: list[dict[str, Any]]) -> list[Row]:
    result: list[Row] = []
    for each in found:
        n, cores = each["count"], each["cores"]
        wanted, agent = IDLE.get(n), cores["agent"]
        result += [
            (
                f"idle agent, N={n}",
                f"{agent:.2%} of a core",
                f"< {wanted * 100:g} %" if wanted else "",
                agent < wanted if wanted else None,
            ),
            (
                f"idle supervisor, keeper, N={n}",
                f"{cores['supervisor']:.2%}, {cores['keeper']:.2%} of a core",
                "",
                None,
            ),
        ]
    return result


def _again(found: dict[str, Any]) -> list[Row]:
    return [_at_most(_of("apply", found["count"]), found["median"], 0.4)]


def _ready(found: dict[str, Any]) -> list[Row]:
    return [_at_most(f"agent killed until ready again, N={found['count']}", found["median"], 0.5)]


RIVALS = {
    "bring_up": "N={}",
    "restart": "kill -9 to the next process, {} times",
    "again": "`up -d` of {} running and unchanged",
}
"""What they were measured at, by the figure."""


def _images(found: dict[str, Any] | None) -> list[Row]:
    if found is None:
        return []
    pull, start = found["pull"], found["start"]
    what = f"pull and unpack {pull['bytes'] >> 20} MiB ({pull['packed'] >> 20} MiB packed)"
    ours = pull["seconds"]["orchestrator"]
    result: list[Row] = [(what, _seconds(ours), "", None)]
    for name, seconds in pull["seconds"].items():
        if isinstance(seconds, str):
            result.append((f"the same, {name}", f"skipped: {seconds}", "", None))
        elif name != "orchestrator":
            text = f"{_seconds(seconds)}: {seconds / ours:.2f} times as long"
            result.append((f"the same, {name}", text, ">= 1", seconds >= ours))
    n, ratio = start["count"], start["image"] / start["directory"]
    second = start["second"]
    result += [
        ("a second container of the image, bytes more in the store", str(second), "0", second == 0),
        (
            f"{n} containers of one image / of one directory",
            f"{ratio:.2f} of the time",
            "<= 1.1",
            ratio <= 1.1,
        ),
    ]
    return result


def _rivals(found: dict[str, Any]) -> list[Row]:
    result: list[Row] = []
    for figure, each in found.items():
        n = each["count"]
        for name, seconds in each["seconds"].items():
            if isinstance(seconds, str):
                text = f"skipped: {seconds}"
            else:
                text = _rate(n, seconds) if figure == "bring_up" else _seconds(seconds)
            result.append((f"{name}, {RIVALS[figure].format(n)}", text, "", None))
    return result


ROWS: Mapping[str, Callable[[Any], list[Row]]] = {
    "bring_up": _bring_up,
    "weight": _weight,
    "looking": _looking,
    "probes": _probes,
    "restart": _restart,
    "edit": _edit,
    "idle": _idle,
    "again": _again,
    "ready": _ready,
    "images": _images,
    "rivals": _rivals,
}


def _at_most(what: str, seconds: float, wanted: float) -> Row:
    return (what, _seconds(seconds), f"<= {_seconds(wanted)}", seconds <= wanted)


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _rate(count: int, seconds: float) -> str:
    return f"{seconds:.3f} s ({count / seconds:.0f}/s)"


def _of(verb: str, count: int) -> str:
    return f"`{verb}` of {count} running and unchanged" if verb != "ps" else f"`ps` with {count}"


def table(found: dict[str, Any]) -> str:
    """A Markdown table."""
    lines = ["| figure | measured | wanted | |", "|---|---|---|---|"]
    for what, measured, wanted, reached in rows(found):
        mark = "" if reached is None else "reached" if reached else "not reached"
        lines.append(f"| {what} | {measured} | {wanted} | {mark} |")
    return "\n".join(lines)


MARK = "## Figures\n"


def insert(page: str, found: dict[str, Any]) -> str:
    """The page of documentation with these figures in place of those after its last heading."""
    head = page.partition(MARK)[0]
    kind = found["machine"]
    told = (
        f"A virtual machine with {kind['cpus']} cores and {kind['memory_gib']} GiB, Linux {kind['kernel']}, "
        f"{kind['cgroups']} cgroups, Python {kind['python']}; load average {kind['load']} when the run began."
    )
    return f"{head}{MARK}\n{told}\n\n{table(found)}\n"
