"""The agent as users meet it: started by apply, kept by the keeper, asked, stopped; and two who apply at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ports.layout import Layout
from orchestrator.state.locks import StackLock
from tests.e2e.conftest import REPOSITORY, Stage
from tests.waiting import until

pytestmark = pytest.mark.root

TWO = """
stack: two
groups:
  calm:
    replicas: 2
    networks: []
    containers:
      it: {rootfs: host, command: [sleep, infinity], stop: {signal: KILL}, limits: {memory: 64MiB}}
"""
SLOW = """
stack: two
containers:
  slow:
    rootfs: host
    networks: []
    command: [sh, -c, 'rm -f /ready; sleep 3; touch /ready; exec sleep infinity']
    stop: {signal: KILL}
    health: {command: [test, -e, /ready], interval: 200ms, timeout: 5s, retries: 100}
"""


def begin(stage: Stage, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *("nsenter", f"--net=/run/netns/{stage.netns}", "--", sys.executable, "-m", "orchestrator"),
            *("--root", str(stage.root), *arguments),
        ],
        cwd=stage.folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def status(stage: Stage, code: int = 0) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(stage.run("agent", "--status", "-o", "json", code=code).out)[
        "agent"
    ]
    return found


def test_apply_starts_it_and_whatever_dies_comes_back(stage: Stage) -> None:
    stage.write("two.yaml", TWO)
    assert status(stage, code=1) is None
    stage.run("apply", "-f", "two.yaml")
    agent = status(stage)
    assert agent and agent["stacks"]["two"]["standing"] == "settled"
    before = stage.ps()
    victim, other = "container/calm-1/it", "container/calm-2/it"
    os.kill(before[victim]["pid"], signal.SIGKILL)
    until(lambda: (after := stage.ps())[victim]["phase"] == "running" and after[victim]["restarts"] == 1)
    assert stage.ps()[other]["pid"] == before[other]["pid"]
    os.kill(int((stage.root / "run/supervisor.lock").read_text()), signal.SIGKILL)
    until(lambda: stage.run("agent", "--status"))
    time.sleep(1.0)  # the agent listens to the next supervisor by now
    os.kill(before[other]["pid"], signal.SIGKILL)
    until(lambda: stage.ps()[other]["restarts"] == 1, seconds=5)  # sooner than it looks anyway
    os.kill(agent["pid"], signal.SIGKILL)
    until(
        lambda: (
            (found := json.loads(begin_and_read(stage, "agent", "--status", "-o", "json")))["agent"]
            and found["agent"]["pid"] != agent["pid"]
        )
    )
    assert "running" in stage.run("ps", "two").out


def begin_and_read(stage: Stage, *arguments: str) -> str:
    """What it prints, whatever its exit code is."""
    return begin(stage, *arguments).communicate(timeout=30)[0]


def test_stopped_by_word_it_stays_so_until_the_next_apply(stage: Stage) -> None:
    stage.write("two.yaml", TWO)
    stage.run("apply", "-f", "two.yaml")
    before = stage.ps()
    stage.run("agent", "--stop")
    victim = "container/calm-1/it"
    os.kill(before[victim]["pid"], signal.SIGKILL)
    until(lambda: stage.ps()[victim]["phase"] == "exited")
    assert stage.run("agent", "--status", code=1).out.startswith("no agent runs here")
    assert stage.ps()[victim]["exit"] == "signal 9"
    stage.run("apply", "-f", "two.yaml")
    assert stage.ps()[victim]["phase"] == "running" and status(stage)


def test_in_the_foreground_there_is_one_and_it_ends_by_a_signal(stage: Stage) -> None:
    stage.write("two.yaml", TWO)
    stage.run("apply", "-f", "two.yaml", "--once")
    assert status(stage, code=1) is None
    first = begin(stage, "agent")
    try:
        until(lambda: Path(stage.root, "run/agent.sock").exists())
        refused = stage.run("agent", code=4)
        assert f"pid {first.pid}" in refused.err and "agent --stop" in refused.err
        pid = stage.ps()["container/calm-1/it"]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: stage.ps()["container/calm-1/it"]["pid"] not in (pid, None))
    finally:
        first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    assert stage.ps()["container/calm-1/it"]["phase"] == "running"


def test_a_second_apply_takes_its_turn_and_names_the_holder(stage: Stage) -> None:
    stage.write("two.yaml", TWO)
    stage.run("apply", "-f", "two.yaml")
    layout = Layout.at(stage.root)
    with StackLock(layout.lock("two"), stack="two", command="apply two --once").acquire(wait=True, timeout=5):
        refused = stage.run("apply", "-f", "two.yaml", "--no-wait", code=4)
        assert f"process {os.getpid()} (apply two --once)" in refused.err
        stage.edit("two.yaml", "64MiB", "96MiB")
        waiting = begin(stage, "apply", "-f", "two.yaml")
        time.sleep(1.5)
        assert waiting.poll() is None
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, out + err
    assert "waits its turn" in err and "apply two --once" in err
    assert json.loads(stage.run("inspect", "calm-1", "-o", "json").out)["limits"]["memory"] == 96 << 20


def test_a_newer_revision_overtakes_and_ctrl_c_leaves_the_agent_at_work(stage: Stage) -> None:
    stage.write("slow.yaml", SLOW)
    first = begin(stage, "apply", "-f", "slow.yaml")
    until(lambda: "container/slow-1/slow" in stage.ps())
    second = begin(stage, "apply", "-f", "slow.yaml", "--no-wait")
    assert second.wait(20) == 0
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=20)
    assert first.returncode == 130 and "the agent goes on" in err, out + err
    until(lambda: stage.ps()["container/slow-1/slow"]["health"] == "healthy")
    third = begin(stage, "apply", "-f", "slow.yaml")
    third.wait(30)
    stage.edit("slow.yaml", "sleep 3", "sleep 30")
    overtaken = begin(stage, "apply", "-f", "slow.yaml")
    until(lambda: stage.ps()["container/slow-1/slow"]["health"] == "starting")
    stage.edit("slow.yaml", "sleep 30", "sleep 0")
    stage.run("apply", "-f", "slow.yaml")
    out, err = overtaken.communicate(timeout=20)
    assert overtaken.returncode == 4 and "took over" in err, out + err
