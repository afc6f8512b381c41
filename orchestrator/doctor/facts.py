"""What `doctor` knows of a host, as plain values, and what it says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Version = tuple[int, ...]


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"  # something that some stacks want does not work, or might not
    BAD = "bad"  # nothing runs here before it is mended


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`name`: one word or two for the subject; `mend`: a command, or the next thing to do."""

    name: str
    verdict: Verdict
    text: str
    mend: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardChain:
    """A base chain of somebody else's that drops what it does not accept. `ours`: it lets our links through; `docker`: it
    asks DOCKER-USER first."""

    family: str
    table: str
    name: str
    ours: bool = False
    docker: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Of the file system that holds `path`."""

    path: str
    free: int
    total: int
    inodes: int | None  # free ones; None where it does not count them


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """`None` means: could not be found out, or is not there."""

    root: bool
    kernel: str
    machine: str
    unified: str | None  # the mount of cgroup v2
    v2: frozenset[str]  # controllers there
    v1: frozenset[str]
    delegated: frozenset[str] | None  # controllers of our systemd unit; None: it is not there (yet)
    calls: Mapping[str, bool]  # system call -> the kernel, and what filters us, know it
    cgroup_kill: bool
    pressure: bool
    filesystems: frozenset[str]
    user_namespace: str | None  # why none can be made
    idmapped: str | None  # why the state folder cannot be mounted with mapped ids
    max_user_namespaces: int | None
    apparmor_restricts: bool
    seccomp: bool
    libseccomp: bool
    nft: str | None  # why it cannot be used
    forwarding: bool
    forward_chains: tuple[ForwardChain, ...]
    firewalld: bool
    pool: str
    tools: Mapping[str, bool]
    init: bool  # a small init for `init: true`
    versions: Mapping[str, str]  # of other runtimes that are installed
    nofile: int
    inotify: Mapping[str, int]
    spaces: tuple[Space, ...]
    recorded: bool  # there are stacks here
    keeper: bool
    supervisor: bool
    agent: bool
    log: str  # where the keeper writes what went wrong
