"""The table of a benchmark's figures, beside what the project wants to reach. In: the JSON data. Out: text."""

from __future__ import annotations

import os
import platform
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
    result: list[Row] = []
    for each in found["bring_up"]:
        n = each["count"]
        result += [
            (f"limit, N={n}", _rate(n, each["limit"]), "", None),
            (f"bring-up, N={n}", _rate(n, each["product"]), "", None),
            (
                f"limit / bring-up, N={n}",
                f"{each['ratio']:.2f} of the limit",
                ">= 0.25",
                each["ratio"] >= 0.25,
            ),
            (f"`apply`, supervisor warm, N={n}", f"{each['warm_wall']:.2f} s", "", None),
            (f"`apply`, cold, N={n}", f"{each['cold_wall']:.2f} s", "", None),
        ]
    weight, looking = found["weight"], found["looking"]
    n, extra, kernel = weight["count"], weight["extra_processes"], weight["kernel_kib"]
    own = ", ".join(f"{role} {kib / 1024:.0f} MiB" for role, kib in weight["own_kib"].items())
    result += [
        (f"kernel memory each, N={n}", f"{kernel:.0f} KiB", "<= 600 KiB", kernel <= 600),
        ("same, droppable caches dropped", f"{weight['kernel_kib_without_caches']:.0f} KiB", "", None),
        (f"processes besides the containers', N={n}", f"{extra}", "0", extra == 0),
        (f"resident memory of ours, N={n}", own, "", None),
        (_of("plan", looking["plan_count"]), f"{looking['plan']:.2f} s", "<= 1.5 s", looking["plan"] <= 1.5),
        (_of("validate", looking["plan_count"]), f"{looking['validate']:.2f} s", "", None),
        (_of("ps", looking["ps_count"]), f"{looking['ps']:.2f} s", "<= 0.3 s", looking["ps"] <= 0.3),
        ("`version`", f"{looking['version']:.2f} s", "", None),
    ]
    probes = found.get("probes")
    if probes:
        what = f"{probes['count']} http probes every {probes['interval']:g} s"
        result.append((what, f"{probes['core']:.1%} of a core", "< 5 %", probes["core"] < 0.05))
    rivals = found.get("rivals", {"count": 0, "seconds": {}})
    for name, seconds in rivals["seconds"].items():
        n = rivals["count"]
        text = _rate(n, seconds) if isinstance(seconds, float) else f"skipped: {seconds}"
        result.append((f"{name}, N={n}", text, "", None))
    return result


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
