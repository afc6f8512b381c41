"""Starts and stops keeper and supervisor of an instance, from a client's side.

In: the layout. Out: both are there, or HostError that names the log. On hosts where systemd is PID 1 the keeper is a
transient unit, so that it is never inside a login session; elsewhere it detaches itself.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import orchestrator
from orchestrator.errors import HostError
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import wire
from orchestrator.supervisor.container import RECORD
from orchestrator.supervisor.daemon import LOG
from orchestrator.supervisor.version import version

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from orchestrator.supervisor.daemon import main; main()"
_PATIENCE = 10.0
_FIRST = 20.0  # seconds for both to answer, on a host that is busy booting


def ensure(layout: Layout) -> None:
    """Both are there when this returns; any number of callers may ask at once."""
    path = str(layout.supervisor_socket)
    found = answer(path)
    if found is not None and found.get("version") != version():
        _renew(layout, found)
        found = answer(path)
    if found is not None and found["keeper"]:
        _same_mounts(found["pid"])
        return
    if os.geteuid() != 0:
        raise HostError("containers need root", hint="run it with sudo")
    for folder in (layout.run, layout.run / "containers", layout.run / "orphans"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout.run.chmod(0o700)
    if os.statvfs(layout.run).f_bavail == 0:
        raise HostError(f"no space left on {layout.run}", hint="make room there, then try again")
    deadline = time.monotonic() + _FIRST
    while time.monotonic() < deadline:
        _start_keeper(layout)
        until(lambda: _whole(path), min(deadline, time.monotonic() + 3))
        until(lambda: _whole(path) or not locked(layout.run / "keeper.lock"), deadline)
        if _whole(path):
            return
    raise HostError(f"the supervisor did not start within {_FIRST:.0f} s", hint=f"see {log_path(layout)}")


def _renew(layout: Layout, found: dict[str, Any]) -> None:
    """Have the keeper start the supervisor again, from the code that is there now."""
    path = str(layout.supervisor_socket)
    with suppress(OSError), wire.connect(path) as sock:
        wire.send(sock, {"op": "renew"})
        wire.receive(sock, wire.Incoming())
    if not found["keeper"]:
        return

    def renewed() -> bool:
        now = answer(path)
        return now is not None and now["pid"] != found["pid"]

    until(renewed, time.monotonic() + _PATIENCE)
    now = answer(path)
    if now is None or now.get("version") != version():
        raise HostError(
            f"the supervisor of {layout.run} is of another version than this command",
            hint="use the installation that started it, or end its keeper and it: containers go on",
        )


def _same_mounts(pid: int) -> None:
    """Namespaces are kept by mounts: they must be seen alike by us and by the supervisor."""
    with suppress(OSError):
        if os.stat(f"/proc/{pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino:
            raise HostError(
                f"this process is in another mount namespace than the supervisor (pid {pid})",
                hint=f"run it outside of `unshare -m` or PrivateTmp=, or with nsenter -t {pid} -m",
            )


def stop(layout: Layout) -> None:
    """Both are gone when this returns; containers go on."""
    path, lock = str(layout.supervisor_socket), layout.run / "keeper.lock"
    # Told to a supervisor whose keeper is not (yet) connected, the keeper would start it again.
    until(lambda: not locked(lock) or _whole(path), time.monotonic() + 2)
    wire.ask_to_stop(path)
    if until(lambda: not locked(lock), time.monotonic() + 2) is False:
        with suppress(OSError, ValueError):
            os.kill(
                int(lock.read_text()), signal.SIGTERM
            )  # held by a living keeper: the pid in it is its own
    gone = until(
        lambda: not locked(lock) and not locked(layout.run / "supervisor.lock"),
        time.monotonic() + _PATIENCE,
    )
    if not gone:
        raise HostError("keeper or supervisor did not end", hint=f"see {log_path(layout)}")


def answer(path: str) -> dict[str, Any] | None:
    """What the supervisor says of itself; None when none answers."""
    try:
        with wire.connect(path) as sock:
            sock.settimeout(_PATIENCE)
            wire.send(sock, {"op": "ping"})
            found = wire.receive(sock, wire.Incoming()).header.get("ok")
    except OSError:
        return None
    return found if isinstance(found, dict) else None


def records(layout: Layout) -> bool:
    """Whether any container of ours has a process record: only then is there something to ask about."""
    return any((layout.run / "containers").glob(f"*/{RECORD}"))


def log_path(layout: Layout) -> Path:
    return layout.run / LOG


def _whole(path: str) -> bool:
    found = answer(path)
    return found is not None and bool(found["keeper"])


def _start_keeper(layout: Layout) -> None:
    systemd = Path("/run/systemd/system").is_dir()
    library = str(Path(orchestrator.__file__).parent.parent)
    python = os.path.realpath(sys.executable)
    role = "unit" if systemd else "keeper"
    command = [python, "-I", "-S", "-X", "utf8", "-c", _BOOT, library, role, str(layout.run)]
    with open(log_path(layout), "ab") as log:
        if systemd:
            _delegate(layout, log)
            # Any name will do: the keeper's lock says who keeps, and a unit that is just going must not stand in the way.
            command = _transient(layout, f"keeper-{secrets.token_hex(3)}", "OOMPolicy=continue") + command
        _run(command, log)


def _delegate(layout: Layout, log: IO[bytes]) -> None:
    """The unit whose cgroup is ours to make containers in (`Layout.cgroup`): without a process of its own, so that it may
    pass controllers on (cgroups(7), "no internal processes"), and nobody who stops it ends a container."""
    if subprocess.run(
        ["systemctl", "is-active", "--quiet", f"{layout.cgroup}.service"], check=False
    ).returncode:
        settings = ("Type=oneshot", "RemainAfterExit=yes", "Delegate=yes")
        _run([*_transient(layout, "", *settings), "/bin/true"], log)


def _transient(layout: Layout, suffix: str, *settings: str) -> list[str]:
    name = "-".join(filter(None, (layout.cgroup, suffix)))
    properties = [f"-p{each}" for each in ("KillMode=process", "TasksMax=infinity", *settings)]
    unit = [f"--unit={name}", f"--slice={layout.cgroup}.slice"]
    return ["systemd-run", "--quiet", "--collect", *unit, *properties, "--"]


def _run(command: list[str], log: IO[bytes]) -> None:
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    subprocess.run(
        command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
    )


def locked(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def until(condition: Callable[[], bool], deadline: float) -> bool:
    """Ask again every 5 ms; False when the deadline (monotonic) passes first."""
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
