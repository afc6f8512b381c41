"""How a recipe's line is run: as a container's set-up is, by a program of operations. Pure.

In: the root, a line. Out: a `Program`. The line is root inside, but no root of the host: no device, no mount, no kernel
setting is within its reach. The network is the host's, so that it may fetch what it wants.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.supervisor import program as ops

CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "NET_BIND_SERVICE"),
    *("SETPCAP", "SETFCAP", "AUDIT_WRITE"),  # setcap(8), and what passwd(1) and PAM ask for
)
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/slabinfo", "/proc/timer_list", "/proc/timer_stats"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_LINKS = (
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
_SAFE = ("nosuid", "nodev", "noexec")


def line_program(root: str, line: str, *, env: Mapping[str, str], filter: str) -> ops.Program:
    """`root`: a folder of the host, which the line writes to. `filter`: of system calls, base64."""
    return ops.Program(
        new=("mnt", "pid", "ipc", "uts"),
        operations=(
            ops.PrivateMounts(),
            ops.EnterRoot(path=root),
            ops.MountFilesystem(type="proc", target="/proc", flags=_SAFE),
            ops.MountFilesystem(
                type="tmpfs", target="/dev", flags=("nosuid", "noexec"), options="mode=0755,size=64k"
            ),
            *(ops.MakeDevice(name=name, major=major, minor=minor) for name, major, minor in _DEVICES),
            *(ops.MakeSymlink(path=f"/dev/{name}", destination=to) for name, to in _LINKS),
            ops.MountFilesystem(
                type="devpts",
                target="/dev/pts",
                flags=("nosuid", "noexec"),
                options="newinstance,ptmxmode=0666,mode=0620,gid=5",
            ),
            ops.MountFilesystem(type="tmpfs", target="/dev/shm", flags=_SAFE, options="mode=1777,size=64m"),
            ops.PivotRoot(),
            *(ops.MaskPath(path=path) for path in _MASKED),
            *(ops.ReadOnlyPath(path=path) for path in _READ_ONLY),
            ops.SetHostname(name="build"),
            ops.ChangeDirectory(path="/"),
            ops.SetIdentity(user="0:0"),
            ops.LimitCapabilities(keep=CAPABILITIES),
            ops.NoNewPrivileges(),
            ops.LoadSeccomp(filter=filter),
            ops.Execute(argv=("/bin/sh", "-e", "-c", line), env=tuple(sorted(env.items()))),
        ),
    )
