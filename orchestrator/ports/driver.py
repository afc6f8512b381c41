"""What the core needs from the world: one small protocol for every kind of resource.

Drivers speak their world's words inside; here they answer in the model's. Every operation may be killed between any two
lines and must be idempotent: create over a half-made thing, delete of what is gone and stop of what is stopped succeed.
Errors: `StepError` (with call, argument, errno) or `HostError`; nothing else leaves a driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.model.desired import Limits, Need, Spec, Stack
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A need together with the incarnation that meets it."""

    need: Need
    target: Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A reason why this host or driver cannot do what is asked; found before anything is touched."""

    ref: Ref
    field: str
    message: str
    hint: str | None = None


class Driver(Protocol):
    """Makes and unmakes incarnations of its `kinds`."""

    @property
    def kinds(self) -> frozenset[Kind]: ...

    def stacks(self) -> frozenset[str]:
        """The stacks of which it holds anything."""
        ...

    def check(self, stack: Stack) -> Sequence[Problem]:
        """What of the stack it could not do here (a missing controller, a taken port or subnet, no such file)."""
        ...

    def observe(self, stack: str) -> Sequence[Observation]:
        """All incarnations of the stack, read from the world now."""
        ...

    def create(self, target: Incarnation, spec: Spec, bound: Sequence[Bound]) -> None:
        """Make it, recorded and not yet in effect; `bound` are its needs, kept in the record."""
        ...

    def start(self, target: Incarnation) -> None:
        """Bring it into effect. For a container: returns when its execve has succeeded."""
        ...

    def stop(self, target: Incarnation, *, fault: str | None = None) -> None:
        """Take it out of effect; a container by its stop signal, grace and KILL. `fault`: what it is stopped for, kept with
        its exit, which then counts as a failure."""
        ...

    def update(self, target: Incarnation, spec: Spec, fields: Sequence[str], bound: Sequence[Bound]) -> None:
        """Write the live `fields` (dotted names) of `spec` to what runs and mend what `observe` told as damage; record
        `spec` and its needs anew. With EDITED among the fields it counts as an edit though none was changed."""
        ...

    def delete(self, target: Incarnation) -> None:
        """Remove it and its record. Volumes: the data too (the planner guards it)."""
        ...


# What the embedded driver needs from its neighbours; drivers never import each other.


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A group instance to be put on its networks: `netns` is the path of its pinned network namespace."""

    target: Incarnation
    service: str
    hostname: str
    networks: tuple[str, ...]
    dns: tuple[str, ...]
    netns: str


class GroupNetwork(Protocol):
    """Connects a group's network namespace; hosts and resolv.conf files live in `Layout.group_run`."""

    def attach(self, attachment: Attachment) -> None: ...

    def detach(self, target: Incarnation) -> None: ...

    def rejoin(self, attachment: Attachment) -> None:
        """Follow the attachment's networks and name servers while the group runs."""
        ...

    def addresses(self, target: Incarnation) -> Mapping[str, str]:
        """network -> address, of those that are the group's still; empty when not attached."""
        ...

    def attached(self, target: Incarnation) -> bool:
        """Whether it was attached in this boot, whatever became of that since."""
        ...

    def damage(self, targets: Sequence[Incarnation]) -> Mapping[str, tuple[str, ...]]:
        """id -> what somebody else changed of attached groups, in words; those that are right are left out."""
        ...

    def mend(self, attachment: Attachment) -> None:
        """Make an attached group as it was before the damage, under its running containers."""
        ...

    def drain(self, group: Incarnation, by: Ref, seconds: float) -> bool:
        """Take the group out of its services because its container `by` is about to stop, and give open connections at
        most `seconds`. Whether there is anything to `forget` once it has stopped."""
        ...

    def undrain(self, group: Incarnation, by: Ref) -> None:
        """`by` runs again: the drain that it began ends."""
        ...

    def forget(self, group: Incarnation) -> None:
        """No process is left in the group: connections that the kernel remembers of it are forgotten."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A rootfs ready for use: overlay lowers (topmost first) and read-only binds (source, target) over them."""

    lowers: tuple[str, ...]
    binds: tuple[tuple[str, str], ...] = ()


class Roots(Protocol):
    def root(self, target: Incarnation) -> Root: ...


class Volumes(Protocol):
    def path(self, target: Incarnation) -> str:
        """The folder that holds the volume's data."""
        ...

    def seed(self, target: Incarnation, lowers: Sequence[str], mounted: str) -> None:
        """Before the volume is first mounted at the path `mounted` over the root of `lowers` (topmost first): take over
        what is there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """A further process in a running container. What is not said is as the container's spec says."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    user: str | None = None
    workdir: str | None = None


class Attached(Protocol):
    """A process inside with a terminal of its own, which ends with `close`. `terminal`: the master's descriptor."""

    terminal: int

    def fileno(self) -> int:
        """Becomes readable when the process has ended."""
        ...

    def wait(self) -> int:
        """The exit code, 128 + N for a signal."""
        ...

    def resize(self, rows: int, columns: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a container uses now (`memory`, `pids`), and has used since it started: seconds of cpu, bytes received, sent,
    read and written. None: this host does not count it. `pressure`: cpu, memory, io -> percent of the last 10 s in which
    some process had to wait for it."""

    cpu: float
    memory: int | None
    memory_limit: int | None
    pids: int
    received: int | None
    sent: int | None
    read: int | None
    written: int | None
    pressure: Mapping[str, float]


class Runtime(Driver, Protocol):
    """A driver of containers, with the operations that operators use on them."""

    def glance(self, stack: str) -> Sequence[Observation]:
        """As `observe`, of groups and containers alone, and without `actual`, `damage` and `broken`: what people ask for
        often."""
        ...

    def exec(
        self, target: Incarnation, request: ExecRequest, stdio: tuple[int, int, int], timeout: float | None
    ) -> int:
        """Runs it to its end; returns the exit code, 128 + N for a signal. Past `timeout` seconds it is killed: 124.
        The three descriptors become its stdin, stdout and stderr."""
        ...

    def attach(self, target: Incarnation, request: ExecRequest, *, rows: int, columns: int) -> Attached:
        """Starts it with a terminal of that size, which lies in the container."""
        ...

    def signal(self, target: Incarnation, number: int) -> bool:
        """Sends a signal to the container's main process; False: it does not run. Its end is not a stop that we asked
        for: the restart policy applies."""
        ...

    def root(self, target: Incarnation) -> int:
        """A descriptor (O_PATH) of the running container's root, as its processes see it. What lies below is hostile: it
        is opened beneath this descriptor or not at all."""
        ...

    def usage(self, target: Incarnation) -> Usage | None:
        """None where it does not run."""
        ...

    def read_limits(self, target: Incarnation) -> Limits:
        """What the kernel enforces now, read back from its files."""
        ...
