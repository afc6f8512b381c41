"""A client with newer code than the supervisor that answers has it renewed, and nothing that runs is touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.supervisor_lab import gone, until

pytestmark = pytest.mark.root

SCRIPT = """
import json, sys
from orchestrator.errors import HostError
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import program as ops, start
from orchestrator.supervisor.client import LogTarget, Supervisor

layout = Layout.at(sys.argv[1])
client = Supervisor(layout)
match sys.argv[2]:
    case "launch":
        client.ensure()
        run = ops.Execute(argv=("sleep", "1000"), env=(("PATH", "/usr/bin"),))
        logs = LogTarget(folder=f"{sys.argv[1]}/logs", max_size=1 << 20, files=2)
        client.launch("c", ops.Program(operations=(run,)), logs=logs, journal=f"{sys.argv[1]}/journal")
    case "ensure":
        try:
            client.ensure()
        except HostError as error:
            print(json.dumps(error.message))
            sys.exit(1)
    case "stop":
        client.stop()
        sys.exit(0)
state = client.states(["c"])["c"]
print(json.dumps([start.answer(str(layout.supervisor_socket))["pid"], state.pid, [str(e) for e in state.exits]]))
"""


def _ask(library: Path, root: Path, verb: str, *prefix: str) -> Any:
    command = [*prefix, sys.executable, "-c", SCRIPT, str(root), verb]
    env = {**os.environ, "PYTHONPATH": str(library)}
    done = subprocess.run(
        command, env=env, cwd=library, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def test_newer_code_renews_the_supervisor_under_running_containers(tmp_path: Path) -> None:
    library, root = tmp_path / "library", tmp_path / "root"
    shutil.copytree(Path(__file__).parents[2] / "orchestrator", library / "orchestrator")
    pid = None
    try:
        before, pid, _ = _ask(library, root, "launch")
        with open(library / "orchestrator/supervisor/facts.py", "a") as file:
            file.write("\n# newer\n")
        after, same, exits = _ask(library, root, "ensure")
        assert after != before
        assert (same, exits) == (pid, [])
        assert _ask(library, root, "ensure")[0] == after

        stranger = _ask(library, root, "ensure", "unshare", "--mount")
        assert stranger == f"this process is in another mount namespace than the supervisor (pid {after})"

        os.kill(pid, signal.SIGKILL)
        until(lambda: _ask(library, root, "ensure")[1] is None, what="the end is seen")
        assert _ask(library, root, "ensure")[2] == ["signal 9"]
    finally:
        if pid is not None and not gone(pid):
            os.kill(pid, signal.SIGKILL)
        _ask(library, root, "stop")
