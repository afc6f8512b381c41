"""The product under measurement: one instance on a folder of its own, driven by its command line.

In: an empty folder. Out: wall times, step times from its own record of runs, facts from `ps`. Leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import records
from orchestrator.app import resident
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.client import Supervisor

CHECKOUT = Path(__file__).resolve().parent.parent
SUBNETS = {"bench": "10.213.0.0/20", "warm": "10.213.16.0/28"}
"""By stack; room for the largest."""


PATIENCE = 30.0

MARK = 1_000_000
"""The first container sleeps for so many seconds, the next for one more: its process is known by that."""


def stack_of(name: str, count: int, *, memory: int | None = None) -> str:
    """A stack of `count` groups of one container, each with its own address, that run one command. `memory`: the first
    one's limit in bytes."""
    keys = [
        f"rootfs: base, command: [/bin/sleep, '{MARK + i}'], stop: {{grace: 0s, signal: KILL}}"
        for i in range(count)
    ]
    if memory is not None:
        keys[0] += f", limits: {{memory: {memory}}}"
    containers = "".join(f"  c{i}: {{{each}}}\n" for i, each in enumerate(keys))
    networks = f"{{default: {{subnet: {SUBNETS[name]}}}}}"
    return f"stack: {name}\nrootfs: {{base: host}}\nnetworks: {networks}\ncontainers:\n{containers}"


class Product:
    """One instance. Every method that fails raises RuntimeError with what the command line said."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.environment = {
            **os.environ,
            "ORCHESTRATOR_ROOT": str(self.root),
            "PYTHONPATH": str(CHECKOUT),
        }
        self._files = folder
        self._agent = resident(Layout.at(self.root))

    def cli(self, *arguments: str, timeout: float = 600) -> tuple[float, str]:
        """Wall seconds and standard output."""
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        taken = time.monotonic() - begun
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)} exits {done.returncode}: {done.stderr[-2000:]}")
        return taken, done.stdout

    def write(self, name: str, count: int, *, memory: int | None = None, file: str | None = None) -> str:
        """The path of a stack file, `file` below the folder."""
        path = self._files / (file or f"{name}.yaml")
        path.write_text(stack_of(name, count, memory=memory))
        return str(path)

    def apply(self, name: str, count: int) -> float:
        """Wall seconds of `apply`."""
        return self.cli("apply", "-f", self.write(name, count), "--timeout", "10m")[0]

    def timed_apply(self, name: str, count: int) -> tuple[float, float]:
        """Wall seconds of `apply`, and those from its first step to the end of its last container's start."""
        before = records.last_run(self.root)
        wall = self.apply(name, count)
        return wall, records.bring_up_seconds(self.root, since=before)

    def delete(self, name: str) -> float:
        return self.cli("delete", name, "--prune-data", "--yes")[0]

    def containers(self, name: str | None = None) -> list[dict[str, Any]]:
        """The rows of `ps`, of one stack or of all."""
        stacks = json.loads(self.cli("ps", "--output", "json")[1])["stacks"]
        return [row for stack in stacks if name in (None, stack["name"]) for row in stack["containers"]]

    def standing(self, name: str, *, but: int | None = None) -> str | None:
        """What the agent says of a stack; None: nothing yet, or it is the process `but`."""
        found = self._agent.status()
        if found is None or found["pid"] == but:
            return None
        standing: str | None = found["stacks"].get(name, {}).get("standing")
        return standing

    def own_kib(self) -> dict[str, int]:
        """Resident memory in KiB of each process of ours by its role (keeper, supervisor, agent)."""
        return {role: records.resident_kib(pid) for role, pid in records.own_processes(self.root).items()}

    def extra_processes(self) -> int:
        """Processes of ours that are neither keeper, supervisor, agent nor a container's own."""
        own = records.own_processes(self.root)
        inside = {row["pid"] for row in self.containers()}
        return len(records.descendants(own["keeper"]) - inside - set(own.values()))

    def close(self) -> None:
        """End all that runs and remove the folder."""
        try:
            for stack in json.loads(self.cli("ls", "--output", "json")[1])["stacks"]:
                self.delete(stack["name"])
        finally:
            Supervisor(Layout.at(self.root)).stop()
            # An ending process has let go of its lock before its other files.
            until("the run folder is in nobody's use", self._unmounted)
            shutil.rmtree(self.root, ignore_errors=True)

    def _unmounted(self) -> bool:
        return subprocess.run(["umount", self.root / "run"], check=False, capture_output=True).returncode == 0


def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.001)


@contextmanager
def instance(folder: Path, *, warm: bool) -> Iterator[Product]:
    """A fresh instance for the block. `warm`: one container of a stack of its own runs already, from the same rootfs."""
    product = Product(folder)
    # As on any Debian: state on the disk, what a reboot ends on a tmpfs.
    (product.root / "run").mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "bench", product.root / "run"], check=True)
    try:
        if warm:
            product.apply("warm", 1)
        yield product
    finally:
        product.close()
