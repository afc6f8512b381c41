"""What the documentation promises of running stacks, seen through the real command."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.e2e.conftest import Stage

pytestmark = pytest.mark.root

SLEEPER = """\
stack: one
rootfs: {base: host}
containers:
  app:
    rootfs: base
    command: [/bin/sh, -c, "echo to stdout; echo to stderr >&2; exec sleep infinity"]
    env: {WORD: inside}
    networks: []
    limits: {memory: 32MiB, pids: 20}
    stop: {grace: 1s}
"""


def test_quickstart_answers_from_every_replica_on_loopback(stage: Stage) -> None:
    stage.run("apply", "-f", "quickstart.yaml", PORT="18080")
    answers = {stage.curl("http://127.0.0.1:18080/").out for _ in range(12)}
    assert {f"hello from the quickstart, said by web-{n}\n" for n in (1, 2, 3)} == answers
    seed = stage.ps()["container/seed-1/seed"]
    assert (seed["phase"], seed["exit"]) == ("exited", "exit 0")


def test_networks_keep_strangers_apart(stage: Stage) -> None:
    stage.run("apply", "-f", "networks.yaml", PORT="18081")
    assert stage.curl("http://127.0.0.1:18081/").code == 0
    reach = """import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)
except OSError:
    sys.exit(1)
"""
    stage.run("exec", "edge", "/usr/bin/python3", "-c", reach, "api", "8000")
    stage.run("exec", "visitor", "/usr/bin/python3", "-c", reach, "edge", "80")
    api = stage.ps()["container/api-1/api"]["address"]
    stage.run("exec", "visitor", "/usr/bin/python3", "-c", reach, api, "8000", code=1)
    stage.run("exec", "hermit", "/usr/bin/python3", "-c", reach, api, "8000", code=1)


def test_changed_limit_keeps_the_process_and_is_read_back_from_the_kernel(stage: Stage) -> None:
    name = stage.write("one.yaml", SLEEPER)
    stage.run("apply", "-f", name)
    pid = stage.ps()["container/app-1/app"]["pid"]
    stage.edit(name, "memory: 32MiB", "memory: 48MiB")
    planned = stage.run("plan", "-f", name)
    assert re.search(
        r"~ +container/app-1/app +update .*\n +limits\.memory +32MiB -> 48MiB +one\.yaml:9", planned.out
    )
    stage.run("apply", "-f", name)
    assert stage.ps()["container/app-1/app"]["pid"] == pid
    limits = json.loads(stage.run("inspect", "app", "--output", "json").out)["limits"]
    assert (limits["memory"], limits["pids"]) == (48 * 1024**2, 20)


def test_logs_exec_and_exit_codes(stage: Stage) -> None:
    stage.run("apply", "-f", stage.write("one.yaml", SLEEPER))
    assert set(stage.run("logs", "app").out.splitlines()) == {"to stdout", "to stderr"}
    assert stage.run("logs", "--tail", "1", "app").out.count("\n") == 1
    assert stage.run("exec", "app", "sh", "-c", "echo $WORD; exit 7", code=7).out == "inside\n"
    assert stage.run("exec", "app", "cat", stdin="through the pipe\n").out == "through the pipe\n"
    assert stage.run("exec", "app", "sh", "-c", "kill -9 $$", code=137).out == ""
    missing = stage.run("exec", "app", "no-such", code=127)
    assert (missing.out, missing.err) == (
        "",
        'error: container/app-1/app: command "no-such" not found in rootfs "base"\n',
    )
    assert "is not executable" in stage.run("exec", "app", "/etc/passwd", code=126).err
    assert "is a directory" in stage.run("exec", "app", "/etc", code=126).err


def test_no_descriptor_of_ours_is_inside(stage: Stage) -> None:
    stage.run("apply", "-f", stage.write("one.yaml", SLEEPER))
    pid = stage.ps()["container/app-1/app"]["pid"]
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"


def test_delete_by_name_keeps_volumes_until_told_otherwise(stage: Stage) -> None:
    stage.run("apply", "-f", "volumes-and-mounts.yaml")
    (stage.folder / "volumes-and-mounts.yaml").rename(stage.folder / "gone")
    done = stage.run("delete", "storage")
    assert "volume/diary" in done.err + done.out
    assert list(Path(stage.root).rglob("today")), "the volume's data went with the stack"
    (stage.folder / "gone").rename(stage.folder / "volumes-and-mounts.yaml")
    stage.run("apply", "-f", "volumes-and-mounts.yaml")
    stage.run("delete", "storage", "--prune-data")
    assert not list(Path(stage.root).rglob("today"))


def test_command_that_is_not_in_the_rootfs_fails_and_names_both(stage: Stage) -> None:
    name = stage.write("one.yaml", SLEEPER.replace("[/bin/sh, -c,", "[/bin/no-such-shell, -c,"))
    done = stage.run("apply", "-f", name, "--timeout", "15s", code=1)
    assert "/bin/no-such-shell" in done.err
    assert "base" in done.err


def test_bad_manifest_touches_nothing_that_runs(stage: Stage) -> None:
    name = stage.write("one.yaml", SLEEPER)
    stage.run("apply", "-f", name)
    before = stage.ps()
    stage.write(name, SLEEPER.replace("rootfs: base", "rootfs: bas").replace("pids: 20", "pids: many"))
    done = stage.run("apply", "-f", name, code=2)
    assert done.err.count("error[ORC") == 2, done.err
    assert "one.yaml:5" in done.err
    assert stage.ps() == before
