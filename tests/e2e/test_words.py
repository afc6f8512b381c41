"""Operators' words on the real runtime: they hold through an apply and through the death of everything of ours."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Stage
from tests.waiting import until

pytestmark = pytest.mark.root

PAIR = """
stack: pair
containers:
  db:
    rootfs: host
    networks: []
    command: [sleep, infinity]
    stop: {signal: KILL}
groups:
  web:
    replicas: 2
    networks: []
    depends_on: [db]
    containers:
      it:
        rootfs: host
        command: [sh, -c, 'rm -f /ready; sleep 0.3; touch /ready; exec sleep infinity']
        stop: {signal: KILL}
        health: {command: [test, -e, /ready], interval: 200ms, timeout: 5s, retries: 100}
"""
DB, ONE, TWO = "container/db-1/db", "container/web-1/it", "container/web-2/it"


def pids(stage: Stage) -> dict[str, int | None]:
    return {ref: row["pid"] for ref, row in stage.ps().items()}


def ours(stage: Stage) -> list[int]:
    """Agent, keeper and supervisor of the stage."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                line = (each / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(stage.root) in line.split(b"\0") and b"import sys" in line:
                found.append(int(each.name))
    return found


def told(stage: Stage, ref: str) -> list[tuple[str, str]]:
    done = stage.run("events", "-o", "json", ref)
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.out.splitlines()]
    return [(each["what"], each["text"]) for each in lines]


def test_a_hold_outlives_an_apply_and_the_death_of_all_of_us(stage: Stage) -> None:
    file = stage.write("pair.yaml", PAIR)
    stage.run("apply", "-f", file)
    before = pids(stage)
    assert "stopped db-1/db" in stage.run("stop", "db").err
    assert pids(stage) == {**before, DB: None}, "what needs it went on"
    held = stage.ps()[DB]["held"]
    assert held and f". {DB}: {held}" in stage.run("apply", "-f", file).err
    for pid in ours(stage):
        os.kill(pid, signal.SIGKILL)
    stage.run("apply", "-f", file)  # brings us back
    os.kill(before[ONE] or 0, signal.SIGKILL)
    until(lambda: any(what == "exited" for what, _ in told(stage, "web-1")))
    stage.run("wait", "web-1", "--for", "running", "--timeout", "1s", code=1)
    assert pids(stage) == {**before, DB: None, ONE: None}, "it waits for what it needs"
    assert "held" in stage.run("status", code=1).out
    stage.run("start", "db")
    stage.run("wait", "web", "pair")
    after = pids(stage)
    assert after[DB] and after[ONE] and after[TWO] == before[TWO]
    assert [what for what, _ in told(stage, "db")] == ["started", "held", "stopped", "released", "started"]
    assert ("exited", "signal 9") in [
        (what, text.partition(" after")[0]) for what, text in told(stage, "web-1")
    ]


def test_a_restart_takes_one_instance_after_the_other_and_leaves_others_alone(stage: Stage) -> None:
    stage.run("apply", "-f", stage.write("pair.yaml", PAIR))
    before = pids(stage)
    done = stage.run("restart", "web")
    after = pids(stage)
    assert after[DB] == before[DB] and not {after[ONE], after[TWO]} & set(before.values())
    lines = [line.split() for line in done.err.splitlines() if line.startswith("container/web")]
    first = lines.index([ONE, "healthy"])
    assert first < lines.index([TWO, "stopped"]), done.err
    stage.run("restart", "db", "--no-wait")
    until(lambda: pids(stage)[DB] not in (None, before[DB]))
    assert {ref: pid for ref, pid in pids(stage).items() if ref != DB} == {ONE: after[ONE], TWO: after[TWO]}


def test_a_suspended_stack_is_left_as_it_is_until_it_is_resumed(stage: Stage) -> None:
    file = stage.write("pair.yaml", PAIR)
    stage.run("apply", "-f", file)
    stage.run("suspend", "pair")
    os.kill(pids(stage)[DB] or 0, signal.SIGKILL)
    stage.edit("pair.yaml", "replicas: 2", "replicas: 1")
    assert "nothing is done until `orchestrator resume pair`" in stage.run("apply", "-f", file).err
    stage.run("wait", "pair", code=1)
    assert pids(stage)[DB] is None and pids(stage)[TWO] is not None
    stage.run("resume", "pair")
    after = pids(stage)
    assert after.keys() == {DB, ONE} and after[DB]
    results = [
        row["result"] for row in json.loads(stage.run("history", "pair", "-o", "json").out)["revisions"]
    ]
    assert results == ["settled", "settled"]
