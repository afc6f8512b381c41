"""The law of restarts holds whoever dies: what counts stands in journals, not in any process of ours."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.plan.restarts import back_off
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import start
from tests.e2e.conftest import Stage, staged
from tests.kernel.supervisor_lab import gone, until

pytestmark = pytest.mark.root

LOOP = """\
stack: loop
rootfs: {base: host}
containers:
  app:
    rootfs: base
    command: [sh, -c, exit 3]
    networks: []
"""


def exits(stage: Stage) -> list[dict[str, Any]]:
    (found,) = json.loads(stage.run("inspect", "app", "--output", "json").out)["incarnations"]
    ends: list[dict[str, Any]] = found["exits"]
    return ends


def test_back_off_goes_on_counting_when_all_of_us_are_killed_between_two_starts() -> None:
    with staged() as stage:
        name = stage.write("loop.yaml", LOOP)
        stage.run("apply", "-f", name, "--timeout", "1s", code=1)
        until(lambda: len(exits(stage)) >= 3, what="three exits")
        layout = Layout.at(stage.root)
        answer = start.answer(str(layout.supervisor_socket))
        assert answer is not None
        pids = [int(path.read_text()) for path in (layout.run / "keeper.lock", layout.agent_lock)]
        for pid in (*pids, answer["pid"]):
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(map(gone, pids)), what="their end")
        stage.run("apply", "-f", name, "--timeout", "1s", code=1)
        until(lambda: len(exits(stage)) >= 4, what="a fourth exit")
        ends = exits(stage)
        waits = [later["started"] - earlier["ended"] for earlier, later in pairwise(ends)]
        assert all(wait >= back_off(number) for number, wait in enumerate(waits, 1)), waits
        assert {end["exit"] for end in ends} == {"exit 3"}


def test_keeper_told_to_end_in_the_middle_of_a_step_stays_away() -> None:
    """As `systemctl stop` of its unit does; the agent is waiting for a stop that takes its time."""
    with staged() as stage:
        stubborn = LOOP.replace(
            "sh, -c, exit 3", "sh, -c, \"trap 'echo heard' TERM; while :; do sleep 0.1; done\""
        )
        name = stage.write("loop.yaml", f"{stubborn}    stop: {{grace: 2s}}\n")
        stage.run("apply", "-f", name)
        stage.write("loop.yaml", f"{stubborn}    stop: {{grace: 2s}}\n    env: {{A: b}}\n")
        stage.run("apply", "-f", name, "--no-wait")
        until(lambda: "heard" in stage.run("logs", "app").out, what="the signal to stop")
        run = Layout.at(stage.root).run
        locks = [run / f"{each}.lock" for each in ("keeper", "agent", "supervisor")]
        pids = [int(lock.read_text()) for lock in locks]
        os.kill(pids[0], signal.SIGTERM)
        until(lambda: all(map(gone, pids)), what="their end")
        assert not any(map(start.locked, locks)), "one of us is back"
        assert stage.run("apply", "-f", name).code == 0


def test_keeper_told_to_end_takes_those_with_it_whom_it_did_not_start() -> None:
    with staged() as stage:
        name = stage.write("loop.yaml", LOOP.replace("exit 3", "sleep 1000"))
        stage.run("apply", "-f", name)
        run = Layout.at(stage.root).run
        locks = [run / f"{each}.lock" for each in ("keeper", "agent", "supervisor")]
        before = [int(lock.read_text()) for lock in locks]
        container = stage.ps()["container/app-1/app"]["pid"]
        os.kill(before[0], signal.SIGKILL)
        until(lambda: gone(before[0]), what="its end")
        stage.run("apply", "-f", name)
        pids = [int(lock.read_text()) for lock in locks]
        assert pids[0] != before[0] and pids[1:] == before[1:]
        os.kill(pids[0], signal.SIGTERM)
        until(lambda: all(map(gone, pids)), what="their end")
        assert not any(map(start.locked, locks)), "one of us is back"
        assert not gone(container)
