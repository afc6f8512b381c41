"""Which files get a volume's project: all that are beneath its folder, and nothing that a link leads to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.drivers.volumes import quota


def test_all_beneath_and_nothing_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    (outside / "theirs").touch()
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").touch()
    (top / "file").touch()
    (top / "link").symlink_to(outside)
    (top / "a/link").symlink_to(outside / "theirs")
    os.mkfifo(top / "fifo")
    found: dict[int, bool] = {}

    def assign(fd: int, project: int, *, folder: bool) -> None:
        found[os.fstat(fd).st_ino] = folder

    monkeypatch.setattr(quota, "_assign", assign)
    quota._assign_all(top, 7)
    wanted = {"": True, "a": True, "a/b": True, "a/b/file": False, "file": False}
    assert found == {(top / name).stat().st_ino: folder for name, folder in wanted.items()}


def test_deeper_than_a_stack_or_a_path_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth, fd = 0, os.open(tmp_path, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d" * 20, dir_fd=fd)
        deeper = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)

    def assign(fd: int, project: int, *, folder: bool) -> None:
        nonlocal depth
        depth += 1

    monkeypatch.setattr(quota, "_assign", assign)
    quota._assign_all(tmp_path, 7)
    assert depth == 401
