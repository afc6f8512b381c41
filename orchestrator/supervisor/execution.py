"""The last operation, execve(2), and why it failed in words.

In: argv, environment and what the set-up has found out. Does not return on success. Nothing of the container is run or
loaded by us; a file that would not start is only looked at.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
import struct

from orchestrator.supervisor import program as ops
from orchestrator.supervisor.kernel import CallError, naming, processes
from orchestrator.supervisor.mounting import Context, null_device

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MACHINES = {3: "i386", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


def execute(context: Context, each: ops.Execute) -> None:
    if not each.argv or not each.argv[0]:
        raise CallError(errno.EINVAL, "execve", text="the command is empty")
    env = dict(each.env)
    env.setdefault("HOME", context.home)
    if not context.stdin:
        _open_stdin(context)
    os.umask(0o022)
    processes.close_at_exec(3)
    name, refused = each.argv[0], None
    for path in _candidates(name, env.get("PATH", PATH)):
        try:
            os.execve(path, each.argv, env)
        except OSError as error:
            refused = _consider(path, error, context.inside) or refused
        except ValueError as error:  # an embedded NUL, or = in a variable's name
            raise CallError(errno.EINVAL, "execve", path, text=f"execve {path}: {error}") from None
    if refused is not None:
        raise refused
    raise CallError(errno.ENOENT, "execve", name, text=f'command "{name}" not found{context.inside}')


def _open_stdin(context: Context) -> None:
    if context.root < 0:
        with naming("open", "/dev/null"):
            fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    else:
        fd = null_device(context, os.O_RDWR)
    os.dup2(fd, 0)
    os.close(fd)


def _candidates(name: str, path: str) -> list[str]:
    return [name] if "/" in name else [f"{folder or '.'}/{name}" for folder in path.split(":")]


def _consider(path: str, error: OSError, inside: str) -> CallError | None:
    """None: look further along PATH; returned: the error if nothing else is found; raised: the end. `inside`: where."""
    code = error.errno or errno.EIO
    try:
        status = os.stat(path)
    except OSError:
        if code in (errno.ENOENT, errno.ENOTDIR):
            return None
        return CallError(code, "execve", path)
    if stat.S_ISDIR(status.st_mode):
        return CallError(errno.EISDIR, "execve", path, text=f"{path}{inside} is a directory, not a program")
    if code == errno.ENOENT:
        text = f"{path}{inside} needs the interpreter {_interpreter(path)}, which is missing"
        raise CallError(code, "execve", path, text=text)
    if code == errno.EACCES:
        return CallError(code, "execve", path, text=f"{path}{inside} is not executable by this user")
    if code == errno.ENOEXEC:
        raise CallError(code, "execve", path, text=_not_a_program(path, inside))
    raise CallError(code, "execve", path)


def _interpreter(path: str) -> str:
    """What the first line of a script, or PT_INTERP of an ELF file (elf(5)), asks for."""
    head = _head(path)
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n")[0].split()
        return os.fsdecode(words[0]) if words else "(none)"
    try:
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for number in range(count):
            kind, _, place = struct.unpack_from("<IIQ", head, offset + number * size)
            if kind == 3:
                return os.fsdecode(head[place : head.index(b"\0", place)])
    except (struct.error, ValueError):
        pass
    return "that it names"


def _not_a_program(path: str, inside: str) -> str:
    head = _head(path)
    if head.startswith(b"\x7fELF") and len(head) >= 20:
        number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
        machine = _MACHINES.get(number, f"machine {number}")
        if machine != platform.machine():
            return f"{path}{inside} is a program for {machine}, and this machine is {platform.machine()}"
    return f"{path}{inside} is not a program: neither a binary nor a script with #!"


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(65536)
    except OSError:
        return b""
