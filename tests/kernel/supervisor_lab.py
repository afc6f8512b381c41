"""An instance of its own for tests: keeper and supervisor under a temporary root, a small rootfs, programs to launch.

Everything is taken down at the end: containers killed, both processes stopped, the cgroup removed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.ports.layout import Layout
from orchestrator.supervisor import logs
from orchestrator.supervisor import program as ops
from orchestrator.supervisor.client import LogTarget, ProcessState, Supervisor
from orchestrator.supervisor.program import Operation, Program
from orchestrator.supervisor.seccomp import default_filter

ENV = (("PATH", "/usr/bin:/bin"),)
CAPS = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "NET_BIND_SERVICE")
SAFE = ("nosuid", "nodev", "noexec")
MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware", "/proc/no-such")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def until(condition: Callable[[], bool], *, seconds: float = 10.0, what: str = "the condition") -> None:
    """Poll; fails the test at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.005)


def unified() -> Path:
    """Where cgroup v2 is mounted on this machine."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return Path(line.split()[4])
    raise AssertionError("no cgroup v2 here")


class Lab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layout = Layout.at(folder / "instance")
        self.supervisor = Supervisor(self.layout)
        self.cgroup = unified() / self.layout.cgroup
        self.staging = folder / "staging"
        self.rootfs = folder / "rootfs"
        self._skeleton()

    def _skeleton(self) -> None:
        self.staging.mkdir()
        for name in ("upper", "work"):
            (self.folder / name).mkdir()
        for name in ("etc", "proc", "sys", "dev", "tmp", "usr", "root"):
            (self.rootfs / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.rootfs / name).symlink_to(f"usr/{name}")
        self.rootfs.chmod(0o755)
        (self.rootfs / "etc/passwd").write_text(
            "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n"
        )
        (self.rootfs / "etc/group").write_text("root:x:0:\nweb:x:1001:\nlogs:x:1002:web,other\n")
        (self.rootfs / "tmp").chmod(0o1777)

    # programs

    def root(self, *, lower: Path | None = None, upper: bool = True) -> tuple[Operation, ...]:
        """Overlay, /usr of the host, kernel file systems, devices."""
        up = {"upper": str(self.folder / "upper"), "work": str(self.folder / "work")} if upper else {}
        return (
            ops.PrivateMounts(),
            ops.MountOverlay(lowers=(str(lower or self.rootfs),), target=str(self.staging), **up),
            ops.EnterRoot(path=str(self.staging)),
            ops.MountBind(source="/usr", target="/usr", flags=("ro", "nosuid", "nodev"), recursive=True),
            ops.MountFilesystem(type="proc", target="/proc", flags=SAFE),
            ops.MountFilesystem(type="sysfs", target="/sys", flags=("ro", *SAFE)),
            ops.MountFilesystem(
                type="tmpfs", target="/dev", flags=("nosuid", "noexec"), options="mode=0755,size=64k"
            ),
            *(ops.MakeDevice(name=name, major=1, minor=minor) for name, minor in (("null", 3), ("zero", 5))),
            ops.MakeDevice(name="urandom", major=1, minor=9),
            ops.MakeSymlink(path="/dev/fd", destination="/proc/self/fd"),
            ops.MountFilesystem(
                type="devpts", target="/dev/pts", flags=("nosuid", "noexec"), options="newinstance"
            ),
            ops.MountFilesystem(type="tmpfs", target="/dev/shm", flags=SAFE, options="mode=1777,size=1m"),
            ops.MountFilesystem(type="mqueue", target="/dev/mqueue", flags=SAFE),
        )

    def full(self, *command: str, user: str = "0", middle: tuple[Operation, ...] = ()) -> Program:
        """Every namespace, mask and privilege, as a container of the profile app has them."""
        self.cgroup.mkdir(exist_ok=True)
        (self.cgroup / "c").mkdir(exist_ok=True)
        return Program(
            new=("mnt", "pid", "net", "ipc", "uts"),
            cgroup=str(self.cgroup / "c"),
            operations=(
                ops.NewNamespace(kind="cgroup"),
                ops.SetHostname(name="lab"),
                *self.root(),
                *middle,
                ops.PivotRoot(),
                *(ops.MaskPath(path=path) for path in MASKED),
                *(ops.ReadOnlyPath(path=path) for path in READ_ONLY),
                ops.ChangeDirectory(path="/tmp"),
                ops.SetRlimit(name="nofile", soft=512, hard=512),
                ops.SetIdentity(user=user),
                ops.LimitCapabilities(keep=CAPS),
                ops.NoNewPrivileges(),
                ops.LoadSeccomp(filter=default_filter()),
                ops.Execute(argv=command, env=ENV),
            ),
        )

    @staticmethod
    def light(*command: str) -> Program:
        """Only a mount and a pid namespace, over the host's root."""
        return Program(
            new=("mnt", "pid"), operations=(ops.PrivateMounts(), ops.Execute(argv=command, env=ENV))
        )

    # use

    def journal(self, id: str) -> str:
        return str(self.folder / "journals" / id)

    def log_target(self, id: str, *, max_size: int = 1 << 20, files: int = 3) -> LogTarget:
        return LogTarget(folder=str(self.folder / "logs" / id), max_size=max_size, files=files)

    def launch(self, id: str, program: Program, **more: object) -> ProcessState:
        target = more.pop("logs", None) or self.log_target(id)
        return self.supervisor.launch(id, program, logs=target, journal=self.journal(id), **more)  # type: ignore[arg-type]

    def state(self, id: str) -> ProcessState:
        return self.supervisor.states([id])[id]

    def run(self, program: Program, id: str = "c") -> tuple[ProcessState, list[str]]:
        """Launch, wait for the end; the state and the lines that it wrote."""
        self.launch(id, program)
        assert self.supervisor.wait(id, 10)
        return self.state(id), self.lines(id)

    def lines(self, id: str) -> list[str]:
        return [each.text.decode() for each in logs.read(str(self.folder / "logs" / id))]

    def pids(self) -> tuple[int, int]:
        """Keeper and supervisor."""
        from orchestrator.supervisor import start

        answer = start.answer(str(self.layout.supervisor_socket))
        assert answer is not None
        return int((self.layout.run / "keeper.lock").read_text()), answer["pid"]

    def close(self) -> None:
        with suppress(Exception):
            for id, state in self.supervisor.states().items():
                if state.pid is not None:
                    self.supervisor.signal(id, signal.SIGKILL, stopping=True)
                    self.supervisor.wait(id, 5)
        self.supervisor.stop()
        for folder in (self.cgroup / "c", self.cgroup):
            if folder.is_dir():
                until(lambda folder=folder: _removed(folder), what=f"{folder} is empty")  # type: ignore[misc]


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    made = Lab(folder)
    try:
        yield made
    finally:
        made.close()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that its parent has not read yet counts)."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
