"""A container fills the disk of the state folder: looking goes on, and deleting it makes space again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.ports.layout import Layout
from orchestrator.supervisor.client import Supervisor
from tests.e2e.conftest import Stage

pytestmark = pytest.mark.root

FILLER = """\
stack: one
rootfs: {base: host}
networks: {front: {}}
volumes: {data: {}}
groups:
  app:
    networks: [front]
    publish: ["18092:80"]
    containers:
      app:
        rootfs: base
        command: [/bin/sh, -c, "echo up; exec sleep infinity"]
        mounts: [{volume: data, target: /data}]
        stop: {grace: 1s}
"""


@pytest.fixture
def small(stage: Stage) -> Iterator[Stage]:
    """The stage, its root on a file system of 8 MiB."""
    stage.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", stage.root], check=True)
    try:
        yield stage
    finally:
        (stage.root / "fill").unlink(missing_ok=True)
        try:
            stage.run("delete", "-f", "one.yaml", "--prune-data", "--yes")
        finally:
            Supervisor(Layout.at(stage.root)).stop()
            subprocess.run(["umount", "--lazy", stage.root], check=True)


def fill(stage: Stage, folder: Path) -> None:
    with pytest.raises(OSError, match="No space"), (folder / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def marks(stage: Stage) -> list[str]:
    return [each.name for each in Layout.at(stage.root).state.iterdir() if "-deleted" in each.name]


def test_looking_goes_on_and_nothing_new_is_begun(small: Stage) -> None:
    small.run("apply", "-f", small.write("one.yaml", FILLER))
    fill(small, small.root)
    assert small.ps()["container/app-1/app"]["phase"] == "running"
    assert "one " in small.run("ls").out
    assert small.run("logs", "app-1").out == "up\n"
    assert "infinity" in small.run("inspect", "app-1").out
    assert "No changes" in small.run("plan", "-f", "one.yaml").out
    assert small.run("exec", "app-1", "echo", "hi").out == "hi\n"
    small.edit("one.yaml", "echo up", "echo anew")
    refused = small.run("apply", "-f", "one.yaml", code=1).err
    assert f"{Layout.at(small.root).database}: the disk is full" in refused
    assert small.run("logs", "app-1").out == "up\n"


def test_deleting_what_fills_the_disk_is_recorded_with_the_space_it_makes(small: Stage) -> None:
    small.run("apply", "-f", small.write("one.yaml", FILLER))
    small.run("exec", "app-1", "sh", "-c", "cat /dev/zero > /var/fill", code=1)
    done = small.run("delete", "one", "--yes")
    assert "stack one is deleted" in done.out and "warning" not in done.err
    assert marks(small) == []
    assert small.ps() == {}
