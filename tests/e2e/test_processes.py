"""Operators' verbs on processes, by the real command: a terminal inside, signals, files in and out, figures."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from orchestrator.app import App
from orchestrator.cli import running
from orchestrator.errors import StepError
from orchestrator.supervisor.kernel.mounts import open_beneath
from orchestrator.transfer import copying
from orchestrator.transfer.copying import Side
from orchestrator.transfer.writing import Owners
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
    limits: {memory: 256MiB}
    command: [/bin/sh, -c, "trap 'echo hup' HUP; trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"]
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
    seat.type("sh -c 'echo be''gun; exec sleep 1000'\n")
    seat.see(r"begun\r\n")
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


def test_cp_there_and_back(place: Stage) -> None:
    source = place.folder / "tree"
    (source / "deep").mkdir(parents=True)
    (source / "deep/file").write_text("text")
    (source / "link").symlink_to("deep/file")
    assert "copied 4 entries, 4B" in place.run("cp", "tree", "app:/srv").err
    said = place.run("exec", "app", "sh", "-c", "cat /srv/tree/link; stat -c ' %U' /srv/tree/deep/file").out
    assert said == "text root\n"
    place.run("exec", "app", "chown", "nobody", "/srv/tree/deep/file")
    place.run("cp", "-a", "procs:app:srv/tree/.", "back")
    assert (place.folder / "back/link").read_text() == "text"
    assert (place.folder / "back/deep/file").stat().st_uid == 65534
    with open(place.folder / "out.tar", "wb") as file:
        command = [
            sys.executable,
            "-m",
            "orchestrator",
            "--root",
            str(place.root),
            "cp",
            "app:/srv/tree",
            "-",
        ]
        subprocess.run(command, stdout=file, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert place.inside("tar", "-tf", "out.tar").out.split() == [
        "tree/",
        "tree/deep/",
        "tree/deep/file",
        "tree/link",
    ]
    place.run("cp", "-", "app:/tmp", stdin=(place.folder / "out.tar").read_text())
    assert place.run("exec", "app", "cat", "/tmp/tree/deep/file").out == "text"
    assert "skipped null: a device" in place.run("cp", "app:/dev", "devices").err
    for wrong, message in {
        ("app:/x", "app:/y"): "one of SRC and DST",
        ("tree", "back"): "one of SRC and DST",
        ("job:/etc", "x"): "container/job-1/job is not running (exit 0)",
        ("app:", "x"): "is not REF:PATH",
    }.items():
        assert message in place.run("cp", *wrong, code=2).err
    assert "app:/none: no such file or directory" in place.run("cp", "app:/none", "x", code=1).err
    assert "cannot be replaced" in place.run("cp", "procs.yaml", "app:/etc/hosts", code=1).err
    assert (
        "app:/proc/sys/kernel: a view of the kernel's"
        in place.run("cp", "procs.yaml", "app:/proc/sys/kernel/core_pattern", code=1).err
    )


SWAP = """
import ctypes, os, sys
outside = sys.argv[1]
os.makedirs(outside + "/spot", exist_ok=True)
for folder in (outside, outside + "/spot"):
    open(folder + "/file", "w").write("inside")
os.makedirs("/srv/swap/spot/deep", exist_ok=True)
open("/srv/swap/spot/file", "w").write("inside")
os.symlink(outside, "/srv/swap/link")
os.symlink("../../../../../../.." + outside, "/srv/swap/spot/up")
call = ctypes.CDLL(None).syscall
print("swapping", flush=True)
while True:
    call(316 if os.uname().machine == "x86_64" else 276, -100, b"/srv/swap/spot", -100, b"/srv/swap/link", 2)
"""


def test_cp_of_a_swapping_container_stays_inside(place: Stage) -> None:
    """security.md S15: a folder and a symlink to a host path change places all the time, while we copy both ways."""
    outside = place.root.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "file").write_text("secret")
    tree = place.folder / "spotted"
    (tree / "spot/deep").mkdir(parents=True)
    (tree / "spot/file").write_text("planted")
    app = App.open(str(place.root))
    swapper = subprocess.Popen(
        [
            *(sys.executable, "-m", "orchestrator", "--root", str(place.root)),
            *("exec", "app", "/usr/bin/python3", "-c", SWAP, str(outside)),
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    try:
        assert swapper.stdout is not None and swapper.stdout.readline() == b"swapping\n"
        root = app.runtime.root(running.find(app, "app"))
        opener, done, reached = partial(open_beneath, root), 0, set()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            shutil.rmtree(place.folder / "got", ignore_errors=True)
            for source, target in (
                ("/srv/swap/spot/file", "got"),
                ("/srv/swap/spot/up/file", "got"),
                ("/srv/swap", "got"),
                ("/srv/swap/link/.", "got"),
            ):
                there = Side(opener=opener, path=source)
                here = Side(opener=copying.host, path=str(place.folder / target))
                with suppress(StepError):
                    list(copying.copy(there, here, owners=Owners(plain=True), follow=True))
                    done += 1
            with suppress(StepError):
                stream = io.BytesIO()
                list(copying.pack(Side(opener=opener, path="/srv/swap"), stream, follow=False))
                reached.add(b"secret" in stream.getvalue())
            for path in (place.folder / "got").rglob("*") if (place.folder / "got").is_dir() else ():
                if path.is_file() and not path.is_symlink():
                    reached.add("secret" in path.read_text())
            for source, target in ((f"{tree}/.", "/srv/swap"), (f"{tree}/spot/file", "/srv/swap/spot/file")):
                here = Side(opener=copying.host, path=source)
                with suppress(StepError):
                    list(copying.copy(here, Side(opener=opener, path=target), owners=Owners(), follow=False))
                    done += 1
        os.close(root)
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.communicate()
    assert done > 20 and reached == {False}
    assert (outside / "file").read_text() == "secret"
    assert sorted(os.listdir(outside)) == ["deep", "file"] and not os.listdir(outside / "deep")


def test_top_shows_what_is_used(place: Stage) -> None:
    busy = "timeout 60 sh -c 'while :; do :; done' & x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 60"
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        "--root",
        str(place.root),
        "exec",
        "app",
        "sh",
        "-c",
        busy,
    ]
    working = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    try:
        end = time.monotonic() + 15
        while True:
            (row,) = json.loads(place.run("top", "app", "--output", "json").out)["containers"]
            if row["cpu_percent"] > 20 and row["memory"] > 25_000_000:
                break
            assert time.monotonic() < end, row
    finally:
        working.kill()
        working.wait()
    assert (row["stack"], row["ref"], row["memory_limit"]) == ("procs", "container/app-1/app", 256 << 20)
    assert row["pids"] >= 3
    assert set(row["pressure"]) == {"cpu", "memory", "io"}
    lines = place.run("top", "procs").out.splitlines()
    assert lines[0].startswith("REF") and [line.split()[0] for line in lines[1:]] == ["app-1/app"]
    assert "nothing of job is running" in place.run("top", "job", code=2).err
    assert "nothing is called 'none'" in place.run("top", "none", code=2).err
    seat = Seat(place, "top", "-n", "100ms", rows=5, columns=40)
    for _ in range(3):
        seat.see(r"app-1/app")
    seat.type("\x03")
    assert seat.leave() == 130
    assert seat.seen.endswith("\x1b[?25h\x1b[?1049l")


def test_doctor_sees_this_host_and_its_firewall(place: Stage) -> None:
    def findings() -> dict[str, list[str]]:
        found = json.loads(place.run("doctor", "--output", "json").out)["findings"]
        return {
            name: [each["verdict"] for each in found if each["name"] == name]
            for name in ("nft", "calls", "firewall")
        }

    assert findings() == {"nft": ["ok"], "calls": ["ok"], "firewall": ["ok"]}
    assert "keeper, supervisor and agent run" in place.run("doctor").out
    chain = "type filter hook forward priority 0; policy drop;"
    place.inside("nft", "add table ip filter; add chain ip filter FORWARD { " + chain + " }")
    assert findings()["firewall"] == ["warn"]
    place.inside("nft", 'insert rule ip filter FORWARD iifname "orc*" accept')
    assert findings()["firewall"] == ["ok"]
    place.inside("nft", "delete table ip filter")


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
