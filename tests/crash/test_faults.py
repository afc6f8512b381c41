"""Faults beside kills, each on a running instance with its agent: the database, descriptors, processes, space, disks, time.

What must hold after each: what runs goes on under its pid, whoever asks is told path and next step without a traceback, and
once the fault is gone everything settles and the plan is empty.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.model.observed import Phase
from tests.crash.storm import NAME, REPOSITORY, Storm
from tests.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def calm() -> Iterator[Storm]:
    root = Path(tempfile.mkdtemp(prefix="orc-fault-"))
    try:
        with Storm(root, steady=2, mortal=1, seed=1) as made:
            yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run(storm: Storm, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "orchestrator", "--root", str(storm.root), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def agent_pid(storm: Storm) -> int:
    until(lambda: storm.app.agent_status() is not None)
    status = storm.app.agent_status()
    assert status is not None
    return int(status["pid"])


def test_a_deleted_database_ends_nothing_and_apply_adopts(calm: Storm) -> None:
    """F16"""
    pids = calm.pids()
    for each in calm.app.layout.state.glob("orchestrator.db*"):
        each.unlink()
    calm.app.nudge(NAME)
    until(lambda: calm.app.agent_status()["stacks"][NAME]["revision"] == 0)  # type: ignore[index]
    assert calm.pids() == pids
    calm.check()
    assert calm.pids() == pids


def test_a_torn_database_is_refused_with_path_and_next_step(calm: Storm) -> None:
    """F15"""
    pids, database = calm.pids(), calm.app.layout.database
    os.kill(agent_pid(calm), signal.SIGKILL)
    database.write_bytes(os.urandom(8192))
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    code, text = run(calm, "apply", "-f", str(calm._file))
    assert code == 1 and str(database) in text and "move the file away" in text
    assert calm.pids() == pids
    database.rename(calm.root / "torn.db")
    calm.check()
    assert calm.pids() == pids


def test_a_database_of_a_newer_version_is_refused_and_left_alone(calm: Storm) -> None:
    """F17"""
    import sqlite3

    pids, database = calm.pids(), calm.app.layout.database
    calm.app.stop_agent()
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA user_version = 99")
    code, text = run(calm, "apply", "-f", str(calm._file))
    assert code == 1 and "newer version" in text and calm.pids() == pids
    with sqlite3.connect(database) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
        db.execute("PRAGMA user_version = 2")
    calm.check()


def test_out_of_descriptors_the_agent_lives_and_heals(calm: Storm) -> None:
    """F13"""
    pid = agent_pid(calm)
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    pids = calm.pids()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (12, old[1]))
    victim = calm._container("container/mortal-1/count")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    time.sleep(1.0)  # the agent has tried, and cannot
    assert agent_alive(pid)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    until(lambda: calm._container("container/mortal-1/count").phase is Phase.RUNNING)
    assert agent_alive(pid), "it went down over it"
    assert {r: p for r, p in calm.pids().items() if "steady" in r} == {
        r: p for r, p in pids.items() if "steady" in r
    }
    calm.check()


def agent_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "orc-agent"
    except FileNotFoundError:
        return False


def test_no_process_can_be_made_and_then_it_can(calm: Storm) -> None:
    """F13: EAGAIN of clone3(2), from a pids limit around the supervisor."""
    supervisor = calm._pid("supervisor")
    mount = re.search(r"^\S+ (\S+) cgroup \S*\bpids\b", Path("/proc/mounts").read_text(), re.M)
    if mount is None or supervisor is None:
        pytest.skip("the pids controller is not on cgroup v1 here")
    folder = Path(mount[1], f"orchestrator-fault-{os.getpid()}")
    own = re.search(r"^\d+:[^:]*\bpids\b[^:]*:(\S+)", Path(f"/proc/{supervisor}/cgroup").read_text(), re.M)
    assert own is not None
    folder.mkdir()
    try:
        (folder / "cgroup.procs").write_text(str(supervisor))
        (folder / "pids.max").write_text("1")
        victim = calm._container("container/mortal-1/count")
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: "temporarily unavailable" in str(calm.app.agent_status()))
        (folder / "pids.max").write_text("max")
        until(lambda: calm._container("container/mortal-1/count").phase is Phase.RUNNING)
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            Path(mount[1] + own[1], "cgroup.procs").write_text(pid)
        folder.rmdir()
    calm.check()


def test_an_fsync_that_fails_is_no_commit(calm: Storm) -> None:
    """F14: what the disk did not take is not acknowledged, and not tried again behind the user's back."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    before = calm.app.revision(NAME)
    calm._memory = 0
    while calm._memory in (0, 64):
        calm._write()
    inject = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync")
    code, text = run(
        calm, "apply", "-f", str(calm._file), prefix=(*inject, "-e", "inject=fdatasync,fsync:error=EIO")
    )
    assert code == 1 and str(calm.app.layout.database) in text
    assert calm.app.revision(NAME) == before
    calm.check()


def test_a_frozen_agent_kills_nobody_when_it_thaws(calm: Storm) -> None:
    """F10"""
    pids, pid = calm.pids(), agent_pid(calm)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(3.0)
        code, _ = run(calm, "ps")
        assert code == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    calm.check()
    assert calm.pids() == pids


def test_many_who_apply_at_once_are_served_one_after_the_other(calm: Storm) -> None:
    """F24, F25: each ends settled or overtaken, and the last committed one stands."""
    files = []
    for number in range(4):
        file = calm.root / f"many-{number}.yaml"
        file.write_text(re.sub(r"memory: \d+MiB", f"memory: {70 + number}MiB", calm._file.read_text()))
        files.append(file)
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda file: run(calm, "apply", "-f", str(file)), files * 2))
    assert {code for code, _ in ends} <= {0, 4}, ends
    assert all("took over" in text for code, text in ends if code == 4)
    revision = calm.app.recorded(NAME)
    assert revision is not None
    wanted = {spec.limits.memory for ref, spec in revision.resources.items() if ref.kind == "container"}  # type: ignore[union-attr]
    found = [each for each in calm.app.observe(NAME) if each.ref.kind == "container"]
    actual = {each.actual.get("limits.memory") for each in found}
    assert actual == wanted
    calm.check()


FORKS = """
stack: storm
containers:
  bomb:
    rootfs: host
    networks: []
    command: [sh, -c, 'f() {{ f | f & }}; f; sleep infinity']
    limits: {{pids: 64, memory: 256MiB}}
    stop: {{grace: 1s}}
  stubborn:
    rootfs: host
    networks: []
    command: [sh, -c, 'trap "" TERM; (setsid sleep 1000 &); while :; do sleep 1000; done']
    stop: {{grace: 1s}}
"""


def test_a_fork_bomb_and_who_ignores_signals_are_ended_in_time(tmp_path: Path) -> None:
    """F19, F21"""
    root = Path(tempfile.mkdtemp(prefix="orc-fault-"))
    try:
        with Storm(root, steady=1, mortal=1, seed=1) as storm:
            storm._file.write_text(FORKS.format())
            code, text = run(storm, "apply", "-f", str(storm._file), "--allow-prune")
            assert code == 0, text
            began = time.monotonic()
            subprocess.run(["true"], check=True)
            assert time.monotonic() - began < 5, "the host cannot fork"
            began = time.monotonic()
            code, text = run(storm, "delete", NAME, "--yes")
            assert code == 0 and time.monotonic() - began < 20, text
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_a_flood_of_log_lines_stays_within_its_bound(calm: Storm) -> None:
    """F20: also while the supervisor is killed over and over."""
    calm._file.write_text(
        "stack: storm\ncontainers:\n  flood:\n    rootfs: host\n    networks: []\n"
        "    command: [sh, -c, 'exec yes 0123456789012345678901234567890123456789']\n"
        "    logs: {max_size: 256KiB, files: 2}\n    limits: {cpus: 0.5}\n    stop: {signal: KILL}\n"
    )
    code, text = run(calm, "apply", "-f", str(calm._file), "--allow-prune")
    assert code == 0, text
    pid = calm._containers()[0].pid
    for _ in range(6):
        time.sleep(0.3)
        calm._kill("supervisor")
    calm.recover()
    assert calm._containers()[0].pid == pid, "it was ended for lack of a reader"
    folder = calm.app.layout.logs(NAME, calm._containers()[0].ref)
    size = 0
    for each in folder.iterdir():
        with suppress(FileNotFoundError):  # the ring turns
            size += each.stat().st_size
    assert 256 * 1024 < size <= 2 * 256 * 1024 * 1.5 + 1024 * 1024
