"""Project quotas: the most that a folder may hold, where the file system counts by project (quotactl(2), ext4, xfs).

In: a folder, bytes. Out: a limit that the kernel enforces (EDQUOT for who writes past it). The project's number is
made of the folder's path: the same folder has the same one, whoever asks.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import struct
from pathlib import Path

from orchestrator.supervisor.kernel import call
from orchestrator.supervisor.kernel.mounts import filesystem

_EXT4, _XFS = 0xEF53, 0x58465342  # statfs(2)
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR: linux/fs.h
_ATTRIBUTES = struct.Struct("=5I8x")  # struct fsxattr: flags, extsize, nextents, project, cowextsize
_INHERIT = 0x00000200  # FS_XFLAG_PROJINHERIT
_PROJECTS = 2  # PRJQUOTA
_SET = 0x800008 << 8 | _PROJECTS  # QCMD(Q_SETQUOTA, PRJQUOTA)
_LIMITS = struct.Struct(
    "=8QI4x"
)  # struct if_dqblk: hard and soft blocks, space, hard and soft inodes, inodes, times, valid
_BLOCK, _BLOCKS_VALID = 1024, 1
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHANGED = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ESTALE)


def unsupported(folder: str) -> str | None:
    """Why no limit can be set on a folder there, or None."""
    at = Path(folder)
    while not at.exists():
        at = at.parent
    fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kind = filesystem(fd)
    finally:
        os.close(fd)
    if kind not in (_EXT4, _XFS):
        return "its file system has no project quotas (ext4 and xfs have)"
    options = _options(at)
    if not options & {"prjquota", "pquota", "prjjquota"}:
        return "its file system is mounted without project quotas"
    return None


def limit(folder: Path, size: int | None) -> None:
    """At most `size` bytes in `folder`; None: no limit. Raises OSError."""
    project = int.from_bytes(hashlib.sha256(os.fsencode(folder)).digest()[:4], "big") % (1 << 31) or 1
    if size is not None:
        _assign_all(folder, project)
    blocks = -(-size // _BLOCK) if size is not None else 0
    request = _LIMITS.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _BLOCKS_VALID)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(
            "quotactl_fd",
            fd,
            _SET,
            project,
            ctypes.create_string_buffer(request, len(request)),
            about=str(folder),
        )
    except OSError as error:
        if size is not None or error.errno not in (errno.ESRCH, errno.ENOSYS, errno.EOPNOTSUPP):
            raise  # without a limit there is none to take back
    finally:
        os.close(fd)


def _assign_all(folder: Path, project: int) -> None:
    """All that is there, name by name beneath its own folder: a container may put a symlink in the place of a folder
    meanwhile, and nest deeper than a stack or a path of ours goes. What goes away or changes its kind is passed over."""
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    left = [(top, iter(_entered(top, project)))]
    try:
        while left:
            fd, coming = left[-1]
            name = next(coming, None)
            if name is None:
                os.close(left.pop()[0])
                continue
            try:
                kind = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
                    continue
                child = os.open(name, os.O_RDONLY | _SAFE, dir_fd=fd)
            except OSError as error:
                if error.errno in _CHANGED:
                    continue
                raise
            if stat.S_ISDIR(os.fstat(child).st_mode):
                left.append((child, iter(())))  # closed with the others, whatever fails
                left[-1] = child, iter(_entered(child, project))
                continue
            try:
                if stat.S_ISREG(os.fstat(child).st_mode):
                    _assign(child, project, folder=False)
            finally:
                os.close(child)
    finally:
        for fd, _ in left:
            os.close(fd)


def _entered(fd: int, project: int) -> list[str]:
    """The names in a folder that belongs to the project now, as does what is made in it from here on."""
    _assign(fd, project, folder=True)
    return os.listdir(fd)


def _assign(fd: int, project: int, *, folder: bool) -> None:
    raw = bytearray(_ATTRIBUTES.size)
    fcntl.ioctl(fd, _GET_ATTRIBUTES, raw)
    flags, extent, extents, _, cow = _ATTRIBUTES.unpack(raw)
    wanted = flags | _INHERIT if folder else flags
    fcntl.ioctl(fd, _SET_ATTRIBUTES, _ATTRIBUTES.pack(wanted, extent, extents, project, cow))


def _options(path: Path) -> set[str]:
    """Those of the mount that holds the path (/proc/self/mountinfo, proc(5)), the file system's own too."""
    device = os.stat(path).st_dev  # noqa: PTH116
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return set(fields.split()[5].split(",")) | set(rest.split()[-1].split(","))
    return set()
