"""kill -9 of keeper and supervisor at random times: containers go on, no line is lost, every end is told truly."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.supervisor import adoption, facts
from orchestrator.supervisor.container import Container
from tests.kernel.supervisor_lab import Lab, gone, lab, until

pytestmark = pytest.mark.root


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        made.supervisor.ensure()
        yield made


def counting(place: Lab, code: int, stop: Path) -> object:
    """Writes numbered lines until the file `stop` is there, then exits with `code`."""
    script = (
        "import os, sys, time\ni = 0\n"
        f"while not os.path.exists({str(stop)!r}):\n    print('line', i, flush=True); i += 1; time.sleep(0.001)\n"
        f"print('last', i, flush=True)\nsys.exit({code})\n"
    )
    return place.light("/usr/bin/python3", "-c", script)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), what=f"the end of {pid}")


def test_random_kills_touch_no_container(place: Lab, tmp_path: Path) -> None:
    seed = int(os.environ.get("ORCHESTRATOR_SEED", "7"))
    chance, stop = random.Random(seed), tmp_path / "stop"
    pids = {}
    for number in range(4):
        pids[f"c{number}"] = place.launch(f"c{number}", counting(place, number, stop)).pid  # type: ignore[arg-type]
    for _ in range(20):
        keeper, supervisor = place.pids()
        kill(keeper if chance.random() < 0.4 else supervisor)
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.05)
        place.supervisor.ensure()
        assert {id: each.pid for id, each in place.supervisor.states().items()} == pids, f"seed {seed}"
    stop.touch()
    for number in range(4):
        id = f"c{number}"
        assert place.supervisor.wait(id, 10)
        state, lines = place.state(id), place.lines(id)
        assert (state.exits[-1].code, len(state.exits), state.starts) == (number, 1, 1), f"seed {seed}"
        assert lines[-1] == f"last {len(lines) - 1}"
        assert lines[:-1] == [f"line {i}" for i in range(len(lines) - 1)], f"seed {seed}"


def test_an_end_while_the_supervisor_is_dead_is_read_by_the_keeper(place: Lab, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    pid = place.launch("c", counting(place, 42, stop)).pid  # type: ignore[arg-type]
    assert pid is not None
    keeper, supervisor = place.pids()
    os.kill(supervisor, signal.SIGSTOP)  # as good as dead: it reads nothing, reaps nothing
    stop.touch()
    until(lambda: gone(pid), what="the container's end")
    kill(supervisor)
    place.supervisor.ensure()
    assert place.supervisor.wait("c", 10)
    assert place.state("c").exits[-1].code == 42
    lines = place.lines("c")
    assert lines[-1] == f"last {len(lines) - 1}"
    assert place.pids()[0] == keeper
    until(lambda: os.listdir(place.layout.run / "orphans") == [], what="the orphan's file to be taken away")


def test_an_end_while_both_are_dead_is_unknown(place: Lab, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    pid = place.launch("c", counting(place, 3, stop)).pid  # type: ignore[arg-type]
    assert pid is not None
    keeper, supervisor = place.pids()
    kill(keeper)
    kill(supervisor)
    stop.touch()
    until(lambda: not Path(f"/proc/{pid}").exists(), what="the container to be reaped by init")
    place.supervisor.ensure()
    last = place.state("c").exits[-1]
    assert (last.code, last.signal, last.error, last.success) == (None, None, None, False)


def test_both_killed_and_started_again_adopt_what_lives(place: Lab, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    first = place.launch("c", counting(place, 0, stop))  # type: ignore[arg-type]
    for pid in place.pids():
        kill(pid)
    assert place.state("c") == first  # asking is enough
    assert place.supervisor.signal("c", signal.SIGKILL, stopping=True)
    assert place.supervisor.wait("c", 10)
    assert place.state("c").exits[-1].stopped


def test_more_connections_than_attempts_outlive_a_kill(place: Lab) -> None:
    place.launch("c", place.light("/bin/sleep", "1000"))
    with ThreadPoolExecutor(12) as pool:
        waits = [
            pool.submit(place.supervisor.wait, "c", 0.3) for _ in range(12)
        ]  # each on a connection of its own
        assert not any(each.result() for each in waits)
    kill(place.pids()[1])
    assert list(place.supervisor.states()) == ["c"]


def test_a_watcher_is_told_that_it_missed_something(place: Lab) -> None:
    watcher = place.supervisor
    place.launch("before", place.light("sleep", "60"))
    watcher.changes()
    kill(place.pids()[1])
    until(lambda: watcher.drain() is None, what="the end of the supervisor to be told")
    watcher.changes()
    watcher.signal("before", signal.SIGKILL, stopping=True)
    until(lambda: watcher.drain() == {"before"}, what="the end of an adopted container to be told")


def test_a_stop_that_was_asked_for_is_remembered(place: Lab) -> None:
    place.launch("c", place.light("sleep", "60"))
    place.supervisor.signal("c", signal.SIGURG, stopping=True)
    kill(place.pids()[1])
    place.supervisor.signal("c", signal.SIGKILL, stopping=False)
    assert place.supervisor.wait("c", 10)
    last = place.state("c").exits[-1]
    assert last.stopped
    assert last.signal == signal.SIGKILL


def test_a_pid_of_a_stranger_is_never_adopted_nor_signalled(place: Lab) -> None:
    started = place.launch("c", place.light("sleep", "60")).started or 0.0
    until(lambda: facts.boottime() > started + 0.03, what="another tick of the clock")  # 10 ms each
    stranger = place.launch("stranger", place.light("sleep", "60")).pid
    place.supervisor.stop()
    record = place.layout.run / "containers/c/process.json"
    data = json.loads(record.read_text())
    os.kill(data["pid"], signal.SIGKILL)
    record.write_text(json.dumps({**data, "pid": stranger}))  # as if the number had been given out again
    place.supervisor.ensure()
    assert place.state("c").pid is None
    assert not place.supervisor.signal("c", signal.SIGKILL, stopping=True)
    assert place.state("stranger").pid == stranger


def test_a_record_of_another_boot_is_not_running(place: Lab) -> None:
    pid = place.launch("c", place.light("sleep", "60")).pid
    assert pid is not None
    place.supervisor.stop()
    record = place.layout.run / "containers/c/process.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot": "another"}))
    place.supervisor.ensure()
    assert place.supervisor.states() == {}
    os.kill(pid, signal.SIGKILL)


def test_an_exit_in_the_journal_is_not_told_twice(place: Lab) -> None:
    place.run(place.light("false"))
    place.supervisor.stop()
    record = place.layout.run / "containers/c/process.json"
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "pid": 999999, "ticks": 1}))  # killed between journal and record
    place.supervisor.ensure()
    state = place.state("c")
    assert (state.pid, len(state.exits), state.exits[-1].code) == (None, 1, 1)


def test_a_child_whose_supervisor_died_before_the_record_gives_up(place: Lab) -> None:
    from orchestrator.supervisor.launcher import Birth, Host, launch

    host = Host.read()
    made = launch(
        host,
        json.dumps({"operations": [], "new": [], "cgroup": None, "uid_maps": [], "gid_maps": []}).encode(),
        Birth(),
    )
    os.close(made.go)  # what the kernel does at the supervisor's death
    until(lambda: gone(made.pid), what="its end")
    assert os.waitstatus_to_exitcode(os.waitpid(made.pid, 0)[1]) == 127
    os.close(made.report)
    os.close(made.pidfd)


def test_start_ticks_tell_processes_apart() -> None:
    folder = Container(
        id="x", folder="/nowhere", journal="", logs={}, oom_files=[], cgroup=None, cgroups=[], new=[]
    )
    folder.pid, folder.ticks = os.getpid(), (facts.start_ticks(os.getpid()) or 0) + 1
    assert adoption.pidfd(folder) == -1
    folder.ticks -= 1
    fd = adoption.pidfd(folder)
    assert fd >= 0
    os.close(fd)


def test_nobody_takes_the_right_to_run_from_the_sealed_copy(place: Lab) -> None:
    keeper, supervisor = place.pids()
    with suppress(PermissionError):  # as a root inside can whose program is /proc/self/exe, before Linux 6.3
        os.chmod(f"/proc/{supervisor}/exe", 0)
    kill(supervisor)
    until(place.supervisor.alive, what="the next supervisor")
    assert place.pids()[0] == keeper


def test_the_supervisor_is_back_soon(place: Lab) -> None:
    kill(place.pids()[1])
    begun = time.monotonic()
    until(place.supervisor.alive, what="a new supervisor")
    assert time.monotonic() - begun < 2.0  # 0.2 s when the machine is quiet


def test_a_held_port_outlives_the_supervisor_and_is_free_without_its_keeper(place: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port, name = mine.getsockname()[1], "port:127.0.0.1:1/tcp"
        place.supervisor.hold(name, mine.fileno())

    def free() -> bool:
        with socket.socket() as each, suppress(OSError):
            each.bind(("127.0.0.1", port))
            return True
        return False

    keeper, supervisor = place.pids()
    kill(supervisor)
    place.supervisor.ensure()
    until(lambda: place.supervisor.held() == {name}, what="the next supervisor to know what is held")
    assert not free()
    kill(keeper)
    place.supervisor.ensure()
    until(lambda: place.supervisor.held() == frozenset(), what="the next keeper, who holds nothing")
    assert free()
    with socket.create_server(("127.0.0.1", port)) as mine:
        place.supervisor.hold(name, mine.fileno())
    until(lambda: not free(), what="the keeper to hold it again")
    place.supervisor.let_go([name, "port:unknown"])
    until(free, what="the keeper to let it go")
