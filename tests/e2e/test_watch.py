"""`watch` through the real command: edits reach what runs, and nothing but edits does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import REPOSITORY, Stage

pytestmark = pytest.mark.root

SOON = 20.0
MANIFEST = """\
stack: one
rootfs: {base: host}
configs: {conf: {file: app.conf, on_change: none}}
containers:
  app:
    rootfs: base
    command: [/bin/sh, -c, "exec sleep infinity"]
    networks: []
    limits: {memory: 32MiB, pids: 20}
    mounts:
      - {config: conf, target: /etc/app.conf}
      - {bind: bound.txt, target: /etc/bound.txt, read_only: true}
    stop: {grace: 1s}
"""


@contextmanager
def watching(stage: Stage, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "orchestrator", "--root", str(stage.root), "watch", *arguments)
    with (stage.folder / "told").open("w") as told:
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{stage.netns}", "--", *command],
            cwd=stage.folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=told,
            stderr=told,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def told(stage: Stage) -> str:
    return (stage.folder / "told").read_text()


def limit(stage: Stage) -> Path:
    pid = stage.ps()["container/app-1/app"]["pid"]
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        for name in ("memory", "unified", ""):
            found = Path("/sys/fs/cgroup", name, path.lstrip("/"))
            for file in ("memory.limit_in_bytes", "memory.max"):
                if ("memory" in names.split(",") or number == "0") and (found / file).exists():
                    return found / file
    raise AssertionError("no memory limit of the container")


def test_edits_are_applied_live_and_broken_ones_only_told(stage: Stage) -> None:
    name = stage.write("one.yaml", MANIFEST)
    stage.write("app.conf", "first\n")
    stage.write("bound.txt", "first\n")
    with watching(stage, "-f", name) as process:
        until(lambda: "stack one: settled" in told(stage), "the first apply")
        pid, file = stage.ps()["container/app-1/app"]["pid"], limit(stage)
        stage.edit(name, "32MiB", "48MiB")
        until(lambda: int(file.read_text()) == 48 << 20, "the new limit in the kernel")
        stage.write("new.conf", "second\n")
        (stage.folder / "new.conf").rename(stage.folder / "app.conf")
        until(
            lambda: Path(f"/proc/{pid}/root/etc/app.conf").read_text() == "second\n", "the new config inside"
        )
        until(lambda: told(stage).count("stack one: settled") == 3, told(stage))
        stage.edit(name, "rootfs: base", "rootfs: bas")
        until(lambda: "nothing was changed; waiting for the next edit" in told(stage), "the error")
        assert 'error[ORC110]: container "app" needs rootfs "bas"' in told(stage)
        assert "--> one.yaml:6:13" in told(stage)
        assert stage.ps()["container/app-1/app"]["pid"] == pid
        listed = json.loads(stage.run("watch", "--list", "--output", "json").out)["sources"]
        assert [(each["standing"], each["stacks"]) for each in listed] == [("1 error", {"one": 3})]
        stage.edit(name, "rootfs: bas", "rootfs: base")
        bound = Path(f"/proc/{pid}/root/etc/bound.txt")
        stage.write("bound.txt", "written in place\n")
        assert bound.read_text() == "written in place\n"
        stage.write("new.txt", "another file\n")
        (stage.folder / "new.txt").rename(stage.folder / "bound.txt")
        until(
            lambda: stage.ps()["container/app-1/app"]["pid"] not in (pid, None),
            "a new process for the new file",
        )
        pid = stage.ps()["container/app-1/app"]["pid"]
        assert Path(f"/proc/{pid}/root/etc/bound.txt").read_text() == "another file\n"
        until(lambda: told(stage).count("stack one: settled") == 4, told(stage))
        assert "No changes" in stage.run("plan", "-f", name).out
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SOON) == 130
    assert "Traceback" not in told(stage)
    assert stage.run("watch", "--list").out == "nothing is watched\n"
    assert stage.ps()["container/app-1/app"]["pid"] == pid


def test_source_of_a_killed_command_ends_and_a_kept_one_outlives_the_agent(stage: Stage) -> None:
    name = stage.write("one.yaml", MANIFEST)
    stage.write("app.conf", "first\n")
    stage.write("bound.txt", "first\n")
    with watching(stage, "-f", name):
        until(lambda: "stack one: settled" in told(stage), "the first apply")
    until(lambda: "nothing is watched" in stage.run("watch", "--list").out, "the end of the source")
    file = limit(stage)
    stage.run("watch", "-f", name, "--keep")
    agent = json.loads(stage.run("agent", "--status", "-o", "json").out)["agent"]["pid"]
    os.kill(agent, signal.SIGKILL)
    stage.edit(name, "32MiB", "48MiB")
    until(lambda: int(file.read_text()) == 48 << 20, "the edit, by the next agent")
    stage.run("watch", "--remove", name)
