"""What an instance's own records and /proc say after a run: how long its steps took, which processes it has.

In: the instance's root. Out: figures. Reads the state store's database and proc_pid_stat(5); changes nothing.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

ROLES = {b"keeper": "keeper", b"unit": "keeper", b"supervisor": "supervisor"}
AGENT = b"orc-agent\n"


def last_run(root: Path) -> int:
    """The number of the newest recorded run; 0 when there is none."""
    return int(_ask(root, "SELECT coalesce(max(run), 0) FROM runs")[0][0]) if _database(root).exists() else 0


def bring_up_seconds(root: Path, *, since: int) -> float:
    """From the beginning of the first run after `since` that started a container to the end of the last such run.

    A run begins just before its first step and ends after its last, so this is no less than the time asked for.
    """
    rows = _ask(
        root,
        "SELECT began, ended FROM runs WHERE run > ? AND run IN (SELECT run FROM step_results "
        "WHERE op = 'start' AND status = 'done' AND ref LIKE 'container/%')",
        since,
    )
    if not rows:
        raise RuntimeError("no run started a container")
    return max(float(ended) for _, ended in rows) - min(float(began) for began, _ in rows)


def _database(root: Path) -> Path:
    return root / "state/orchestrator.db"


def _ask(root: Path, query: str, *values: object) -> list[tuple[float, float]]:
    database = sqlite3.connect(f"file:{_database(root)}?mode=ro", uri=True)
    try:
        return database.execute(query, values).fetchall()
    finally:
        database.close()


def own_processes(root: Path) -> Mapping[str, int]:
    """Role (keeper, supervisor, agent) to pid."""
    home = root.resolve()
    run = os.fsencode(home / "run")
    found = {}
    for each in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (each / "cmdline").read_bytes().split(b"\0")[:-1]
            name = (each / "comm").read_bytes()
        except OSError:
            continue
        if len(arguments) > 1 and arguments[-1] == run and arguments[-2] in ROLES:
            found[ROLES[arguments[-2]]] = int(each.name)
        if name == AGENT and arguments[-1:] == [os.fsencode(home)]:
            found["agent"] = int(each.name)
    return found


def resident_kib(pid: int) -> int:
    """Resident memory of one process (proc_pid_status(5), VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def cpu_seconds(pid: int) -> float:
    """Processor time of one process, all its threads ever, and of those of its children that it has waited for."""
    # clock_getcpuclockid(3): the clock of a process by its pid, in nanoseconds; of children there are ticks alone.
    own = time.clock_gettime(~pid << 3 | 2)
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + sum(map(int, after_name[13:15])) / os.sysconf("SC_CLK_TCK")


def memory_limit(pid: int) -> Path:
    """The file of a process's cgroup that holds its memory limit (v2, or v1 where the controller is on v1)."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    paths = {controllers: path for _, controllers, path in lines}
    if "memory" in paths:
        return Path(f"/sys/fs/cgroup/memory{paths['memory']}/memory.limit_in_bytes")
    return Path(f"/sys/fs/cgroup{paths['']}/memory.max")


def descendants(pid: int) -> set[int]:
    """Every process below `pid`. Nothing of ours escapes: the keeper is a subreaper (prctl(2))."""
    parents: dict[int, list[int]] = {}
    for each in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (each / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(after_name[1]), []).append(int(each.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting += children
    return found
