"""`python -m benchmarks` measures, prints a table, writes `benchmarks/results/latest.json` and the table in docs.

Needs root. `--quick` takes a tenth of the time and proves the harness, not the product; `--rivals` adds other tools
that are installed here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import limit, measures, probes, report, rivals
from orchestrator.ports.layout import Layout
from tests import leaks

HERE = Path(__file__).resolve().parent


def measure(folder: Path, *, quick: bool, with_rivals: bool) -> dict[str, Any]:
    """All figures as JSON data; `folder` is on the file system to be measured and empty."""
    program = limit.build(HERE.parent / ".cache/bench")
    counts, rounds = ((10, 20), 1) if quick else ((50, 200), 5)
    plan_count, weight_count = (50, 50) if quick else (1000, 500)
    found: dict[str, Any] = {"version": 1, "machine": report.machine(), "quick": quick}
    found["bring_up"] = [
        {**dataclasses.asdict(each), "ratio": each.ratio}
        for each in (measures.bring_up(folder, program, count=n, rounds=rounds, say=say) for n in counts)
    ]
    found["weight"] = dataclasses.asdict(measures.weight(folder, count=weight_count, say=say))
    found["looking"] = dataclasses.asdict(
        measures.looking(folder, plan_count=plan_count, ps_count=counts[-1], rounds=rounds, say=say)
    )
    many, every, seconds = (100, 1.0, 2.0) if quick else (1000, 10.0, 30.0)
    run = Path(tempfile.mkdtemp(prefix="orchestrator-bench-", dir="/run"))  # health is published on a tmpfs
    try:
        part = probes.share(run, count=many, interval=every, seconds=seconds)
    finally:
        shutil.rmtree(run, ignore_errors=True)
    found["probes"] = {"count": many, "interval": every, "core": part}
    say(f"probes: {part:.1%} of a core")
    if with_rivals:
        found["rivals"] = {"count": counts[0], "seconds": rival_seconds(folder, counts[0])}
    return found


def rival_seconds(folder: Path, count: int) -> dict[str, rivals.Result]:
    place = folder / "rivals"
    place.mkdir()
    try:
        results = dict(rivals.run(place, count=count))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    for name, result in results.items():
        say(f"{name}: {f'{result:.2f} s' if isinstance(result, float) else f'skipped: {result}'}")
    return results


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="small counts, one round; results are not written"
    )
    parser.add_argument(
        "--rivals", action="store_true", help="also crun, podman and docker-compose where installed"
    )
    parser.add_argument(
        "--folder", default="/var/tmp", help="where the temporary root goes (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("making containers needs root: run it as root, or with sudo")
    before = leaks.snapshot()
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-bench-", dir=arguments.folder))
    try:
        found = measure(folder, quick=arguments.quick, with_rivals=arguments.rivals)
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
    if not arguments.quick:
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
