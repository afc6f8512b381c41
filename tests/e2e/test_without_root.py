"""What a user who is not root is told: one clear line and no trace, whatever the verb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

_CHECKOUT = Path(__file__).parents[2]


def as_nobody(root: Path, *verb: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-m", "orchestrator", "--root", str(root), *verb],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        user=65534,
        group=65534,
        extra_groups=(),
        cwd="/",
        env={"PYTHONPATH": str(_CHECKOUT), "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize(
    "verb",
    [
        ("plan", "-f", "-"),
        ("apply", "-f", "-"),
        ("ps",),
        ("ls",),
        ("top",),
        ("logs", "x"),
        ("kill", "x"),
        ("cp", "x:/etc", "etc"),
        ("delete", "shop"),
    ],
)
def test_each_verb_says_that_it_needs_root(tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / "root").mkdir(mode=0o700)
    manifest = "stack: shop\nrootfs: {base: host}\ncontainers: {x: {rootfs: base, command: [/bin/true]}}\n"
    done = as_nobody(tmp_path / "root", *verb, stdin=manifest)
    assert done.returncode == 1
    assert done.stdout == ""
    first, hint = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert "root" in first
    assert hint == "  hint: run it with sudo"


def test_doctor_says_what_it_can_see(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir(mode=0o700)
    done = as_nobody(tmp_path / "root", "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("bad   root ")
    assert "-> sudo orchestrator doctor" in done.stdout and "Linux" in done.stdout
