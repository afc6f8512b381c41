"""`python -m benchmarks` measures, prints a table, writes `benchmarks/results/latest.json` and the table in docs.

Needs root. `--quick` takes a tenth of the time and proves the harness, not the product; `--only` measures some figures;
neither writes a file. `--rivals` adds other tools that are installed here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import images, limit, measures, probes, report, residence, rivals
from orchestrator.ports.layout import Layout
from tests import leaks

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many containers, how often, for how many seconds."""

    counts: tuple[int, ...] = (50, 200)
    rounds: int = 5
    weight: int = 500
    plan: int = 1000
    probes: tuple[int, float, float] = (1000, 10.0, 30.0)  # how many, every, over
    restarts: int = 24
    again: tuple[int, int] = (200, 7)
    ready: tuple[int, int] = (100, 7)
    edits: tuple[int, int] = (20, 11)
    idle: tuple[int, ...] = (200, 1000)
    idle_seconds: float = 45.0
    pulls: int = 3
    images: tuple[int, int] = (200, 3)


QUICK = Scale(
    counts=(10, 20),
    rounds=1,
    weight=50,
    plan=50,
    probes=(100, 1.0, 2.0),
    restarts=3,
    again=(10, 2),
    ready=(10, 1),
    edits=(5, 2),
    idle=(10,),
    idle_seconds=3.0,
    pulls=1,
    images=(10, 1),
)


def bring_up(folder: Path, scale: Scale) -> list[dict[str, Any]]:
    program = limit.build(HERE.parent / ".cache/bench")
    found = [measures.bring_up(folder, program, count=n, rounds=scale.rounds, say=say) for n in scale.counts]
    return [{**dataclasses.asdict(each), "ratio": each.ratio} for each in found]


def weight(folder: Path, scale: Scale) -> dict[str, Any]:
    return dataclasses.asdict(measures.weight(folder, count=scale.weight, say=say))


def looking(folder: Path, scale: Scale) -> dict[str, Any]:
    found = measures.looking(
        folder, plan_count=scale.plan, ps_count=scale.counts[-1], rounds=scale.rounds, say=say
    )
    return dataclasses.asdict(found)


def probing(_: Path, scale: Scale) -> dict[str, Any]:
    many, every, seconds = scale.probes
    run = Path(tempfile.mkdtemp(prefix="orchestrator-bench-", dir="/run"))  # health is published on a tmpfs
    try:
        part = probes.share(run, count=many, interval=every, seconds=seconds)
    finally:
        shutil.rmtree(run, ignore_errors=True)
    say(f"probes: {part:.1%} of a core")
    return {"count": many, "interval": every, "core": part}


def restart(folder: Path, scale: Scale) -> dict[str, Any]:
    return dataclasses.asdict(residence.restart(folder, count=scale.restarts, say=say))


def edit(folder: Path, scale: Scale) -> dict[str, Any]:
    count, rounds = scale.edits
    return dataclasses.asdict(residence.edit(folder, count=count, rounds=rounds, say=say))


def idle(folder: Path, scale: Scale) -> list[dict[str, Any]]:
    found = [residence.idle(folder, count=n, seconds=scale.idle_seconds, say=say) for n in scale.idle]
    return [dataclasses.asdict(each) for each in found]


def again(folder: Path, scale: Scale) -> dict[str, Any]:
    count, rounds = scale.again
    return dataclasses.asdict(residence.again(folder, count=count, rounds=rounds, say=say))


def ready(folder: Path, scale: Scale) -> dict[str, Any]:
    count, rounds = scale.ready
    return dataclasses.asdict(residence.ready(folder, count=count, rounds=rounds, say=say))


def image(folder: Path, scale: Scale) -> dict[str, Any] | None:
    """None where something is not installed that it needs."""
    reason = images.missing()
    if reason is not None:
        say(f"images: skipped: {reason}")
        return None
    count, rounds = scale.images
    pulled = images.pull(folder, rounds=scale.pulls, say=say)
    started = images.start(folder, count=count, rounds=rounds, say=say)
    return {"pull": dataclasses.asdict(pulled), "start": dataclasses.asdict(started)}


FIGURES: Mapping[str, Callable[[Path, Scale], Any]] = {
    "bring_up": bring_up,
    "weight": weight,
    "looking": looking,
    "probes": probing,
    "restart": restart,
    "edit": edit,
    "idle": idle,
    "again": again,
    "ready": ready,
    "images": image,
}


def measure(folder: Path, scale: Scale, names: Collection[str], *, with_rivals: bool) -> dict[str, Any]:
    """All figures with these names as JSON data; `folder` is on the file system to be measured and empty."""
    found: dict[str, Any] = {"version": 2, "machine": report.machine(), "quick": scale is QUICK}
    for name in FIGURES:
        if name in names:
            found[name] = FIGURES[name](folder, scale)
    if with_rivals:
        sizes = {"bring_up": scale.counts[0], "restart": scale.restarts, "again": scale.again[0]}
        found["rivals"] = {
            name: {"count": count, "seconds": rival_seconds(folder, name, count)}
            for name, count in sizes.items()
            if name in names
        }
    return found


def rival_seconds(folder: Path, name: str, count: int) -> dict[str, rivals.Result]:
    place = folder / "rivals"
    place.mkdir()
    try:
        results = dict(rivals.run(place, name, count=count))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    for rival, result in results.items():
        say(f"{name}, {rival}: {f'{result:.3f} s' if isinstance(result, float) else f'skipped: {result}'}")
    return results


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="small counts, one round; results are not written"
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        choices=tuple(FIGURES),
        action="append",
        help=f"some figures, not written: {', '.join(FIGURES)}; may be repeated",
    )
    parser.add_argument(
        "--rivals", action="store_true", help="also crun, podman, docker and docker-compose where installed"
    )
    parser.add_argument(
        "--folder", default="/var/tmp", help="where the temporary root goes (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("making containers needs root: run it as root, or with sudo")
    scale, names = QUICK if arguments.quick else Scale(), arguments.only or tuple(FIGURES)
    before = leaks.snapshot()
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-bench-", dir=arguments.folder))
    try:
        found = measure(folder, scale, names, with_rivals=arguments.rivals)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        left = [
            each
            for each in leaks.leaked(before)
            if folder.name in each or Layout.at(folder / "root").instance in each
        ]
        for each in left:
            print(f"left behind: {each}", file=sys.stderr)
    print(report.table(found))
    if not arguments.quick and not arguments.only:
        target = HERE / "results/latest.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(found, indent=2) + "\n")
        page = HERE.parent / "docs/benchmarks.md"
        page.write_text(report.insert(page.read_text(), found))
        print(
            f"written to {target.relative_to(HERE.parent)} and {page.relative_to(HERE.parent)}",
            file=sys.stderr,
        )
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
