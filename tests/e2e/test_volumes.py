"""The `volume` verbs on real volumes: looked at, out and in again, pruned; and data that no edit takes away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Stage

pytestmark = pytest.mark.root

STACK = """\
stack: v
volumes: {data: {}, own: {per: instance}}
groups:
  w:
    replicas: 2
    networks: []
    containers:
      c:
        rootfs: host
        command: [sleep, "100000"]
        mounts: [{volume: data, target: /data}, {volume: own, target: /own}]
        stop: {signal: KILL}
"""


@pytest.fixture
def v(stage: Stage) -> Iterator[Stage]:
    stage.write("v.yaml", STACK)
    stage.run("apply", "-f", "v.yaml", "--timeout", "1m")
    yield stage


def listed(stage: Stage) -> dict[str, dict[str, Any]]:
    found = json.loads(stage.run("volume", "ls", "--output", "json").out)
    return {each["ref"]: each for each in found["volumes"]}


def inside(stage: Stage, name: str, line: str) -> str:
    return stage.run("exec", name, "--", "sh", "-c", line).out.strip()


def test_out_and_in_again(v: Stage) -> None:
    inside(
        v,
        "w-1",
        "echo kept >/data/a; ln /data/a /data/b; chown 999:998 /data; chmod 0751 /data; ln -s a /data/l",
    )
    told = v.run("volume", "backup", "v/data", "-o", "data.tar")
    assert "warning: container/w-1/c, container/w-2/c may be writing to v/data" in told.err
    assert "is mounted by container/w-1/c" in v.run("volume", "restore", "v/data", "data.tar", code=4).err
    v.run("stop", "w-1", "w-2")
    assert "holds data" in v.run("volume", "restore", "v/data", "data.tar", code=2).err
    (v.folder / "broken.tar").write_bytes((v.folder / "data.tar").read_bytes()[:700] + b"x" * 4000)
    assert (
        "error: the tar stream: "
        in v.run("volume", "restore", "v/data", "broken.tar", "--replace", code=1).err
    )
    inside_data = v.root / "state/volumes/v/data/data"
    assert (inside_data / "a").read_text() == "kept\n", "what could not be restored changes nothing"
    (inside_data / "a").unlink()
    (inside_data / "more").touch()
    v.run("volume", "restore", "v/data", "data.tar", "--replace")
    v.run("start", "w-1", "w-2")
    assert inside(v, "w-1", "cat /data/b; stat -c '%u:%g %a' /data; ls /data; stat -c %h /data/a") == (
        "kept\n999:998 751\na\nb\nl\n2"
    )


def test_who_has_what(v: Stage) -> None:
    found = listed(v)
    assert set(found) == {"v/data", "v/own.w-1", "v/own.w-2"}
    assert found["v/data"]["users"] == ["container/w-1/c", "container/w-2/c"]
    assert {each["state"] for each in found.values()} == {"in use"}
    inside(v, "w-1", "echo one >/own/x")
    assert inside(v, "w-2", "ls /own") == ""
    assert "own.w-1" in v.run("volume", "inspect", "own.w-1").out
    assert "no volume is called 'nope'" in v.run("volume", "inspect", "nope", code=2).err


def test_only_what_nobody_wishes_is_pruned(v: Stage) -> None:
    inside(v, "w-2", "echo two >/own/x")
    v.edit("v.yaml", "replicas: 2", "replicas: 1")
    v.run("apply", "-f", "v.yaml", "--timeout", "1m", "--allow-prune")
    assert listed(v)["v/own.w-2"]["state"] == "kept"
    v.edit("v.yaml", "replicas: 1", "replicas: 2")
    v.run("apply", "-f", "v.yaml", "--timeout", "1m")
    assert inside(v, "w-2", "cat /own/x") == "two", "kept by its name"
    assert "nothing would go" in v.run("volume", "prune", "--dry-run").err
    v.run("delete", "v", "--yes")
    assert set(v.run("volume", "prune", "--dry-run").out.split()[::2]) == {"v/data", "v/own.w-1", "v/own.w-2"}
    assert len(listed(v)) == 3
    v.run("volume", "prune", "--yes")
    assert listed(v) == {}
    assert not (v.root / "state/volumes/v").exists()


def test_memory_and_folders_of_the_host(stage: Stage) -> None:
    media = stage.folder / "media"
    media.mkdir()
    (media / "x").write_text("theirs\n")
    text = STACK.replace("{data: {}, own: {per: instance}}", "{data: {tmpfs: 1MiB}, own: {bind: ./media}}")
    stage.write("v.yaml", text)
    stage.run("apply", "-f", "v.yaml", "--timeout", "1m")
    inside(stage, "w-1", "echo shared >/data/y")
    assert inside(stage, "w-2", "cat /data/y /own/x") == "shared\ntheirs"
    before = inside(stage, "w-1", "cat /proc/1/stat")
    stage.edit("v.yaml", "1MiB", "3MiB")
    stage.run("apply", "-f", "v.yaml", "--timeout", "1m")
    assert inside(stage, "w-1", "stat -f -c '%b %S' /data") == "768 4096"
    assert inside(stage, "w-1", "cat /proc/1/stat").split()[21] == before.split()[21], "nothing restarted"
    assert listed(stage)["v/own"]["backing"] == str(media)
    stage.edit("v.yaml", "data: {tmpfs: 3MiB}", "data: {}")
    stage.run("apply", "-f", "v.yaml", "--timeout", "1m")
    assert inside(stage, "w-1", "ls /data") == ""
    assert inside(stage, "w-1", "cat /proc/1/stat").split()[21] != before.split()[21]
    inside(stage, "w-1", "echo disk >/data/z")
    stage.edit("v.yaml", "data: {}", "data: {tmpfs: 1MiB}")
    stage.run("apply", "-f", "v.yaml", "--timeout", "1m")
    assert inside(stage, "w-2", "ls /data") == ""
    run = stage.root / "run/volumes/v/data"
    assert run.is_mount()
    assert listed(stage)["v/data"]["folder"] == str(run)
    assert "no folder of ours" in stage.run("volume", "restore", "v/data", "v.yaml", code=2).err
    stage.edit("v.yaml", "data: {tmpfs: 1MiB}", "data: {}")
    stage.run("apply", "-f", "v.yaml", "--timeout", "1m")
    assert not run.exists(), "memory that nobody wishes for any more"
    stage.run("delete", "v", "--yes")
    assert (stage.root / "state/volumes/v/data/data/z").read_text() == "disk\n"
    assert listed(stage)["v/data"]["state"] == "kept"
    (media / "x").read_text()
    stage.run("volume", "prune", "--yes")
    assert (media / "x").read_text() == "theirs\n"
    assert listed(stage) == {}
