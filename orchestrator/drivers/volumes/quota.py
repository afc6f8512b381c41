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
        for top, folders, files in os.walk(folder):
            _assign(top, project, folder=True)
            for each in (*folders, *files):
                path = f"{top}/{each}"
                if os.path.isfile(path) and not os.path.islink(path):  # noqa: PTH113, PTH114
                    _assign(path, project, folder=False)
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


def _assign(path: str, project: int, *, folder: bool) -> None:
    """What is made in a folder from now on belongs to its project, too."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        raw = bytearray(_ATTRIBUTES.size)
        fcntl.ioctl(fd, _GET_ATTRIBUTES, raw)
        flags, extent, extents, _, cow = _ATTRIBUTES.unpack(raw)
        wanted = flags | _INHERIT if folder else flags
        fcntl.ioctl(fd, _SET_ATTRIBUTES, _ATTRIBUTES.pack(wanted, extent, extents, project, cow))
    finally:
        os.close(fd)


def _options(path: Path) -> set[str]:
    """Those of the mount that holds the path (/proc/self/mountinfo, proc(5)), the file system's own too."""
    device = os.stat(path).st_dev  # noqa: PTH116
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return set(fields.split()[5].split(",")) | set(rest.split()[-1].split(","))
    return set()
