"""Edits, kills and crashes in any order on the real runtime: it always settles, and then nothing more is done.

The larger sibling of `tests/properties/test_machine.py`, with few and short runs: each step costs real processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from orchestrator.app import App
from orchestrator.model.observed import Phase as Standing
from orchestrator.plan.changes import Policy
from orchestrator.supervisor.client import Supervisor
from tests.crash.storm import Storm

pytestmark = pytest.mark.root

STACK = """
stack: storm
volumes: {{data: {{}}}}
containers:
  store:
    rootfs: host
    networks: []
    command: [sleep, infinity]
    stop: {{signal: KILL}}
    mounts: [{{volume: data, target: /data}}]
    health: {{command: [test, -d, /data], interval: 500ms, timeout: 5s}}
    env: {{LEVEL: "{level}"}}
  fill:
    rootfs: host
    networks: []
    job: {{}}
    command: [sh, -c, 'echo {level} > /data/{level}']
    mounts: [{{volume: data, target: /data}}]
    depends_on: {{store: healthy}}
groups:
  web:
    replicas: {replicas}
    networks: []
    depends_on: {{fill: completed}}
    containers:
      it: {{rootfs: host, command: [sleep, infinity], stop: {{signal: KILL}}, limits: {{memory: {memory}MiB}}}}
"""


class Stand(Storm):
    """The storm's instance, with a stack of its own."""

    wish = STACK.format(level=1, replicas=1, memory=64)

    def _write(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self._file.write_text(self.wish)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="orc-machine-"))
        self.stand = Stand(self.root, steady=0, mortal=0, seed=0)
        self.app: App = self.stand.app
        self.there = False

    def teardown(self) -> None:
        try:
            if self.there:
                self.it_settles_and_stays_so()
        finally:
            self.stand.__exit__()
            Supervisor(self.app.layout).stop()
            shutil.rmtree(self.root, ignore_errors=True)

    @rule(level=st.integers(1, 3), replicas=st.integers(1, 3), memory=st.sampled_from((64, 96)))
    def edit(self, level: int, replicas: int, memory: int) -> None:
        """Committed, not waited for: what comes next finds it in the middle."""
        self.stand.wish = STACK.format(level=level, replicas=replicas, memory=memory)
        self.stand._write()
        command = self.stand._command("apply", "-f", str(self.stand._file), "--no-wait", "--allow-prune")
        out, err = command.communicate(timeout=60)
        assert command.returncode in (0, 4), out + err
        assert "Traceback" not in err
        self.there = True

    @precondition(lambda self: self.there)
    @rule(names=st.sets(st.sampled_from(("agent", "supervisor", "keeper")), min_size=1))
    def we_die(self, names: set[str]) -> None:
        self.stand._kill(*sorted(names))

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def a_container_dies(self, data: st.DataObject) -> None:
        found = sorted(each.pid for each in self.stand._containers() if each.pid)
        if found:
            with_pid = data.draw(st.integers(0, len(found) - 1))
            try:
                os.kill(found[with_pid], signal.SIGKILL)
            except ProcessLookupError:
                return

    @precondition(lambda self: self.there)
    @rule()
    def it_settles_and_stays_so(self) -> None:
        self.stand.recover()
        self.stand.apply()
        plan = self.app.plan(self.stand._stack(), Policy())  # type: ignore[arg-type]
        assert plan.empty and not plan.failures, [(str(c.ref), c.reason) for c in plan.changes]
        containers = {str(each.ref): each for each in self.stand._containers()}
        assert containers["container/fill-1/fill"].phase is Standing.EXITED
        ids = {ref: (each.id, each.pid) for ref, each in containers.items()}
        runs = self._runs()
        time.sleep(1.0)
        assert self._runs() == runs, "it does more than was asked for"
        assert {str(each.ref): (each.id, each.pid) for each in self.stand._containers()} == ids

    def _runs(self) -> int:
        with self.app._open_store() as store:
            return max((hash(each) for each in store.runs("storm", limit=1)), default=0)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=3,
    stateful_step_count=8,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
