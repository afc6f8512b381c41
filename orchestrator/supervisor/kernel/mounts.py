"""Mounts by descriptor (open_tree, fsopen, move_mount: Linux 5.2; mount_setattr: 5.12) and paths beneath a root.

No path of a container is ever given to mount(2): a target is resolved once, to a descriptor, and the mount moved onto it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from orchestrator.supervisor.kernel import CallError, call

MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NODEV, MS_REMOUNT = 0x2, 0x4, 0x20
MNT_DETACH = 2
PROC, DEVPTS, OVERLAY = 0x9FA0, 0x1CD1, 0x794C7630  # statfs(2)
AT_FDCWD = -100
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_IN_ROOT = 0x02, 0x04, 0x10
ATTRIBUTES = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "noatime": 0x10,
    "relatime": 0x0,
    "exec": 0x0,
}

_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 0x1, 0x80000
_MOVE_FROM_FD, _MOVE_TO_FD = 0x4, 0x40  # MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # fsconfig(2)
_ATIME = 0x70
_EXCHANGE = 0x2
_TRIES = 16  # of one openat2
_HOW = struct.Struct("=QQQ")
_ATTR = struct.Struct("=QQQQ")


def mount(source: str, target: str, type: str, flags: int, options: str = "") -> None:
    """mount(2), for paths of the host."""
    data = options.encode()
    if len(data) > 4095:
        raise CallError(errno.E2BIG, "mount", f"{target} (its options are longer than a page)")
    call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        type.encode(),
        flags,
        data,
        about=f"{type} {target}".strip(),
    )


def detach(path: str) -> None:
    """umount2(2), lazily."""
    call("umount2", os.fsencode(path), MNT_DETACH, about=path)


def pivot_root(new: str, put_old: str) -> None:
    call("pivot_root", os.fsencode(new), os.fsencode(put_old), about=new)


def open_tree(fd: int, path: str = "", *, recursive: bool = False) -> int:
    """A detached copy of the mount at `path` (or of `fd` itself)."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    flags |= 0 if path else _AT_EMPTY_PATH
    return call("open_tree", fd, os.fsencode(path), flags, about=path)


def new_filesystem(type: str, options: str, attributes: int) -> int:
    """fsopen, fsconfig and fsmount: a detached mount. `options` is what mount(8) would take after -o."""
    context = call("fsopen", type.encode(), 1, about=type)
    try:
        for each in filter(None, options.split(",")):
            key, equals, value = each.partition("=")
            if equals:
                call(
                    "fsconfig", context, _SET_STRING, key.encode(), value.encode(), 0, about=f"{type} {each}"
                )
            else:
                call("fsconfig", context, _SET_FLAG, key.encode(), None, 0, about=f"{type} {each}")
        call("fsconfig", context, _CREATE, None, None, 0, about=type)
        return call("fsmount", context, 1, attributes, about=type)
    finally:
        os.close(context)


def move_mount(source: int, target: int, *, about: str = "") -> None:
    """Attach the detached mount `source` on top of the file or folder `target`."""
    call("move_mount", source, b"", target, b"", _MOVE_FROM_FD | _MOVE_TO_FD, about=about)


def set_attributes(fd: int, names: tuple[str, ...], *, recursive: bool = False, about: str = "") -> None:
    """mount_setattr(2): add attributes (ro, nosuid, ...) to the mount of `fd`; `exec` takes noexec away."""
    bits = 0
    for name in names:
        bits |= attribute(name)
    clear = _ATIME if {"noatime", "relatime"} & set(names) else 0
    clear |= ATTRIBUTES["noexec"] if "exec" in names else 0
    data = ctypes.create_string_buffer(_ATTR.pack(bits, clear, 0, 0), _ATTR.size)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    call("mount_setattr", fd, b"", flags, data, _ATTR.size, about=about)


def attribute(name: str) -> int:
    """The bit of one mount flag; raises CallError for an unknown name."""
    try:
        return ATTRIBUTES[name]
    except KeyError:
        raise CallError(errno.EINVAL, "mount", f"flag {name}") from None


def open_beneath(root: int, path: str, flags: int, *, symlinks: bool = True) -> int:
    """openat2(2) of `path` inside `root`: symlinks and `..` stay in it, magic links are refused.

    Where openat2 is refused (ENOSYS: a kernel before 5.6, or a filter above us), or says again and again that somebody on
    the host renames or mounts (EAGAIN: a `..` was on the way), the path is walked name by name.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (0 if symlinks else RESOLVE_NO_SYMLINKS)
    how = ctypes.create_string_buffer(_HOW.pack(flags | os.O_CLOEXEC, 0, resolve), _HOW.size)
    for _ in range(_TRIES):
        try:
            return call("openat2", root, os.fsencode(path) or b".", how, _HOW.size, about=path)
        except CallError as error:
            if error.errno == errno.ENOSYS:
                break
            if error.errno != errno.EAGAIN:
                raise
    return _walk(root, path, flags, symlinks)


def _walk(root: int, path: str, flags: int, symlinks: bool) -> int:
    """open_beneath without openat2: O_NOFOLLOW on each name, links read and followed by us. A chain of descriptors makes
    `..` stop at the root even while somebody renames folders."""
    chain, names, links = [(os.dup(root), ".")], path.split("/")[::-1], 0
    try:
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(chain) > 1:
                    os.close(chain.pop()[0])
                continue
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=chain[-1][0])
            chain.append((fd, name))
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                continue
            links += 1
            if not symlinks or links > 40 or is_procfs(fd):  # of procfs all links are refused: some are magic
                raise CallError(errno.ELOOP, "open", path)
            destination = os.readlink("", dir_fd=fd)
            os.close(chain.pop()[0])
            names += destination.split("/")[::-1]
            while destination.startswith("/") and len(chain) > 1:
                os.close(chain.pop()[0])
        last, name = chain[-1]
        if flags & os.O_PATH:
            return os.dup(last)
        fd = os.open(
            name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=chain[-2][0] if len(chain) > 1 else last
        )
        if not os.path.sameopenfile(fd, last):
            os.close(fd)
            raise CallError(errno.EAGAIN, "open", path)
        return fd
    finally:
        for each, _ in chain:
            os.close(each)


def exchange(parent: int, first: str, second: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: two names in one folder trade what they name, both or neither."""
    call("renameat2", parent, os.fsencode(first), parent, os.fsencode(second), _EXCHANGE, about=first)


def is_procfs(fd: int) -> bool:
    """Whether `fd` lies on a proc file system."""
    return filesystem(fd) == PROC


def filesystem(fd: int) -> int:
    """The magic number of the file system that `fd` lies on (fstatfs(2))."""
    buffer = ctypes.create_string_buffer(256)
    if _fstatfs(fd, buffer) != 0:
        raise CallError(ctypes.get_errno(), "fstatfs", str(fd))
    return int(struct.unpack_from("=q", buffer.raw)[0])


_fstatfs = ctypes.PyDLL(None, use_errno=True).fstatfs
