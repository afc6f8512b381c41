"""What we mean: the resolved stack. Frozen values; sizes in bytes, times in seconds, paths absolute.

In: built by `resolve`. Out: read by graph, plan, execute and drivers. Every field of a spec carries its update class
(how a change of it reaches a running resource); the planner reads nothing else to choose a verb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.diagnostics import Span
from orchestrator.model.ids import Kind, Ref


class Update(StrEnum):
    """How a changed field reaches what runs."""

    LIVE = "live"  # written while it runs; same pid
    RESTART = "restart"  # same incarnation, new process
    REPLACE = "replace"  # new incarnation; cascades along structural needs


def _setting(
    update: Update,
    default: Any = MISSING,
    *,
    factory: Any = MISSING,
    bytewise: bool = False,
    known: bool = False,
) -> Any:
    """`bytewise`: a mapping to `Content`; where the bytes differ, the new content's own class holds. `known`: a mapping of
    which only keys on both sides can differ."""
    metadata = {"update": update, "bytewise": bytewise, "known": known}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def _live(default: Any = MISSING, **kw: Any) -> Any:
    return _setting(Update.LIVE, default, **kw)


def _restart(default: Any = MISSING, **kw: Any) -> Any:
    return _setting(Update.RESTART, default, **kw)


def _replace(default: Any = MISSING, **kw: Any) -> Any:
    return _setting(Update.REPLACE, default, **kw)


class Until(StrEnum):
    """When a need is met."""

    CREATED = "created"
    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """`web -> db` means web needs db. `structural` needs cascade a replacement (rootfs, volume, network, group);
    `restarts`: a new process of db gives web one too."""

    ref: Ref
    until: Until = Until.CREATED
    structural: bool = False
    restarts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLimit:
    """Bytes and operations per second on one block device; `device` None is the one that holds the root."""

    device: str | None = None
    read_bps: int | None = None
    write_bps: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """cgroup limits in cgroup v2's terms. `cpus` in cores, `memory`, `memory_high` and `swap` in bytes (swap alone)."""

    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    memory: int | None = None
    memory_high: int | None = None
    swap: int | None = None
    pids: int | None = None
    io: tuple[IoLimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """The stack's total budget: one parent cgroup."""

    limits: Limits = _live(factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRoot:
    """The host's /usr read-only over a private minimal skeleton."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryRoot:
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRoot:
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRoot:
    """An OCI image. `digest`: of its manifest for this host's platform; None: not looked up yet."""

    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRoot:
    """A root that was built by the recipe of that `key`. `digest`: of its content; None: not built yet."""

    key: str
    digest: str | None


RootSource = HostRoot | DirectoryRoot | ArchiveRoot | ImageRoot | RecipeRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class RootfsSpec:
    """`name`: how people name an image or recipe (`docker://…`, `debian:bookworm + nginx`)."""

    source: RootSource = _replace()
    name: str | None = _live(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """`members` are the names (instances and services) that get an address here, in a stable order.

    Of another stack's network (`infra/edge`) they are all that this stack has to say.
    """

    subnet: str | None = _replace(None)
    internal: bool = _live(False)
    members: tuple[str, ...] = _live(())


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec:
    """A folder of ours; or `tmpfs` bytes of memory, or the host's folder at `bind`. `size`: most bytes. A change of any
    touches no data; containers that mount it see another source in their mount."""

    tmpfs: int | None = _live(None)
    bind: str | None = _live(None)
    size: int | None = _live(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """One instance: `web-1`. `networks` (names of refs) in the order written; () is loopback only. `service` is the
    group's name."""

    service: str = _replace()
    hostname: str = _replace()
    networks: tuple[str, ...] = _live(())
    dns: tuple[str, ...] = _live(())
    limits: Limits = _live(factory=Limits)


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """One published port: `address:host_port` reaches `container_port` of the group's instances."""

    address: str = "127.0.0.1"
    host_port: int
    container_port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """A group's name on its networks and its published ports; `instances` are the group instances behind it, `ready` those
    that traffic goes to (None: `plan.readiness` has not said yet, all of them)."""

    networks: tuple[str, ...] = _live(())
    instances: tuple[str, ...] = _live(())
    ready: tuple[str, ...] | None = _live(None)
    publish: tuple[Publish, ...] = _live(())


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMount:
    """`copy`: a volume that is new takes content, owner and mode of the folder that it is mounted over. `source`: where its
    data is, unless in our own folder: `tmpfs`, `bind:PATH`."""

    volume: str
    target: str
    read_only: bool = False
    copy: bool = True
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindMount:
    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsMount:
    target: str
    size: int
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretMount:
    """The secret's content as a file in memory, read-only. `owner` as `user:` is written; None: the container's user."""

    secret: str
    target: str
    owner: str | None = None
    mode: int = 0o400

    @property
    def content(self) -> str:
        """Its key in `ContainerSpec.contents`."""
        return f"secret/{self.secret}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMount:
    """The config's content as a file in memory, read-only. `owner` as `user:` is written; None: the container's user."""

    config: str
    target: str
    owner: str | None = None
    mode: int = 0o444

    @property
    def content(self) -> str:
        """Its key in `ContainerSpec.contents`."""
        return f"config/{self.config}"


FileMount = SecretMount | ConfigMount
Mount = VolumeMount | BindMount | TmpfsMount | SecretMount | ConfigMount


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a secret or config holds. `digest`: a config's SHA-256, by which its bytes are kept; a secret's keyed digest.

    `source`: a secret's file, read at each start, for its bytes are kept nowhere. `update`: how a change of the bytes
    reaches what runs; live ones are written in place and then told to the process by `signal`, if there is one.
    """

    digest: str
    source: str | None = None
    update: Update = Update.RESTART
    signal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    """One rlimit by its lower-case name (`nofile`); -1 is unlimited (setrlimit(2))."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandProbe:
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProbe:
    """GET http://ADDRESS:port/path; healthy when low <= status <= high and `body`, if any, is in the answer."""

    port: int
    path: str = "/"
    status: tuple[int, int] = (200, 399)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpProbe:
    port: int


Probe = CommandProbe | HttpProbe | TcpProbe


class OnUnhealthy(StrEnum):
    NONE = "none"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`inside`: http and tcp connect to 127.0.0.1 in the group's network namespace, not from the host to its address."""

    probe: Probe
    interval: float = 10.0
    timeout: float = 5.0
    retries: int = 3
    start_period: float = 0.0
    on_unhealthy: OnUnhealthy = OnUnhealthy.NONE
    inside: bool = False


class RestartPolicy(StrEnum):
    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """`drain`: at most so many seconds for connections that are open, once no new ones come; then `signal` by its name
    without SIG, then `grace` seconds, then KILL."""

    drain: float = 1.0
    signal: str = "TERM"
    grace: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    max_size: int = 10 * 1024 * 1024
    files: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Runs to completion, once per applied spec; started again at most `retries` times after a failure."""

    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """One container. `command` is entrypoint and command joined: the argv. `user` as written, resolved in the rootfs.

    `contents` of its secret and config mounts by `FileMount.content`. `bound`: inode numbers of files that it binds, by
    source: after a rename its mount would show the old file for ever.
    """

    rootfs: str = _replace()
    command: tuple[str, ...] = _restart()
    env: Mapping[str, str] = _restart(factory=dict)
    user: str | None = _restart(None)
    workdir: str | None = _restart(None)
    mounts: tuple[Mount, ...] = _restart(())
    contents: Mapping[str, Content] = _live(factory=dict, bytewise=True)
    bound: Mapping[str, int] = _restart(factory=dict, known=True)
    limits: Limits = _live(factory=Limits)
    ulimits: tuple[Ulimit, ...] = _restart(())
    health: Health | None = _live(None)
    restart: RestartPolicy = _live(RestartPolicy.ALWAYS)
    stop: Stop = _live(factory=Stop)
    job: Job | None = _replace(None)
    init: bool = _restart(False)
    read_only: bool = _restart(False)
    logs: Logs = _live(factory=Logs)


Spec = StackSpec | RootfsSpec | NetworkSpec | VolumeSpec | GroupSpec | ServiceSpec | ContainerSpec

SPECS: Mapping[Kind, type[Spec]] = {
    Kind.STACK: StackSpec,
    Kind.ROOTFS: RootfsSpec,
    Kind.NETWORK: NetworkSpec,
    Kind.VOLUME: VolumeSpec,
    Kind.GROUP: GroupSpec,
    Kind.SERVICE: ServiceSpec,
    Kind.CONTAINER: ContainerSpec,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """All that is wished for under one name. `places` maps (ref, dotted field) and (ref, "") to where it was written.

    `blobs`: the configs' bytes by digest, where they were just read; a stack of the store has them kept beside it.
    """

    name: str
    resources: Mapping[Ref, Spec]
    needs: Mapping[Ref, tuple[Need, ...]]
    places: Mapping[tuple[Ref, str], Span] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def has_secrets(self) -> bool:
        """Whether any container is given a secret."""
        specs = (each for each in self.resources.values() if isinstance(each, ContainerSpec))
        return any(content.source is not None for each in specs for content in each.contents.values())
