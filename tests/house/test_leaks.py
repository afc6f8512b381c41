"""The leak check itself can fail: each kind of thing that it watches is seen when it appears."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import leaks


@pytest.mark.root
def test_mount_left_behind_is_named(tmp_path: Path) -> None:
    before = leaks.snapshot()
    subprocess.run(["mount", "-t", "tmpfs", "leak", str(tmp_path)], check=True)
    try:
        assert leaks.leaked(before, patience=0) == [f"mount: {tmp_path}"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert leaks.leaked(before, patience=0) == []


@pytest.mark.root
def test_nft_table_left_behind_is_named() -> None:
    before = leaks.snapshot()
    subprocess.run(["nft", "add", "table", "ip", "orchestrator_leaktest"], check=True)
    try:
        assert leaks.leaked(before, patience=0) == ["nft table: table ip orchestrator_leaktest"]
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "orchestrator_leaktest"], check=True)


@pytest.mark.root
def test_process_left_behind_is_named() -> None:
    before = leaks.snapshot()
    left = subprocess.Popen(
        ["sh", "-c", "read line; exit 0 # orchestrator.supervisor"], stdin=subprocess.PIPE
    )
    try:
        found = leaks.leaked(before, patience=0)
        assert len(found) == 1
        assert found[0].startswith(f"process: {left.pid} ")
    finally:
        left.communicate()


@pytest.mark.root
def test_cgroup_left_behind_is_named() -> None:
    parent = next(
        p for p in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")) if (p / "cgroup.procs").exists()
    )
    left = parent / "orchestrator-leaktest"
    before = leaks.snapshot()
    left.mkdir()
    try:
        assert leaks.leaked(before, patience=0) == [f"cgroup: {left}"]
    finally:
        left.rmdir()
