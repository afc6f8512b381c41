"""A container's set-up list, and those of its group and of an exec: specs and paths in, a `Program` out. Pure.

Golden data in tests/cases/programs. Must not look at the host: whatever depends on it comes in by `Place`.
The order follows what the kernel asks: cgroups before the cgroup namespace is made, pins joined while the host's paths
still resolve, devices before the masks (a mask is /dev/null), the user before the capabilities (a user that is not root
keeps none), no_new_privs before the filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.model.desired import (
    BindMount,
    ConfigMount,
    ContainerSpec,
    FileMount,
    GroupSpec,
    Mount,
    SecretMount,
    TmpfsMount,
    VolumeMount,
)
from orchestrator.ports.driver import ExecRequest, Root
from orchestrator.supervisor.program import (
    ChangeDirectory,
    EnterRoot,
    Execute,
    GiveFile,
    IdMap,
    JoinCgroup,
    JoinNamespace,
    LimitCapabilities,
    LoadSeccomp,
    MakeDevice,
    MakeSymlink,
    MaskPath,
    MountBind,
    MountFilesystem,
    MountOverlay,
    NewNamespace,
    NoNewPrivileges,
    OpenTerminal,
    Operation,
    PinNamespace,
    PivotRoot,
    PrivateMounts,
    Program,
    ReadOnlyPath,
    RemountRootReadOnly,
    SetHostname,
    SetIdentity,
    SetOomScore,
    SetRlimit,
    SetSysctl,
)

SHARED = ("net", "ipc", "uts")  # namespaces of the group, pinned under these names
CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "NET_BIND_SERVICE",
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT = "/dev/init"  # where `init: true` finds its reaper inside

# Docker's lists (moby/profiles, 2026-06) and slabinfo; the per-CPU thermal_throttle folders come in by `Place.masked`.
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
SYSCTLS = (("net.ipv4.ping_group_range", "0 2147483647"), ("net.ipv4.ip_unprivileged_port_start", "0"))
_SAFE = ("nosuid", "nodev", "noexec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where on the host the parts of one container lie.

    `staging` is an empty folder to mount on; `cgroup` the v2 folder to be born in, `cgroups` the v1 folders to join;
    `volumes` maps a volume's name to its data, `files` the target of a secret's or config's mount to its file; `init` is
    the host's reaper, where the spec asks for one; `seccomp` the filter, base64; `masked` further paths to mask; the maps
    are empty without a user namespace.
    """

    root: Root
    staging: str
    upper: str
    work: str
    group: str
    cgroup: str
    cgroups: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    init: str | None = None
    seccomp: str = ""
    masked: tuple[str, ...] = ()
    uid_maps: tuple[IdMap, ...] = ()
    gid_maps: tuple[IdMap, ...] = ()


def group_program(spec: GroupSpec, folder: str) -> Program:
    """Makes a group's namespaces and pins them as `folder`/net, ipc and uts (empty files that exist)."""
    return Program(
        operations=(
            *(NewNamespace(kind=kind) for kind in SHARED),
            SetHostname(name=spec.hostname),
            *(SetSysctl(name=name, value=value) for name, value in SYSCTLS),
            *(PinNamespace(kind=kind, path=f"{folder}/{kind}") for kind in SHARED),
        ),
    )


def container_program(spec: ContainerSpec, group: GroupSpec, place: Place) -> Program:
    """Profile `app`: everything its own but what it shares with its group."""
    return Program(
        new=("mnt", "pid", *(("user",) if place.uid_maps else ())),
        cgroup=place.cgroup,
        uid_maps=place.uid_maps,
        gid_maps=place.gid_maps,
        rootfs=spec.rootfs,
        operations=(
            *(JoinCgroup(path=path) for path in place.cgroups),
            NewNamespace(kind="cgroup"),
            *(JoinNamespace(kind=kind, path=f"{place.group}/{kind}") for kind in SHARED),
            SetOomScore(value=0),
            PrivateMounts(),
            *_root(place),
            *_kernel_filesystems(),
            *_devices(),
            *_group_files(place.group),
            *_mounts(spec, place),
            *_owners(spec, place),
            PivotRoot(),
            *(MaskPath(path=path) for path in (*MASKED, *place.masked)),
            *(ReadOnlyPath(path=path) for path in READ_ONLY),
            # Before the root is read-only, for the folder may have to be made.
            ChangeDirectory(path=spec.workdir or "/", make=spec.workdir is not None),
            *((RemountRootReadOnly(),) if spec.read_only else ()),
            *_process(spec, place.seccomp, user=spec.user),
            Execute(
                argv=(INIT, "--", *spec.command) if spec.init else spec.command,
                env=environment(group.hostname, spec.env),
            ),
        ),
    )


def exec_program(
    spec: ContainerSpec,
    group: GroupSpec,
    request: ExecRequest,
    *,
    seccomp: str,
    size: tuple[int, int] | None = None,
) -> Program:
    """A further process in a running container, whose namespaces and cgroups the supervisor joins before.

    What is not asked for is as the container's spec says. `size`: rows and columns of a terminal that it gets.
    """
    return Program(
        rootfs=spec.rootfs,
        operations=(
            ChangeDirectory(path=request.workdir or spec.workdir or "/"),
            *_process(spec, seccomp, user=request.user or spec.user, size=size),
            Execute(argv=request.command, env=environment(group.hostname, {**spec.env, **request.env})),
        ),
    )


def environment(hostname: str, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """PATH and HOSTNAME as defaults, the container's own over them, sorted. HOME comes with the identity."""
    return tuple(sorted({"PATH": PATH, "HOSTNAME": hostname, **env}.items()))


def _root(place: Place) -> Iterator[Operation]:
    yield MountOverlay(lowers=place.root.lowers, target=place.staging, upper=place.upper, work=place.work)
    yield EnterRoot(path=place.staging)
    for source, target in place.root.binds:
        yield MountBind(source=source, target=target, flags=("ro", "nosuid", "nodev"), recursive=True)


def _kernel_filesystems() -> Iterator[Operation]:
    yield MountFilesystem(type="proc", target="/proc", flags=_SAFE)
    yield MountFilesystem(type="sysfs", target="/sys", flags=("ro", *_SAFE))
    yield MountFilesystem(type="cgroup2", target="/sys/fs/cgroup", flags=("ro", *_SAFE))


def _devices() -> Iterator[Operation]:
    yield MountFilesystem(
        type="tmpfs", target="/dev", flags=("nosuid", "noexec"), options="mode=0755,size=64k,nr_inodes=64"
    )
    for name, major, minor in DEVICES:
        yield MakeDevice(name=name, major=major, minor=minor)
    for name, destination in LINKS:
        yield MakeSymlink(path=f"/dev/{name}", destination=destination)
    yield MountFilesystem(
        type="devpts",
        target="/dev/pts",
        flags=("nosuid", "noexec"),
        options="newinstance,ptmxmode=0666,mode=0620,gid=5",
    )
    yield MountFilesystem(type="tmpfs", target="/dev/shm", flags=_SAFE, options="mode=1777,size=64m")
    yield MountFilesystem(type="mqueue", target="/dev/mqueue", flags=_SAFE)


def _group_files(folder: str) -> Iterator[Operation]:
    """Read-only inside: one container of a group must not rewrite another's names."""
    for name in ("hosts", "resolv.conf", "hostname"):
        yield MountBind(source=f"{folder}/{name}", target=f"/etc/{name}", flags=("ro", *_SAFE))


def _mounts(spec: ContainerSpec, place: Place) -> Iterator[Operation]:
    """Outer targets first, so that `/data/cache` comes over `/data`, in whatever order they were written."""
    for each in sorted(spec.mounts, key=lambda mount: mount.target.rstrip("/").count("/")):
        yield _mount(each, place)
    if spec.init and place.init:
        yield MountBind(source=place.init, target=INIT, flags=("ro", "nosuid", "nodev"))


def _mount(mount: Mount, place: Place) -> Operation:
    match mount:
        case VolumeMount():
            source = place.volumes[mount.volume]
            return MountBind(source=source, target=mount.target, flags=_flags(mount))
        case BindMount():
            flags = _flags(mount)
            return MountBind(source=mount.source, target=mount.target, flags=flags, recursive=True)
        case TmpfsMount():
            return MountFilesystem(
                type="tmpfs",
                target=mount.target,
                flags=_flags(mount),
                options=f"mode=1777,size={mount.size}",
            )
        case SecretMount() | ConfigMount():
            return MountBind(source=place.files[mount.target], target=mount.target, flags=_file_flags(mount))


def _flags(mount: VolumeMount | BindMount | TmpfsMount) -> tuple[str, ...]:
    return (*(("ro",) if mount.read_only else ()), "nosuid", "nodev")


def _file_flags(mount: FileMount) -> tuple[str, ...]:
    """Their tmpfs is noexec; a config that is a program, as its mode says, can be run all the same."""
    program = isinstance(mount, ConfigMount) and mount.mode & 0o111
    return ("ro", "nosuid", "nodev", "exec" if program else "noexec")


def _owners(spec: ContainerSpec, place: Place) -> Iterator[Operation]:
    """After all mounts, so that names mean what they will mean inside; before the host's paths go."""
    for each in spec.mounts:
        if isinstance(each, SecretMount | ConfigMount):
            owner = each.owner or spec.user or "0"
            yield GiveFile(path=place.files[each.target], target=each.target, owner=owner, mode=each.mode)


def _process(
    spec: ContainerSpec, seccomp: str, *, user: str | None, size: tuple[int, int] | None = None
) -> Iterator[Operation]:
    for each in spec.ulimits:
        yield SetRlimit(name=each.name, soft=each.soft, hard=each.hard)
    yield SetIdentity(user=user or "0")
    if size is not None:
        yield OpenTerminal(rows=size[0], columns=size[1])
    yield LimitCapabilities(keep=CAPABILITIES)
    yield NoNewPrivileges()
    yield LoadSeccomp(filter=seccomp)
