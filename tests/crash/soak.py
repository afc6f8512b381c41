"""`make soak`: kill -9 of everything of ours for minutes on end with a hundred containers, and a report of what was found.

In: how long, how many, a seed, where the report goes. Out: exit code 0 and the report; the first broken invariant ends it
with 1. It takes at least 1,000 kills.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests import leaks
from tests.crash.storm import Broken, Storm

CHECK_EVERY = 25
LEAST = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--least", type=int, default=LEAST, help="kills, however long they take")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--report", type=Path)
    chosen = parser.parse_args()
    before = leaks.snapshot()
    root = Path(tempfile.mkdtemp(prefix="orc-soak-"))
    mortal = max(2, chosen.containers // 5)
    began, rounds, broken = time.monotonic(), 0, ""
    settled: list[float] = []
    resources = {}
    try:
        with Storm(root, chosen.containers - mortal, mortal, chosen.seed, pause=0.1) as storm:
            try:
                while time.monotonic() - began < chosen.minutes * 60 or rounds < chosen.least:
                    storm.round()
                    rounds += 1
                    if rounds % CHECK_EVERY == 0:
                        start = time.monotonic()
                        storm.check()
                        settled.append(time.monotonic() - start)
                        print(
                            f"{time.monotonic() - began:6.0f} s  {rounds} rounds", file=sys.stderr, flush=True
                        )
                storm.check()
                lines = storm.lines()
                resources = storm.resources()
            except Broken as error:
                broken, lines = str(error), 0
    finally:
        shutil.rmtree(root, ignore_errors=True)
    marks = (root.name, storm.app.layout.instance)
    left = [each for each in leaks.leaked(before) if any(mark in each for mark in marks)]
    text = report(storm, chosen, time.monotonic() - began, lines, settled, resources, broken, left)
    print(text)
    if chosen.report and not broken:
        chosen.report.write_text(text)
    return 1 if broken or left else 0


def report(
    storm: Storm,
    chosen: argparse.Namespace,
    seconds: float,
    lines: int,
    settled: list[float],
    resources: dict[str, str],
    broken: str,
    left: list[str],
) -> str:
    """Markdown."""
    kills = "\n".join(f"| {name} | {count} |" for name, count in storm.done.most_common())
    sizes = "\n".join(f"| {name} | {text} |" for name, text in resources.items())
    return f"""# Soak

What `make soak` found in its last run: kill -9 (and SIGSTOP) of everything of ours at random moments, while
{chosen.containers} containers write numbered lines. Every {CHECK_EVERY} rounds `apply` must settle and the plan be empty;
no steady container may have another pid, no cgroup more or less than its one process, no log a missing or doubled line,
and each killed container is told as such. At the end nothing may be left behind.

{platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}, seed {chosen.seed}.

| | |
|---|---|
| minutes | {seconds / 60:.1f} |
| rounds | {sum(storm.done.values())} |
| containers | {storm.steady} steady, {storm.mortal} that are killed too |
| log lines checked | {lines:,} |
| ends of killed containers that nobody could read | {storm.unknown} of {storm.done["container"]} |
| `apply` settled with an empty plan | {len(settled)} times, slowest {max(settled, default=0):.1f} s |
| broken | {broken or "nothing"} |
| left behind | {", ".join(left) or "nothing"} |

| what was hit | times |
|---|---|
{kills}

| at the end | |
|---|---|
{sizes}
"""


if __name__ == "__main__":
    sys.exit(main())
