"""What a user who is not root is told: one clear line and no trace, whatever the verb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

_CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "verb", [("plan", "-f", "-"), ("apply", "-f", "-"), ("ps",), ("ls",), ("logs", "x"), ("delete", "shop")]
)
def test_each_verb_says_that_it_needs_root(tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / "root").mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-B", "-m", "orchestrator", "--root", str(tmp_path / "root"), *verb],
        input="stack: shop\nrootfs: {base: host}\ncontainers: {x: {rootfs: base, command: [/bin/true]}}\n",
        capture_output=True,
        text=True,
        check=False,
        user=65534,
        group=65534,
        extra_groups=(),
        cwd="/",
        env={"PYTHONPATH": str(_CHECKOUT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    first, hint = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert "root" in first
    assert hint == "  hint: run it with sudo"
