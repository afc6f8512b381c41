"""The supervisor as drivers use it: exits, signals, logs, exec, waiting, many clients at once."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import HostError
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import facts, start, wire
from orchestrator.supervisor import program as ops
from orchestrator.supervisor.client import LaunchError, LogTarget, Supervisor, read_exits
from orchestrator.supervisor.program import Program
from tests.kernel.supervisor_lab import ENV, Lab, gone, lab, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("supervisor")) as made:
        yield made


def do(*command: str) -> Program:
    return Program(operations=(ops.Execute(argv=command, env=ENV),))


def test_exit_codes_and_signals_are_told_and_journaled(place: Lab) -> None:
    state, _ = place.run(place.light("sh", "-c", "exit 7"), "exits")
    assert (state.pid, state.starts, state.exits[-1].code) == (None, 1, 7)
    place.launch("exits", place.light("sleep", "60"))
    assert place.supervisor.signal("exits", signal.SIGKILL, stopping=True)
    assert place.supervisor.wait("exits", 5)
    state = place.state("exits")
    last = state.exits[-1]
    assert (last.code, last.signal, last.stopped, state.starts) == (None, signal.SIGKILL, True, 2)
    assert last.started < last.ended <= facts.boottime()
    assert read_exits(place.journal("exits")) == state.exits
    assert not place.supervisor.signal("exits", signal.SIGKILL, stopping=False)


def test_a_failed_launch_counts_as_an_exit(place: Lab) -> None:
    for _ in range(2):
        with pytest.raises(LaunchError):
            place.launch("never", place.light("no-such"))
    state = place.state("never")
    assert state.starts == 2
    assert [each.error for each in state.exits] == ['command "no-such" not found'] * 2


def test_launching_what_runs_changes_nothing(place: Lab) -> None:
    first = place.launch("twice", place.light("sleep", "60"))
    assert place.launch("twice", place.light("sleep", "60")) == first
    place.supervisor.signal("twice", signal.SIGKILL, stopping=True)


def test_wait_ends_at_its_time(place: Lab) -> None:
    place.launch("waits", place.light("sleep", "60"))
    begun = time.monotonic()
    assert not place.supervisor.wait("waits", 0.1)
    assert 0.1 <= time.monotonic() - begun < 2
    place.supervisor.signal("waits", signal.SIGKILL, stopping=True)
    assert place.supervisor.wait("waits", 5)
    assert place.supervisor.wait("unknown", 5)


def test_every_line_of_both_streams_arrives(place: Lab) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo out $i; echo err $i >&2; done; printf end"
    _, lines = place.run(place.light("sh", "-c", script), "lines")
    for name in ("out", "err"):
        assert [each for each in lines if each.startswith(name)] == [f"{name} {i}" for i in range(1, 2001)]
    assert lines.count("end") == 1
    assert len(lines) == 4001


def test_the_ring_is_bounded_and_keeps_the_newest(place: Lab) -> None:
    target = LogTarget(folder=str(place.folder / "logs/bounded"), max_size=65536, files=2)
    script = "import sys\nfor i in range(60000): print('line', i)"
    place.launch("bounded", place.light("python3", "-c", script), logs=target)
    assert place.supervisor.wait("bounded", 20)
    files = list((place.folder / "logs/bounded").glob("*.log"))
    assert len(files) <= 2
    assert sum(each.stat().st_size for each in files) <= 2 * 65536
    assert place.lines("bounded")[-1] == "line 59999"


def test_forget_drops_an_ended_id_and_refuses_a_running_one(place: Lab) -> None:
    place.launch("forgets", place.light("sleep", "60"))
    with pytest.raises(HostError):
        place.supervisor.forget("forgets")
    place.supervisor.signal("forgets", signal.SIGKILL, stopping=True)
    place.supervisor.wait("forgets", 5)
    place.supervisor.forget("forgets")
    assert "forgets" not in place.supervisor.states()
    assert not (place.layout.run / "containers/forgets").exists()
    place.supervisor.forget("forgets")


def test_changes_wake_a_watcher(place: Lab) -> None:
    client = Supervisor(place.layout)
    try:
        fd = client.changes()
        place.run(place.light("true"), "wakes")
        assert select.select([fd], [], [], 5)[0]
        assert client.drain() == {"wakes"}
        assert not select.select([fd], [], [], 0)[0]
        assert client.drain() == frozenset()
    finally:
        client.close()


def test_a_slow_request_holds_up_no_other(place: Lab) -> None:
    place.launch("slow", place.light("sleep", "60"))
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(place.supervisor.wait, "slow", 30)
        assert pool.submit(place.run, place.light("true"), "quick").result(10)[0].exits[-1].code == 0
        assert not slow.done()
        place.supervisor.signal("slow", signal.SIGKILL, stopping=True)
        assert slow.result(10)


def test_many_threads_launch_at_once(place: Lab) -> None:
    def one(number: int) -> int | None:
        return place.run(place.light("sh", "-c", f"exit {number}"), f"many{number}")[0].exits[-1].code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(40))) == list(range(40))
    _, supervisor = place.pids()
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    assert [each for each in children if gone(int(each))] == []  # no zombies


# exec


@pytest.fixture(scope="module")
def running(place: Lab) -> Lab:
    place.launch("c", place.full("sh", "-c", "echo ready; exec sleep 1000", user="web"))
    return place


def inside(place: Lab, program: Program, timeout: float | None = 10.0) -> tuple[int, str]:
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        code = place.supervisor.exec("c", program, (null, write, write), timeout)
    finally:
        os.close(write)
        os.close(null)
        with open(read) as file:
            text = file.read()
    return code, text


def entered(*command: str, user: str = "web") -> Program:
    return Program(
        operations=(
            ops.ChangeDirectory(path="/tmp"),
            ops.SetIdentity(user=user),
            ops.LimitCapabilities(keep=("CHOWN",)),
            ops.NoNewPrivileges(),
            ops.Execute(argv=command, env=ENV),
        )
    )


def test_exec_is_inside_the_container(running: Lab) -> None:
    code, text = inside(
        running,
        entered(
            "sh", "-c", "hostname; id -u; pwd; echo $HOME; ls /proc/self/fd; cat /proc/self/cgroup; exit 5"
        ),
    )
    assert code == 5
    assert text.splitlines()[:8] == ["lab", "1000", "/tmp", "/home/web", "0", "1", "2", "3"]
    assert text.splitlines()[-1] == "0::/"
    pid = running.state("c").pid
    for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
        _, link = inside(running, entered("readlink", f"/proc/self/ns/{kind}"))
        assert link.strip() == os.readlink(f"/proc/{pid}/ns/{kind}")


def test_exec_tells_signals_and_time(running: Lab) -> None:
    assert inside(running, entered("sh", "-c", "kill -TERM $$"))[0] == 128 + signal.SIGTERM
    begun = time.monotonic()
    assert inside(running, entered("sleep", "60"), 0.2)[0] == 124
    assert time.monotonic() - begun < 5


def test_exec_errors_name_the_command(running: Lab) -> None:
    with pytest.raises(LaunchError) as caught:
        inside(running, entered("no-such"))
    assert caught.value.message == 'command "no-such" not found'
    with pytest.raises(HostError, match="not running"):
        running.supervisor.exec("unknown", entered("true"), (0, 1, 2), None)


def test_an_exec_ends_with_its_client(running: Lab) -> None:
    from orchestrator.supervisor.program import to_wire

    sock = wire.connect(str(running.layout.supervisor_socket))
    payload = json.dumps(to_wire(entered("sleep", "77"))).encode()
    null = os.open("/dev/null", os.O_RDWR)
    wire.send(sock, {"op": "exec", "id": "c", "timeout": None}, payload, fds=(null,) * 3)
    os.close(null)
    procs = running.cgroup / "c/cgroup.procs"
    until(lambda: len(procs.read_text().split()) == 2, what="the exec's process")
    sock.close()
    until(lambda: len(procs.read_text().split()) == 1, what="its end")
    assert running.state("c").pid is not None


def test_an_exec_past_its_time_takes_what_it_started_with_it(running: Lab) -> None:
    script = "exec >/dev/null 2>&1; sleep 77 & sleep 78 & wait"
    assert inside(running, entered("sh", "-c", script), 0.3)[0] == 124
    procs = running.cgroup / "c/cgroup.procs"
    until(lambda: len(procs.read_text().split()) == 1, what="their end")


def with_terminal(*command: str) -> Program:
    first, identity, *rest = entered(*command).operations
    return Program(operations=(first, identity, ops.OpenTerminal(rows=24, columns=80), *rest))


def test_a_terminal_comes_before_the_end_however_quick(running: Lab) -> None:
    for _ in range(30):
        visit = running.supervisor.attach("c", with_terminal("true"))
        assert os.isatty(visit.terminal)
        assert visit.wait() == 0
        visit.close()
    visit = running.supervisor.attach("c", with_terminal("no-such"))
    with pytest.raises(LaunchError, match='command "no-such" not found'):
        visit.wait()
    visit.close()
    with pytest.raises(LaunchError, match="user 'nobody-here'"):
        running.supervisor.attach("c", Program(operations=(ops.SetIdentity(user="nobody-here"),)))
    _, supervisor = running.pids()
    held = {os.path.basename(os.readlink(each)) for each in Path(f"/proc/{supervisor}/fd").iterdir()}
    assert "ptmx" not in held


def test_a_terminal_inside_sees_nothing_of_ours(running: Lab) -> None:
    visit = running.supervisor.attach(
        "c", with_terminal("sh", "-c", "ls -l /proc/self/fd; tty; ps -o tty= $$")
    )
    until(lambda: bool(select.select([visit], [], [], 0)[0]), what="its end")
    text = os.read(visit.terminal, 65536).decode()
    names = [line.split(" -> ")[1] for line in text.splitlines() if " -> " in line]
    assert names[0].startswith("/dev/pts/") and names[3].startswith("/proc/")
    assert names[:3] == [names[0]] * 3 and len(names) == 4
    assert text.split()[-2:] == [names[0], names[0].removeprefix("/dev/")]
    visit.close()


def test_a_terminal_is_only_taken_from_the_kernel(place: Lab) -> None:
    """A rootfs without devpts that has a file `ptmx` in its place."""
    whole = place.full("sleep", "60")
    operations = [
        ops.MakeDirectory(path="/dev/pts") if getattr(each, "type", "") == "devpts" else each
        for each in whole.operations
    ]
    program = Program(new=whole.new, cgroup=whole.cgroup, operations=tuple(operations))
    place.launch("no-pts", program)
    with pytest.raises(LaunchError, match="/dev/pts inside is not a devpts file system"):
        place.supervisor.attach("no-pts", with_terminal("true"))
    place.supervisor.signal("no-pts", signal.SIGKILL, stopping=True)
    assert place.supervisor.wait("no-pts", 10)


def test_exec_is_fast(running: Lab) -> None:
    times = []
    for _ in range(20):
        begun = time.monotonic()
        assert inside(running, entered("true"))[0] == 0
        times.append(time.monotonic() - begun)
    assert sorted(times)[10] < 0.05  # 5 ms when the machine is quiet


# oom


def test_out_of_memory_kills_are_told(place: Lab, tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom 0\noom_kill 3\n")
    place.launch("oom", place.light("sleep", "60"), oom_files=(str(events), str(tmp_path / "missing")))
    events.write_text("oom 1\noom_kill 4\n")
    place.supervisor.signal("oom", signal.SIGKILL, stopping=False)
    assert place.supervisor.wait("oom", 5)
    assert place.state("oom").exits[-1].oom
    place.run(place.light("false"), "oom")
    assert not place.state("oom").exits[-1].oom


# the processes themselves


def test_the_socket_is_private(place: Lab) -> None:
    assert place.layout.supervisor_socket.stat().st_mode & 0o777 == 0o600
    assert place.layout.run.stat().st_mode & 0o777 == 0o700


def test_rubbish_on_the_socket_hurts_nobody(place: Lab) -> None:
    for rubbish in (
        b"\xff" * 64,
        b"\0\0\0\2\0\0\0\0[]",
        wire.pack({"op": "nope"}),
        wire.pack({"op": "launch"}),
        b"\0",
    ):
        with wire.connect(str(place.layout.supervisor_socket)) as sock:
            sock.sendall(rubbish)
    assert place.supervisor.alive()


def test_both_processes_stay_small(place: Lab) -> None:
    for pid in place.pids():
        status = Path(f"/proc/{pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert rss < 20 * 1024


def test_ten_callers_start_one_pair(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path / ("a" * 90))  # a path longer than a socket's address
    clients, socket = [Supervisor(layout) for _ in range(10)], str(layout.supervisor_socket)
    try:
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda client: client.ensure(), clients))
        assert all(client.alive() for client in clients)
        expected = {str(int((layout.run / "keeper.lock").read_text())), str(start.answer(socket)["pid"])}  # type: ignore[index]
        until(
            lambda: set(_processes(layout)) == expected,
            what=f"only {expected} to be left of {_processes(layout)}",
        )
    finally:
        clients[0].stop()
    assert not clients[0].alive()
    assert clients[0].states() == {}
    assert not clients[0].alive()  # looking starts nothing


def _processes(layout: Layout) -> list[str]:
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and _of(pid, str(layout.run))]


def _of(pid: str, run: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return run.encode() in command and b"supervisor.daemon" in command
