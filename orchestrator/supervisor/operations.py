"""Which function runs which operation, and the operations on cgroups, namespaces, limits and privileges.

In: a `Program` and a `Context`, in the new process. Out: `OperationError` that names the operation, or no return at all.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from orchestrator.supervisor import execution, identity, mounting, terminal
from orchestrator.supervisor import program as ops
from orchestrator.supervisor.kernel import CallError, mounts, naming, privileges, processes
from orchestrator.supervisor.mounting import Context


def join_cgroup(context: Context, each: ops.JoinCgroup) -> None:
    join(each.path)


def join(path: str) -> None:
    """Move this process, which has one thread, into the cgroup folder `path`.

    By v1's `tasks` where there is one: for a lone thread that moves itself the kernel takes no lock over all processes,
    and so waits for no RCU grace period (0.04 ms instead of 10 ms; kernel/cgroup/cgroup.c, cgroup_procs_write_start).
    """
    tasks = f"{path}/tasks"
    procs = tasks if os.path.exists(tasks) else f"{path}/cgroup.procs"
    with naming("write", procs):
        fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def join_namespace(context: Context, each: ops.JoinNamespace) -> None:
    flag = _namespace(each.kind)
    with naming("open", each.path):
        fd = os.open(each.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        processes.setns(fd, flag, about=each.path)
    finally:
        os.close(fd)


def new_namespace(context: Context, each: ops.NewNamespace) -> None:
    processes.unshare(_namespace(each.kind), about=each.kind)


def pin_namespace(context: Context, each: ops.PinNamespace) -> None:
    _namespace(each.kind)
    with naming("open", each.path):
        os.close(os.open(each.path, os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        mounts.detach(each.path)  # a pin that an interrupted attempt left
    except CallError as error:
        if error.errno != errno.EINVAL:
            raise
    mounts.mount(f"/proc/thread-self/ns/{each.kind}", each.path, "", mounts.MS_BIND)


def _namespace(kind: str) -> int:
    try:
        return processes.NAMESPACES[kind]
    except KeyError:
        raise CallError(errno.EINVAL, "setns", kind) from None


def set_hostname(context: Context, each: ops.SetHostname) -> None:
    with naming("sethostname", each.name):
        socket.sethostname(each.name)


def set_sysctl(context: Context, each: ops.SetSysctl) -> None:
    name = each.name if "/" in each.name else each.name.replace(".", "/")
    if ".." in name.split("/"):
        raise CallError(errno.EINVAL, "open", each.name)
    _write_proc(context, f"sys/{name}", each.value)


def set_oom_score(context: Context, each: ops.SetOomScore) -> None:
    _write_proc(context, "self/oom_score_adj", str(each.value))


def _write_proc(context: Context, path: str, value: str) -> None:
    with naming("write", f"/proc/{path}"):
        if context.proc >= 0:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=context.proc)
        else:
            fd = mounts.open_beneath(context.root, f"proc/{path}", os.O_WRONLY)
        try:
            if not mounts.is_procfs(fd):
                raise CallError(errno.EPERM, "write", f"/proc/{path} (not a proc file system)")
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def set_rlimit(context: Context, each: ops.SetRlimit) -> None:
    number = getattr(resource, f"RLIMIT_{each.name.upper()}", None)
    if number is None:
        raise CallError(errno.EINVAL, "setrlimit", each.name)
    try:
        resource.setrlimit(number, (each.soft, each.hard))
    except ValueError:  # so Python calls EPERM: without CAP_SYS_RESOURCE a hard limit is never raised
        _, top = resource.getrlimit(number)
        resource.setrlimit(number, (_lower(each.soft, top), _lower(each.hard, top)))


def _lower(value: int, top: int) -> int:
    if top == resource.RLIM_INFINITY:
        return value
    return top if value == resource.RLIM_INFINITY else min(value, top)


def give_file(context: Context, each: ops.GiveFile) -> None:
    try:
        who = _identity(context, each.owner)
    except CallError as error:
        text = f"owner of {each.target}: {error}"
        raise CallError(error.errno or errno.EIO, error.call, error.argument, text=text) from error
    with naming("open", each.path):
        fd = os.open(each.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with naming("fchown", each.path):
            os.fchown(fd, who.uid, who.gid)
            os.fchmod(fd, each.mode)
    finally:
        os.close(fd)


def _identity(context: Context, user: str) -> identity.Identity:
    root = context.root if context.root >= 0 else os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return identity.resolve(root, user)
    except CallError as error:
        if not context.rootfs:
            raise
        text = f'rootfs "{context.rootfs}": {error}'
        raise CallError(error.errno or errno.EIO, error.call, error.argument, text=text) from error


def set_identity(context: Context, each: ops.SetIdentity) -> None:
    who = _identity(context, each.user)
    if context.logs:
        with naming("fchown", "the log FIFOs"):
            os.fchown(1, who.uid, who.gid)
            os.fchown(2, who.uid, who.gid)
    with naming("setresuid", each.user):
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        # The bounding set is still to be dropped, for which SETPCAP is needed; execve(2) ends what is kept here.
        processes.prctl(processes.PR_SET_KEEPCAPS, 1)
        os.setresuid(who.uid, who.uid, who.uid)
    processes.prctl(processes.PR_SET_DUMPABLE, 0)
    privileges.capset(context.permitted, context.permitted)
    context.home = who.home


def limit_capabilities(context: Context, each: ops.LimitCapabilities) -> None:
    keep = privileges.bits(each.keep) & context.permitted
    privileges.drop_bounding(keep)
    privileges.clear_ambient()
    held = keep if os.geteuid() == 0 else 0
    privileges.capset(held, held)
    context.permitted = held


def no_new_privileges(context: Context, each: ops.NoNewPrivileges) -> None:
    processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1, about="no_new_privs")


def load_seccomp(context: Context, each: ops.LoadSeccomp) -> None:
    privileges.load_filter(b64decode(each.filter))


_FUNCTIONS: dict[type[Any], Callable[[Context, Any], None]] = {
    ops.JoinCgroup: join_cgroup,
    ops.JoinNamespace: join_namespace,
    ops.NewNamespace: new_namespace,
    ops.PinNamespace: pin_namespace,
    ops.SetHostname: set_hostname,
    ops.SetSysctl: set_sysctl,
    ops.PrivateMounts: mounting.private_mounts,
    ops.MountOverlay: mounting.mount_overlay,
    ops.EnterRoot: mounting.enter_root,
    ops.MakeDirectory: mounting.make_directory,
    ops.MakeSymlink: mounting.make_symlink,
    ops.MountFilesystem: mounting.mount_filesystem,
    ops.MountBind: mounting.mount_bind,
    ops.GiveFile: give_file,
    ops.MakeDevice: mounting.make_device,
    ops.PivotRoot: mounting.pivot_root,
    ops.MaskPath: mounting.mask_path,
    ops.ReadOnlyPath: mounting.read_only_path,
    ops.RemountRootReadOnly: mounting.remount_root_read_only,
    ops.SetRlimit: set_rlimit,
    ops.SetOomScore: set_oom_score,
    ops.ChangeDirectory: mounting.change_directory,
    ops.SetIdentity: set_identity,
    ops.OpenTerminal: terminal.open_terminal,
    ops.LimitCapabilities: limit_capabilities,
    ops.NoNewPrivileges: no_new_privileges,
    ops.LoadSeccomp: load_seccomp,
    ops.Execute: execution.execute,
}


def interpret(program: ops.Program, context: Context) -> tuple[str, Exception] | None:
    """Run the operations in order. Returns the name and the error of the one that failed; None after the last of a
    program without Execute."""
    for each in program.operations:
        try:
            _FUNCTIONS[type(each)](context, each)
        except Exception as error:  # whatever it is, it is reported and this process ends
            return type(each).__name__, error
    return None
