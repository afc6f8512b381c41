"""What is measured, each as a function from a folder to figures. Ratios come from runs in alternation with the limit."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import limit
from benchmarks.product import Product, instance

Say = Callable[[str], None]
WORKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BringUp:
    """Medians over the rounds, in seconds; `ratios` are limit / product, round by round."""

    count: int
    limit: float
    product: float
    warm_wall: float
    cold_wall: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def bring_up(folder: Path, program: Path, *, count: int, rounds: int, say: Say) -> BringUp:
    """`count` one-command containers with network: limit, product, limit, product, ... Then once more from cold."""
    limits, products, walls = [], [], []
    with instance(folder, warm=True) as product:
        for turn in range(rounds):
            limits.append(limit.seconds(program, count, workers=WORKERS, folder=folder))
            wall, seconds = product.timed_apply("bench", count)
            walls.append(wall)
            products.append(seconds)
            check_running(product, count)
            product.delete("bench")
            say(
                f"N={count} round {turn + 1}/{rounds}: limit {limits[-1]:.3f} s, product {products[-1]:.3f} s"
            )
    colds = []
    for _ in range(max(1, rounds // 2)):
        with instance(folder, warm=False) as product:
            colds.append(product.apply("bench", count))
    return BringUp(
        count=count,
        limit=statistics.median(limits),
        product=statistics.median(products),
        warm_wall=statistics.median(walls),
        cold_wall=statistics.median(colds),
        ratios=tuple(a / b for a, b in zip(limits, products, strict=True)),
    )


def check_running(product: Product, count: int, name: str = "bench") -> None:
    """A figure counts only when every container runs."""
    running = [row for row in product.containers(name) if row["phase"] == "running"]
    if len(running) != count:
        raise RuntimeError(f"{len(running)} of {count} containers run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """Of `count` idle containers with network: kernel memory in KiB each, before and after the kernel's caches that it
    can drop at will were dropped; processes of ours beside the containers' own, keeper and supervisor."""

    count: int
    kernel_kib: float
    kernel_kib_without_caches: float
    extra_processes: int
    own_kib: dict[str, int]


def weight(folder: Path, *, count: int, say: Say) -> Weight:
    with instance(folder, warm=True) as product:
        drop_caches()
        before = kernel_memory()
        product.apply("bench", count)
        check_running(product, count)
        after = kernel_memory()
        drop_caches()
        without = kernel_memory()
        own, extra = product.own_kib(), product.extra_processes()
        product.delete("bench")
    say(f"N={count}: {(after - before) / count:.0f} KiB of kernel memory each")
    return Weight(
        count=count,
        kernel_kib=(after - before) / count,
        kernel_kib_without_caches=(without - before) / count,
        extra_processes=extra,
        own_kib=own,
    )


def kernel_memory() -> int:
    """KiB of Slab + KernelStack + PageTables + Percpu (proc_meminfo(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    values = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return sum(values[name] for name in ("Slab", "KernelStack", "PageTables", "Percpu"))


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """Median wall seconds of whole commands, interpreter start included."""

    plan_count: int
    plan: float
    validate: float
    ps_count: int
    ps: float
    version: float


def looking(folder: Path, *, plan_count: int, ps_count: int, rounds: int, say: Say) -> Looking:
    """`ps` with `ps_count` running containers; `plan` and `validate` of `plan_count`, running and unchanged."""
    with instance(folder, warm=True) as product:
        product.apply("bench", ps_count)
        check_running(product, ps_count)
        ps = command_wall(product, rounds, "ps")
        product.apply("bench", plan_count)
        check_running(product, plan_count)
        file = product.write("bench", plan_count)
        plan = command_wall(product, rounds, "plan", "-f", file, "--check")
        validate = command_wall(product, rounds, "validate", "-f", file)
        version = command_wall(product, rounds, "version")
    say(f"plan of {plan_count}: {plan:.2f} s; ps with {ps_count}: {ps:.2f} s")
    return Looking(
        plan_count=plan_count, plan=plan, validate=validate, ps_count=ps_count, ps=ps, version=version
    )


def command_wall(product: Product, rounds: int, *arguments: str) -> float:
    return statistics.median(product.cli(*arguments)[0] for _ in range(rounds))
