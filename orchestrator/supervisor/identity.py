"""Users and groups as the container's own /etc/passwd and /etc/group name them (passwd(5), group(5)).

In: `NAME`, `UID`, `NAME:GROUP` or `UID:GID` and the root's descriptor. Out: numbers and home. Read and parsed here: no
NSS, so that no library of the host or of the rootfs is loaded. Numbers need no passwd.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.supervisor.kernel import CallError
from orchestrator.supervisor.kernel.mounts import open_beneath

MAX_ID = 65535  # the span of ids that a container's user namespace holds
_MAX_FILE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`groups` are the supplementary ones, `gid` among them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(root: int, user: str) -> Identity:
    """The identity that `user` means inside `root`; raises CallError that says which file lacks the name.

    As with other container tools: a user alone brings its groups of /etc/group, `user:group` only that group.
    """
    name, colon, group = user.partition(":")
    if not name or (colon and not group):
        raise _error(errno.EINVAL, f"user {user!r} is not USER or USER:GROUP")
    uid = _number(name)
    gid, home = 0, "/"
    for entry in _entries(root, "/etc/passwd", 7):
        if (uid is not None and entry[2] == str(uid)) or (uid is None and entry[0] == name):
            found, own = _number(entry[2]), _number(entry[3])
            if found is None or own is None:
                raise _error(errno.EINVAL, f"user {name!r} has no numbers in the rootfs's /etc/passwd")
            uid, gid, home, name = found, own, entry[5] or "/", entry[0]
            break
    if uid is None:
        raise _error(errno.ENOENT, f"user {name!r} is not in the rootfs's /etc/passwd")
    if colon:
        gid = _group(root, group)
        return Identity(uid=uid, gid=gid, groups=(gid,), home=home)
    return Identity(uid=uid, gid=gid, groups=tuple(sorted({gid, *_memberships(root, name)})), home=home)


def _group(root: int, group: str) -> int:
    gid = _number(group)
    if gid is not None:
        return gid
    for entry in _entries(root, "/etc/group", 4):
        if entry[0] == group and (gid := _number(entry[2])) is not None:
            return gid
    raise _error(errno.ENOENT, f"group {group!r} is not in the rootfs's /etc/group")


def _memberships(root: int, name: str) -> Iterator[int]:
    for entry in _entries(root, "/etc/group", 4):
        if name in entry[3].split(",") and (gid := _number(entry[2])) is not None:
            yield gid


def _entries(root: int, path: str, fields: int) -> Iterator[list[str]]:
    for line in _text(root, path).splitlines():
        entry = line.split(":")
        if len(entry) >= fields and not line.startswith("#"):
            yield entry


def _text(root: int, path: str) -> str:
    """The file's text; empty where there is none. Regular files only, opened without blocking: a FIFO would hang us."""
    try:
        fd = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return ""
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _error(errno.EINVAL, f"the rootfs's {path} is not a regular file")
        if status.st_size > _MAX_FILE:
            raise _error(errno.EFBIG, f"the rootfs's {path} is larger than 4 MiB")
        with open(fd, "rb", closefd=False) as file:
            return file.read(_MAX_FILE).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def _number(text: str) -> int | None:
    """A decimal id; None for a name; raises for a number out of range."""
    if not (text.isascii() and text.lstrip("-").isdigit()):
        return None
    if text.startswith("-") or len(text) > 10 or int(text) > MAX_ID:
        raise _error(errno.EINVAL, f"id {text} is out of range: users and groups go from 0 to {MAX_ID}")
    return int(text)


def _error(code: int, text: str) -> CallError:
    return CallError(code, "setresuid", text=text)
