"""Makes a process out of a program: raw clone3(2), then Python in the child interprets the operations up to execve(2).

In: the program's wire form, what it is born with, and descriptors; callable from any process with one thread. Out: a
`Launched`, whose `report` pipe gives JSON lines: an error, or (entering) a pid; its end without an error means success.
The child touches nothing before its go byte: the parent has recorded it by then. No byte but an end: the parent died.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from orchestrator.supervisor import operations
from orchestrator.supervisor.kernel import CallError, naming, privileges, processes
from orchestrator.supervisor.mounting import Context
from orchestrator.supervisor.program import from_wire

FAILED = 127  # exit code of a child that has reported an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What children inherit from this process: capabilities held, the RLIMIT_NOFILE to give back to them, and signals to
    be put back to their default."""

    permitted: int
    nofile: tuple[int, int]
    ignored: tuple[int, ...]

    @classmethod
    def read(cls) -> Host:
        """As it is now; raises this process's own limit on descriptors to the hard one."""
        inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (inherited[1], inherited[1]))
        nofile = (min(inherited[0], 1024), inherited[1])
        return cls(permitted=privileges.permitted(), nofile=nofile, ignored=processes.ignored_signals())


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """What the parent needs of a program: namespaces made at clone, v2 cgroup folder, v1 folders, id maps."""

    new: tuple[str, ...] = ()
    cgroup: str | None = None
    cgroups: tuple[str, ...] = ()
    uid_maps: Sequence[Sequence[int]] = ()
    gid_maps: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A child that waits for `go`. The three descriptors are the caller's to close; `report` does not block."""

    pid: int
    pidfd: int
    go: int
    report: int

    def start(self) -> None:
        """Let it go; safe when it has died."""
        try:
            os.write(self.go, b"g")
        except BrokenPipeError:
            pass
        finally:
            os.close(self.go)


def launch(
    host: Host, program: bytes, birth: Birth, *, stdio: Sequence[int] = (), logs: bool = False
) -> Launched:
    """Clone a child for `program` (JSON). `stdio`: nothing (this process's own), (stdout, stderr), or all three;
    `logs`: they are our FIFOs. Raises CallError when it cannot be made."""
    flags = 0
    for kind in birth.new:
        flags |= processes.NAMESPACES[kind]
    cgroup = _open_cgroup(birth.cgroup)
    try:
        launched = _clone(
            flags, cgroup, lambda go, report: _run(host, program, birth, (go, report), stdio, logs)
        )
    finally:
        if cgroup is not None:
            os.close(cgroup)
    if birth.uid_maps:
        try:
            _write_maps(launched.pid, birth)
        except OSError:
            processes.pidfd_send_signal(launched.pidfd, signal.SIGKILL)
            os.waitpid(launched.pid, 0)
            for fd in (launched.pidfd, launched.go, launched.report):
                os.close(fd)
            raise
    return launched


def enter(
    host: Host, program: bytes, pidfd: int, birth: Birth, *, stdio: Sequence[int], passage: int = -1
) -> Launched:
    """Clone a child that joins the cgroups and namespaces of the process `pidfd` and there makes the program's process,
    a child of ours too (CLONE_PARENT): {"pid": N} on the report names it, and the first child ends. `passage`: a socket
    for the master of its terminal (OpenTerminal)."""
    cgroup = _open_cgroup(birth.cgroup)
    try:
        joined = (pidfd, passage)
        return _clone(0, cgroup, lambda go, report: _enter(host, program, birth, joined, (go, report), stdio))
    finally:
        if cgroup is not None:
            os.close(cgroup)


def _clone(flags: int, cgroup: int | None, child: Any) -> Launched:
    go, start = os.pipe2(os.O_CLOEXEC)
    report, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(report, False)
    try:
        pid, pidfd = processes.clone3(flags, cgroup=cgroup)
        if pid == 0:
            gc.disable()
            child(go, write)
            os._exit(FAILED)
    except BaseException:
        os.close(start)
        os.close(report)
        raise
    finally:
        os.close(go)
        os.close(write)
    return Launched(pid=pid, pidfd=pidfd, go=start, report=report)


def _open_cgroup(path: str | None) -> int | None:
    if path is None:
        return None
    with naming("open", path):
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _write_maps(pid: int, birth: Birth) -> None:
    for name, maps in (("uid_map", birth.uid_maps), ("gid_map", birth.gid_maps)):
        path = f"/proc/{pid}/{name}"
        with naming("write", path):
            with open(path, "w") as file:
                file.write("".join(f"{inside} {outside} {count}\n" for inside, outside, count in maps))


# From here on: in the child. It never returns.


def _run(
    host: Host, wire: bytes, birth: Birth, pipes: tuple[int, int], stdio: Sequence[int], logs: bool
) -> NoReturn:
    go, report = pipes
    try:
        _settle(host, {go, report}, stdio)
        program = from_wire(json.loads(wire))
        if not os.read(go, 1):
            os._exit(FAILED)
        os.close(go)
        if "user" in birth.new:
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            processes.prctl(processes.PR_SET_DUMPABLE, 0)
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        permitted = privileges.permitted() if "user" in birth.new else host.permitted
        given = len(stdio) == 3
        context = Context(root=-1, proc=proc, stdin=given, logs=logs, permitted=permitted, report=report)
        context.rootfs = program.rootfs
        _finish(report, operations.interpret(program, context))
    except BaseException as error:
        _finish(report, ("launch", error))


def _enter(
    host: Host,
    wire: bytes,
    birth: Birth,
    joined: tuple[int, int],
    pipes: tuple[int, int],
    stdio: Sequence[int],
) -> NoReturn:
    go, report = pipes
    pidfd, passage = joined
    try:
        _settle(host, {go, report, *joined}, stdio)
        program = from_wire(json.loads(wire))
        if not os.read(go, 1):
            os._exit(FAILED)
        os.close(go)
        for path in birth.cgroups:
            operations.join(path)
        kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup", *(("user",) if "user" in birth.new else ()))
        flags = sum(processes.NAMESPACES[kind] for kind in kinds)
        processes.setns(pidfd, flags, about="the container's namespaces")
        os.close(pidfd)
        pid, child = processes.clone3(processes.CLONE_PARENT, ends=0)
        if pid:
            os.close(child)
            _write(report, {"pid": pid})
            os._exit(0)
        os.setsid()
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        context = Context(root=root, proc=-1, stdin=True, logs=False, permitted=host.permitted, report=report)
        context.rootfs, context.passage = program.rootfs, passage
        _finish(report, operations.interpret(program, context))
    except BaseException as error:
        _finish(report, ("enter", error))


def _settle(host: Host, keep: set[int], stdio: Sequence[int]) -> None:
    """Take `stdio`, let go of everything else, and be like a fresh process: signals, session, umask, limits."""
    # Nobody may look into this process (/proc/N/mem, /proc/N/fd) while it is on its way into a container.
    processes.prctl(processes.PR_SET_DUMPABLE, 0)
    for fd, given in enumerate(stdio, 3 - len(stdio)):
        os.dup2(given, fd)
    processes.close_others(keep)
    sys.meta_path.clear()  # nothing is ever imported from inside a root
    sys.path_hooks.clear()
    processes.default_signals(host.ignored)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if stdio:
        os.setsid()
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_NOFILE, host.nofile)


def _finish(report: int, failed: tuple[str, BaseException] | None) -> NoReturn:
    if failed is None:
        os._exit(0)
    name, error = failed
    known = isinstance(error, CallError)
    number = error.errno if isinstance(error, OSError) else None
    call = error.call if known else type(error).__name__  # type: ignore[attr-defined]
    argument = error.argument if known else ""  # type: ignore[attr-defined]
    text = str(error) if known else f"{name}: {type(error).__name__}: {error}"
    _write(report, {"operation": name, "call": call, "argument": argument, "errno": number, "message": text})
    os._exit(FAILED)


def _write(report: int, line: dict[str, Any]) -> None:
    with suppress(OSError):  # the parent died: the exit code tells
        os.write(report, json.dumps(line).encode() + b"\n")
