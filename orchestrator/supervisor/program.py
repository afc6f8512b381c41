"""A container's set-up as data: a flat tuple of typed operations, run in order by `launcher` in the new process.

In: built by a pure function in the driver, golden-tested. Wire form: JSON (`to_wire`, `from_wire`). Standard library only.
Paths of operations before `EnterRoot` are the host's; those after it are inside the new root and are resolved beneath
it (openat2(2), RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), whatever symlinks the rootfs holds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinCgroup:
    """Write this process into a cgroup v1 folder's cgroup.procs (v2 is joined at clone: `Program.cgroup`)."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinNamespace:
    """setns(2) into a pinned namespace; `kind`: net, ipc, uts, pid, mnt, cgroup, user."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewNamespace:
    """unshare(2) here, after the cgroups were joined: `cgroup` takes its root from where the process is now."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PinNamespace:
    """Bind-mount this process's namespace onto `path` (an empty file), so that it outlives the process."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHostname:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSysctl:
    """Write a namespaced sysctl; `name` with dots or slashes (net.ipv4.ping_group_range)."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMounts:
    """Make every mount of this namespace private (mount(2), MS_REC | MS_PRIVATE)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOverlay:
    """Overlay at the staging path `target` (host); `lowers` topmost first; without `upper` it is read-only."""

    lowers: tuple[str, ...]
    target: str
    upper: str | None = None
    work: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterRoot:
    """From here on paths are inside `path`, the staging path of the new root."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDirectory:
    path: str
    mode: int = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSymlink:
    path: str
    destination: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFilesystem:
    """A new file system at `target` in the root, made if missing. `options` is the data string; `flags` are names:
    nosuid, nodev, noexec, ro, relatime, noatime."""

    type: str
    target: str
    flags: tuple[str, ...] = ()
    options: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountBind:
    """`source` (host) at `target` in the root, made if missing as a file or folder like the source."""

    source: str
    target: str
    flags: tuple[str, ...] = ()
    recursive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveFile:
    """Give the host's file `path`, bound at `target`, to `owner` (as SetIdentity reads users) with permissions `mode`."""

    path: str
    target: str
    owner: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDevice:
    """The character device /dev/`name` in the root by mknod(2), mode 666; where that is not allowed (user namespaces) the
    host's node, checked to be that device, bound read-only. Root inside can never change the mode of the host's."""

    name: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotRoot:
    """pivot_root(2) into the root and detach the old one; paths stay those inside the root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPath:
    """Hide a file (with /dev/null) or folder (with an empty read-only tmpfs); nothing if it does not exist."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnlyPath:
    """Bind `path` onto itself and remount it read-only; nothing if it does not exist."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemountRootReadOnly:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRlimit:
    """setrlimit(2) by lower-case name; -1 is unlimited; clamped to the inherited hard limit where raising is refused."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOomScore:
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeDirectory:
    """chdir(2) inside the root; made if missing when `make`."""

    path: str
    make: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetIdentity:
    """Become `user` (NAME, UID, NAME:GROUP, UID:GID) as /etc/passwd and /etc/group inside the root say, read by us.

    Supplementary groups come from /etc/group. Log FIFOs on descriptors 1 and 2 are given to that user first. HOME is put
    into the environment where it is not set.
    """

    user: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTerminal:
    """A new terminal of the container's own devpts becomes descriptors 0 to 2 and the controlling terminal; its master is
    sent to whoever asked. After SetIdentity, so that the user inside owns it (pts(4))."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitCapabilities:
    """Bounding, permitted and effective set = `keep`; inheritable and ambient empty. A user other than 0 has none."""

    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoNewPrivileges:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeccomp:
    """`filter`: BPF program (struct sock_filter[]), base64."""

    filter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """execve(2); `argv[0]` without a slash is looked up in env's PATH inside the root."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]


Operation = (
    JoinCgroup
    | JoinNamespace
    | NewNamespace
    | PinNamespace
    | SetHostname
    | SetSysctl
    | PrivateMounts
    | MountOverlay
    | EnterRoot
    | MakeDirectory
    | MakeSymlink
    | MountFilesystem
    | MountBind
    | GiveFile
    | MakeDevice
    | PivotRoot
    | MaskPath
    | ReadOnlyPath
    | RemountRootReadOnly
    | SetRlimit
    | SetOomScore
    | ChangeDirectory
    | SetIdentity
    | OpenTerminal
    | LimitCapabilities
    | NoNewPrivileges
    | LoadSeccomp
    | Execute
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """One line of uid_map or gid_map (user_namespaces(7))."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`new`: namespaces made at clone (mnt, pid, net, ipc, uts, user); `cgroup`: the v2 folder to be born in.

    With `new` holding user, the parent writes the maps before the first operation. A program without Execute ends with
    exit code 0 after its last operation. `rootfs`: its name, for the words of errors.
    """

    operations: tuple[Operation, ...]
    new: tuple[str, ...] = ()
    cgroup: str | None = None
    uid_maps: tuple[IdMap, ...] = ()
    gid_maps: tuple[IdMap, ...] = ()
    rootfs: str = ""


_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Operation.__args__}
_FIELDS = {name: tuple(each.name for each in fields(kind)) for name, kind in _KINDS.items()}


def to_wire(program: Program) -> dict[str, Any]:
    """The program as JSON data: an operation is [name, {fields}]."""
    return {
        "operations": [
            [type(each).__name__, {name: getattr(each, name) for name in _FIELDS[type(each).__name__]}]
            for each in program.operations
        ],
        "new": program.new,
        "cgroup": program.cgroup,
        "uid_maps": [[m.inside, m.outside, m.count] for m in program.uid_maps],
        "gid_maps": [[m.inside, m.outside, m.count] for m in program.gid_maps],
        "rootfs": program.rootfs,
    }


def from_wire(data: dict[str, Any]) -> Program:
    """The inverse; raises KeyError or TypeError on what `to_wire` could not have made."""
    return Program(
        operations=tuple(
            _KINDS[name](**{key: _frozen(each) for key, each in args.items()})
            for name, args in data["operations"]
        ),
        new=tuple(data["new"]),
        cgroup=data["cgroup"],
        uid_maps=tuple(IdMap(inside=i, outside=o, count=c) for i, o, c in data["uid_maps"]),
        gid_maps=tuple(IdMap(inside=i, outside=o, count=c) for i, o, c in data["gid_maps"]),
        rootfs=data.get("rootfs", ""),  # a client of an earlier version does not say
    )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
