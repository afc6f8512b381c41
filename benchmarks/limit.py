"""The physical limit, `limit.c`: compiled once per version of its source, run for N containers.

In: a C compiler (Debian's gcc, installed by apt where it is missing). Out: seconds. Needs root.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("limit.c")


def build(cache: Path) -> Path:
    """The compiled program below `cache`. Raises RuntimeError with the compiler's words."""
    target = cache / f"limit-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if target.exists():
        return target
    if shutil.which("cc") is None:
        subprocess.run(
            ["apt-get", "install", "-qq", "-y", "gcc", "libc6-dev"], check=True, stdout=subprocess.DEVNULL
        )
    cache.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["cc", "-O2", "-static", "-o", f"{target}.new", str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"cc could not compile {SOURCE}: {done.stderr[-1000:]}")
    os.replace(f"{target}.new", target)
    return target


def seconds(program: Path, count: int, *, workers: int, folder: Path) -> float:
    """Wall time of `count` starts, `workers` at a time, with the overlays' upper folders below `folder`."""
    done = subprocess.run(
        [str(program), str(count), str(workers)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program.name} {count} failed: {done.stderr.strip()}")
    return float(json.loads(done.stdout)["seconds"])
