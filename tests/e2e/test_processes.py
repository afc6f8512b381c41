"""Operators' verbs on processes, by the real command: a terminal inside, signals, files in and out, figures."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import REPOSITORY, Stage, staged

pytestmark = pytest.mark.root

STACK = """
stack: procs
rootfs:
  base: host
networks:
  default: {}
containers:
  app:
    rootfs: base
    networks: [default]
    restart: on-failure
    command: [/bin/sh, -c, "trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done"]
  job:
    rootfs: base
    networks: [default]
    job: {}
    command: [/bin/sh, -c, "echo done"]
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Stage]:
    with staged() as made:
        made.write("procs.yaml", STACK)
        made.run("apply", "-f", "procs.yaml")
        yield made


class Seat:
    """A person at a terminal of `rows` x `columns` who runs the command there."""

    def __init__(self, stage: Stage, *arguments: str, rows: int = 31, columns: int = 97) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        command = [sys.executable, "-m", "orchestrator", "--root", str(stage.root), *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=stage.folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._slave = slave
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def see(self, pattern: str, seconds: float = 15.0) -> re.Match[str]:
        """Read on until the pattern is on the screen; what was before it is forgotten."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"{pattern!r} did not come: {self.seen!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 65536).decode()
        self.seen = self.seen[found.end() :]
        return found

    def leave(self, seconds: float = 15.0) -> int:
        """The command's exit code; its terminal is as it was."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still there: {self.seen!r}"
            if select.select([self._master], [], [], 0.02)[0]:
                self.seen += os.read(self._master, 65536).decode()
        while select.select([self._master], [], [], 0)[0]:
            self.seen += os.read(self._master, 65536).decode()
        assert termios.tcgetattr(self._slave) == self.before
        os.close(self._slave)
        os.close(self._master)
        return self.process.returncode


def test_terminal_inside_is_the_containers_own(place: Stage) -> None:
    seat = Seat(place, "exec", "-it", "-u", "nobody", "-e", "MARK=yes", "-w", "/tmp", "app", "sh")
    seat.type(
        "PS1='ready> '; echo $MARK $TERM-; pwd; tty; stat -c %U $(tty); stty size; ls /proc/self/fd | tr '\\n' ' '\n"
    )
    seat.see(
        r"yes \S+-\r\n/tmp\r\n/dev/pts/(\d+)\r\nnobody\r\n31 97\r\n0 1 2 3 "
    )  # 3: the folder that ls reads
    seat.resize(40, 120)
    seat.see(r"ready> ")
    seat.type("stty size\n")
    seat.see(r"40 120\r\n")
    seat.type("sleep 1000; echo slept=$?\n")
    seat.see(r"sleep 1000; echo slept=\$\?\r\n")
    seat.type("\x03")
    seat.see(r"ready> $")
    seat.type(
        "(echo on its way; exec cat /dev/tty) </dev/null &\n"
    )  # job control: a reader in the background stops
    seat.see(r"on its way")
    seat.type("jobs; exit 7\n")
    seat.see(r"[Ss]topped|Suspended|Running")
    seat.type("exit 7\n")
    assert seat.leave() == 7


def test_terminal_is_put_back_after_errors_and_signals(place: Stage) -> None:
    seat = Seat(place, "exec", "-it", "app", "no-such")
    assert seat.leave() == 127
    assert 'command "no-such" not found' in seat.seen
    seat = Seat(place, "exec", "-it", "app", "sh", "-c", "echo pid=$$; exec sleep 1000")
    seat.see("pid=")
    seat.process.send_signal(signal.SIGTERM)
    assert seat.leave() == 128 + signal.SIGTERM
    end = time.monotonic() + 10
    while place.run("exec", "app", "sh", "-c", "grep -l '^sleep.1000' /proc/[0-9]*/cmdline || true").out:
        assert time.monotonic() < end, "what it started inside outlives it"


def test_terminal_passes_much_both_ways(place: Stage) -> None:
    seat = Seat(place, "exec", "-it", "app", "sh", "-c", "stty raw -echo; echo go; head -c 300000 | md5sum")
    seat.see("go")
    os.set_blocking(seat._master, True)
    data = bytes(range(256)) * 1172
    for at in range(0, 300000, 4096):
        os.write(seat._master, data[at : min(at + 4096, 300000)])
    seat.see(hashlib.md5(data[:300000]).hexdigest())
    assert seat.leave() == 0
    seat = Seat(place, "exec", "-it", "app", "seq", "1", "50000")
    assert seat.leave() == 0
    assert seat.seen.split() == [str(each) for each in range(1, 50001)]


def test_exec_without_a_terminal_says_so(place: Stage) -> None:
    refused = place.run("exec", "-it", "app", "sh", code=2, stdin="x")
    assert "standard input is not a terminal" in refused.err
    assert (
        place.run("exec", "-t", "app", "sh", "-c", "test -t 0 && test -t 1 && echo both", stdin="x").out
        == "both\n"
    )
    assert place.run("exec", "-i", "app", "cat", stdin="through\n").out == "through\n"
    assert "missing argument 'COMMAND...'" in place.run("exec", "app", "--", code=2).err
    assert "'=x' is not KEY=VALUE" in place.run("exec", "-e", "=x", "app", "true", code=2).err


def test_kill_sends_signals_and_the_restart_policy_applies(place: Stage) -> None:
    assert "did you mean HUP" in place.run("kill", "-s", "HUPP", "app", code=2).err
    pid = place.ps()["container/app-1/app"]["pid"]
    assert "sent SIGHUP" in place.run("kill", "-s", "HUP", "app").err
    end = time.monotonic() + 10
    while "hup" not in place.run("logs", "app").out:
        assert time.monotonic() < end
    assert place.ps()["container/app-1/app"]["pid"] == pid
    refused = place.run("kill", "app", "job", code=2)
    assert "container/job-1/job is not running (exit 0)" in refused.err
    assert place.ps()["container/app-1/app"]["pid"] == pid, "somebody was killed though a name was wrong"
    place.run("kill", "app", "app")
    end = time.monotonic() + 10
    while (now := place.ps()["container/app-1/app"])["pid"] == pid:
        assert time.monotonic() < end
    if now["pid"] is None:  # no agent is there to start it again
        assert now["exit"] == "signal 9"
        place.run("apply", "-f", "procs.yaml")
    assert place.ps()["container/app-1/app"]["restarts"] == 1
