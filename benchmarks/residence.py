"""What the agent does and costs while nobody asks, and how fast it is when something happens. As `measures`: from a folder
to figures."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import records, restarts
from benchmarks.measures import Say, check_running
from benchmarks.product import MARK, Product, instance, until

SETTLE = 12.0  # seconds after which nothing of a bring-up is left to do, and nobody's restart is held back any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds, one for each of the things done to an instance of `count` containers."""

    count: int
    seconds: tuple[float, ...]
    median: float

    @classmethod
    def of(cls, count: int, seconds: list[float]) -> Times:
        return cls(count=count, seconds=tuple(seconds), median=statistics.median(seconds))


def restart(folder: Path, *, count: int, say: Say) -> Times:
    """From kill -9 of a container's process to its next process, once for each container."""
    with instance(folder, warm=False) as product:
        product.apply("bench", count)
        check_running(product, count)
        found = Times.of(count, [restarts.after_kill(MARK + number) for number in range(count)])
        until("everything runs again", lambda: product.standing("bench") == "settled")
        check_running(product, count)
    say(f"kill -9 to the next process: {found.median * 1000:.1f} ms")
    return found


def again(folder: Path, *, count: int, rounds: int, say: Say) -> Times:
    """The whole command `apply` of what is so already."""
    with instance(folder, warm=False) as product:
        product.apply("bench", count)
        check_running(product, count)
        found = Times.of(count, [product.apply("bench", count) for _ in range(rounds)])
    say(f"apply of {count} unchanged: {found.median:.2f} s")
    return found


def ready(folder: Path, *, count: int, rounds: int, say: Say) -> Times:
    """From kill -9 of the agent until another one says that it has looked at the stack and found it settled."""
    with instance(folder, warm=False) as product:
        product.apply("bench", count)
        check_running(product, count)
        found = Times.of(count, [_another_agent(product) for _ in range(rounds)])
    say(f"agent with {count} ready again: {found.median:.2f} s")
    return found


def _another_agent(product: Product) -> float:
    time.sleep(SETTLE)  # the keeper lets one that ends soon wait
    old = records.own_processes(product.root)["agent"]
    begun = time.monotonic()
    os.kill(old, signal.SIGKILL)
    until("another agent is there", lambda: product.standing("bench", but=old) == "settled")
    return time.monotonic() - begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Parts of one core by role (agent, supervisor, keeper), what they ran included, with nothing to do for `seconds`."""

    count: int
    seconds: float
    cores: dict[str, float]


def idle(folder: Path, *, count: int, seconds: float, say: Say) -> Idle:
    with instance(folder, warm=False) as product:
        product.apply("bench", count)
        check_running(product, count)
        time.sleep(SETTLE)
        own = records.own_processes(product.root)
        before, begun = {role: records.cpu_seconds(pid) for role, pid in own.items()}, time.monotonic()
        time.sleep(seconds)
        used = {role: records.cpu_seconds(pid) - before[role] for role, pid in own.items()}
        taken = time.monotonic() - begun
        check_running(product, count)
    cores = {role: each / taken for role, each in used.items()}
    say(f"idle with {count}: " + ", ".join(f"{role} {part:.2%} of a core" for role, part in cores.items()))
    return Idle(count=count, seconds=taken, cores=cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Of one memory limit among `count` containers, from before the file's rename: until the kernel has it, and until
    `watch` says settled."""

    kernel: Times
    settled: Times


def edit(folder: Path, *, count: int, rounds: int, say: Say) -> Edit:
    with instance(folder, warm=False) as product:
        path = product.write("bench", count, memory=63 << 20)
        product.cli("apply", "-f", path)
        pid = next(each["pid"] for each in product.containers("bench") if each["ref"].endswith("/c0"))
        limit, kernel, settled = records.memory_limit(pid), [], []
        with _watched(product, path) as endings:
            next(endings)
            for turn in range(rounds):
                time.sleep(1.0)
                wanted = (64 + turn) << 20
                changed = Path(product.write("bench", count, memory=wanted, file="next"))
                begun = time.monotonic()
                changed.rename(path)
                until("the limit is in force", lambda: limit.read_text() == f"{wanted}\n")  # noqa: B023
                kernel.append(time.monotonic() - begun)
                next(endings)
                settled.append(time.monotonic() - begun)
    found = Edit(kernel=Times.of(count, kernel), settled=Times.of(count, settled))
    say(f"file save to settled: {found.settled.median * 1000:.0f} ms")
    return found


@contextmanager
def _watched(product: Product, path: str) -> Iterator[Iterator[float]]:
    """`watch -f`, and when each time it says that the stack is settled."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "watch", "-f", path],
        env=product.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield (time.monotonic() for line in process.stdout if re.search(r"\bsettled\b", line))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        process.stdout.close()
