"""kill -9 of everything of ours, at random, while containers count aloud: the engine of the crash test and of `make soak`.

In: a root, numbers, a seed. Out: what was done and what was found. After any round the same must hold: steady containers
keep their pids, nothing is there twice, every end of a killed container is told truly, no line of a log is missing.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from orchestrator.app import App
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.plan.changes import Policy
from orchestrator.supervisor import logs

REPOSITORY = Path(__file__).parents[2]
NAME = "storm"
# Perl is on every Debian, small, and needs no process to pause.
COUNT = "$| = 1; my $i = 0; while (1) { print $i++, qq(\\n); select(undef, undef, undef, PAUSE); }"

STACK = """
stack: storm
groups:
  steady:
    replicas: {steady}
    networks: []
    containers:
      count:
        rootfs: host
        command: [perl, -e, '{count}']
        limits: {{memory: {memory}MiB}}
        stop: {{signal: KILL}}
  mortal:
    replicas: {mortal}
    networks: []
    containers:
      count:
        rootfs: host
        command: [perl, -e, '{count}']
        limits: {{memory: {memory}MiB}}
        stop: {{signal: KILL}}
"""


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Storm:
    """One instance under fire. `pause`: seconds between two lines of each container."""

    root: Path
    steady: int
    mortal: int
    seed: int
    pause: float = 0.05
    chance: random.Random = field(init=False)
    done: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    _memory: int = 64
    _pids: dict[str, int] = field(default_factory=dict)
    _tip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.app = App.open(str(self.root))

    def __enter__(self) -> Storm:
        self.apply()
        self._pids = {ref: pid for ref, pid in self.pids().items() if "steady" in ref}
        self._tip = sorted(ref for ref in self.pids() if "mortal" in ref)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            self._command("delete", NAME, "--yes", "--prune-data").wait(120)
        self.stop()

    def stop(self) -> None:
        from orchestrator.supervisor.client import Supervisor

        Supervisor(self.app.layout).stop()

    # what happens

    def round(self) -> None:
        """One act of violence, and perhaps a breath."""
        acts: list[tuple[int, Callable[[], None]]] = [
            (30, lambda: self._kill("agent")),
            (20, lambda: self._kill("supervisor")),
            (15, lambda: self._kill("keeper")),
            (10, lambda: self._kill("keeper", "supervisor")),
            (5, lambda: self._kill("supervisor", "agent")),
            (5, lambda: self._kill("agent", "supervisor", "keeper")),
            (7, self._command_dies),
            (3, self._freeze),
            (5, self._container_dies),
        ]
        self.chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()
        if self.chance.random() < 0.5:
            time.sleep(self.chance.random() * 0.1)

    def _kill(self, *names: str) -> None:
        self.done["+".join(names)] += 1
        for pid in [self._pid(name) for name in names]:
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _command_dies(self) -> None:
        self.done["apply"] += 1
        self._write()
        command = self._command("apply", "-f", str(self._file))
        time.sleep(self.chance.random() * 0.7)
        command.kill()
        command.wait()

    def _freeze(self) -> None:
        """Long enough for somebody to believe that it is dead."""
        name = self.chance.choice(["agent", "supervisor", "keeper"])
        self.done[f"stop {name}"] += 1
        pid = self._pid(name)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.3)
                os.kill(pid, signal.SIGCONT)

    def _container_dies(self) -> None:
        """The one that lived longest; nobody of ours is killed until its end is told."""
        self.done["container"] += 1
        self.recover()
        ref = self._tip.pop(0)
        self._tip.append(ref)
        found = self._container(ref)
        before, pid = len(found.exits) and found.exits[-1].ended, found.pid
        if pid is None:
            raise Broken(f"{ref} does not run: {found.exits[-1:]}")
        os.kill(pid, signal.SIGKILL)
        if self.chance.random() < 0.5:
            self._kill(self.chance.choice(["agent", "supervisor", "keeper"]))
        self.recover()
        self._until(
            lambda: self._container(ref).phase is Phase.RUNNING and self._container(ref).pid != pid, ref
        )
        last = self._container(ref).exits[-1]
        if last.ended == before or last.signal not in (signal.SIGKILL, None) or last.code is not None:
            raise Broken(f"{ref} was killed, and told is {last}")
        self.unknown += last.signal is None

    # what must hold

    def recover(self) -> None:
        """Somebody uses the tool: whatever is dead by now is there again."""
        self.app.world.runtime.observe(NAME)
        self.app.ensure_agent()

    def check(self) -> None:
        """Settled within seconds, then nothing to do; nobody lost its pid; nothing is there twice."""
        self.apply()
        plan = self.app.plan(self._stack(), Policy())
        if not plan.empty or plan.failures:
            raise Broken(f"the plan is not empty: {[(str(c.ref), c.reason) for c in plan.changes]}")
        found = {ref: pid for ref, pid in self.pids().items() if "steady" in ref}
        if found != self._pids:
            raise Broken(f"pids changed: {set(found.items()) ^ set(self._pids.items())}")
        self._alone()
        log = (self.app.layout.run / "keeper.log").read_text()
        if "Traceback" in log:
            raise Broken(f"a fault of ours stands in the log: {log[-3000:]}")

    def _alone(self) -> None:
        """Each container's cgroup holds one process, ours, and there are as many cgroups as containers."""
        base = _unified() / self.app.layout.cgroup / NAME
        held = [each.read_text().split() for each in base.glob("*/*/cgroup.procs")]
        pids = sorted(self.pids().values())
        if sorted(int(pid) for each in held for pid in each) != pids:
            raise Broken(f"processes {held} are not the containers' {pids}")

    def lines(self) -> int:
        """How many lines all containers wrote; Broken where one is missing or there twice."""
        total = 0
        for ref in sorted(self.pids()):
            total += self._counted(Ref.parse(ref))
        return total

    def _counted(self, ref: Ref) -> int:
        numbers = [int(each.text) for each in logs.read(str(self.app.layout.logs(NAME, ref)))]
        for earlier, later in pairwise(numbers):
            if later != earlier + 1 and not (later == 0 and "mortal" in ref.name):
                raise Broken(f"{ref}: line {later} comes after {earlier}")
        return len(numbers)

    def resources(self) -> dict[str, str]:
        """What our processes hold, by name: memory and descriptors."""
        found = {}
        for name in ("agent", "supervisor", "keeper"):
            pid = self._pid(name)
            status = Path(f"/proc/{pid}/status").read_text()
            size = re.search(r"VmRSS:\s+(\d+) kB", status)
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            found[name] = f"{int(size[1]) // 1024 if size else '?'} MiB resident, {descriptors} descriptors"
        return found

    # parts

    def apply(self) -> None:
        self._write()
        command = self._command("apply", "-f", str(self._file), "--timeout", "60s")
        out, err = command.communicate(timeout=90)
        if command.returncode or "Traceback" in err:
            raise Broken(f"apply ended with {command.returncode}\n{out}{err}")

    def pids(self) -> dict[str, int]:
        found = {str(each.ref): each.pid for each in self._containers() if each.pid}
        wanted = self.steady + self.mortal
        if len(found) != wanted:
            raise Broken(f"{len(found)} of {wanted} containers run")
        return found

    def _containers(self) -> list[Observation]:
        found = self.app.observe_containers(NAME)
        return [each for each in found if each.ref.kind is Kind.CONTAINER]

    def _container(self, ref: str) -> Observation:
        found = [each for each in self._containers() if str(each.ref) == ref]
        if len(found) != 1:
            raise Broken(f"there are {len(found)} of {ref}")
        return found[0]

    def _until(self, condition: Callable[[], bool], ref: str) -> None:
        deadline = time.monotonic() + 90  # back-off may be long by now
        while not condition():
            if time.monotonic() > deadline:
                raise Broken(f"{ref} does not come back: {self._container(ref)}")
            time.sleep(0.05)

    def _pid(self, name: str) -> int | None:
        """From its lock, where somebody holds that."""
        path = self.app.layout.run / f"{name}.lock"
        with suppress(OSError, ValueError):
            pid = int(path.read_text())
            comm = Path(f"/proc/{pid}/comm").read_text().strip()
            return pid if comm == f"orc-{name}" else None
        return None

    @property
    def _file(self) -> Path:
        return self.root / "storm.yaml"

    def _write(self) -> None:
        """Half of the time the same, half of the time with another limit, which changes live."""
        self._memory = self.chance.choice([self._memory, 64, 80, 96])
        count = COUNT.replace("PAUSE", str(self.pause))
        self.root.mkdir(parents=True, exist_ok=True)
        text = STACK.format(steady=self.steady, mortal=self.mortal, count=count, memory=self._memory)
        self._file.write_text(text)

    def _stack(self) -> object:
        loaded = self.app.load([str(self._file)], [], os.environ, None)
        stack, _ = self.app.resolve(loaded.manifests[0])
        return stack

    def _command(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "--root", str(self.root), *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _unified() -> Path:
    found = re.search(r"^\S+ (\S+) cgroup2 ", Path("/proc/mounts").read_text(), re.M)
    assert found is not None
    return Path(found[1])
