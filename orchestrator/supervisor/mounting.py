"""The operations on mounts and paths, run in the new process.

In: an operation and the `Context`. Before EnterRoot paths are the host's; after it every path is resolved beneath the
root (`kernel.mounts.open_beneath`), so no symlink of a rootfs leads out of it, and mounts are moved onto descriptors.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from orchestrator.supervisor import program as ops
from orchestrator.supervisor.kernel import CallError, mounts, naming
from orchestrator.supervisor.kernel.mounts import MS_PRIVATE, MS_REC

_OURS = (
    "proc",
    "sys",
    "dev",
)  # must be ordinary folders of the rootfs: a symlink there would misplace what protects us
_NULL = (1, 3)
_LONG = 2000  # of overlay options


@dataclass(slots=True)
class Context:
    """Where a set-up stands. `root`: descriptor that paths after EnterRoot are resolved beneath, -1 before it.
    `proc`: the host's /proc (-1: the one inside). `stdin`: whether descriptor 0 was given; `logs`: whether 1 and 2 are
    our FIFOs. `permitted`: the capabilities held. `report`: where an error goes, closed by execve. `rootfs`: the
    root's name, told in errors where it is known. `passage`: where a terminal's master is sent."""

    root: int
    proc: int
    stdin: bool
    logs: bool
    permitted: int
    report: int
    rootfs: str = ""
    home: str = "/"
    passage: int = -1
    empty: int = -1  # a mounted empty read-only tmpfs, copied for each masked folder

    @property
    def inside(self) -> str:
        """` in rootfs "NAME"`, or nothing."""
        return f' in rootfs "{self.rootfs}"' if self.rootfs else ""


def private_mounts(context: Context, each: ops.PrivateMounts) -> None:
    mounts.mount("none", "/", "", MS_REC | MS_PRIVATE)


def mount_overlay(context: Context, each: ops.MountOverlay) -> None:
    if each.upper is None and len(each.lowers) == 1:  # an overlay of one layer is refused by the kernel
        with naming("open", each.target):
            point = os.open(each.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        tree = mounts.open_tree(mounts.AT_FDCWD, each.lowers[0])
        mounts.set_attributes(tree, ("ro",), about=each.lowers[0])
        _attach(tree, point, each.target)
        return
    options = _overlay_options(each, None)
    if len(options) <= _LONG:
        mounts.mount("overlay", each.target, "overlay", 0, options)
        return
    # mount(2) takes a page of options: 127 layers fit by short names, from the folder that they have in common. Nobody
    # else has our working directory: this process has one thread, and PivotRoot and ChangeDirectory set it anew.
    common = os.path.commonpath(each.lowers)
    with naming("chdir", common):
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir(common)
    try:
        mounts.mount("overlay", each.target, "overlay", 0, _overlay_options(each, common))
    finally:
        os.fchdir(before)
        os.close(before)


def _overlay_options(each: ops.MountOverlay, start: str | None) -> str:
    """As mount(8) takes them after -o; with paths below `start` relative to it, where that is shorter."""
    options = "lowerdir=" + ":".join(_escaped(_short(lower, start)) for lower in each.lowers)
    if each.upper is not None:
        upper, work = _short(each.upper, start), _short(each.work or "", start)
        options += f",upperdir={_escaped(upper)},workdir={_escaped(work)}"
    return options


def _short(path: str, start: str | None) -> str:
    return path if start is None or not path else min(path, os.path.relpath(path, start), key=len)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def enter_root(context: Context, each: ops.EnterRoot) -> None:
    with naming("open", each.path):
        root = os.open(each.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not os.path.ismount(each.path):  # pivot_root(2) wants a mount point
            tree = mounts.open_tree(root, recursive=True)
            mounts.move_mount(tree, root, about=each.path)
            os.close(root)
            root = tree
    context.root = root


def pivot_root(context: Context, each: ops.PivotRoot) -> None:
    _inside(context)
    os.fchdir(context.root)
    mounts.pivot_root(".", ".")  # the old root now lies on top of the new one: pivot_root(2), NOTES
    mounts.detach(".")
    os.chdir("/")


def make_directory(context: Context, each: ops.MakeDirectory) -> None:
    before = _exists(context, each.path)
    fd = directory(context, each.path)
    try:
        if not before:
            with naming("chmod", each.path):  # mkdir's mode is subject to the umask, and has no sticky bit
                own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                os.fchmod(own, each.mode)
                os.close(own)
    finally:
        os.close(fd)


def make_symlink(context: Context, each: ops.MakeSymlink) -> None:
    parent, name = os.path.split(_normal(each.path))
    fd = directory(context, parent)
    try:
        with naming("symlink", each.path):
            try:
                os.symlink(each.destination, name, dir_fd=fd)
            except FileExistsError:
                os.unlink(name, dir_fd=fd)  # a folder is refused: EISDIR
                os.symlink(each.destination, name, dir_fd=fd)
    finally:
        os.close(fd)


def mount_filesystem(context: Context, each: ops.MountFilesystem) -> None:
    fd = target(context, each.target, folder=True)
    attributes = 0
    for flag in each.flags:
        attributes |= mounts.attribute(flag)
    _attach(mounts.new_filesystem(each.type, each.options, attributes), fd, each.target)


def mount_bind(context: Context, each: ops.MountBind) -> None:
    tree = mounts.open_tree(mounts.AT_FDCWD, each.source, recursive=each.recursive)
    folder = stat.S_ISDIR(os.fstat(tree).st_mode)
    if each.flags:
        mounts.set_attributes(tree, each.flags, recursive=each.recursive, about=each.source)
    _attach(tree, target(context, each.target, folder=folder), each.target)


def make_device(context: Context, each: ops.MakeDevice) -> None:
    path, device = f"/dev/{each.name}", os.makedev(each.major, each.minor)
    parent = directory(context, "/dev")
    mask = os.umask(0)
    try:
        with naming("mknod", path):
            os.mknod(each.name, 0o666 | stat.S_IFCHR, device, dir_fd=parent)
    except CallError as error:
        if error.errno != errno.EPERM:
            raise
        _bind_device(context, path, (each.major, each.minor))
    finally:
        os.umask(mask)
        os.close(parent)


def _bind_device(context: Context, path: str, expected: tuple[int, int]) -> None:
    """The host's own node, where a user namespace may make none; read-only, so that nobody inside changes its mode."""
    with naming("open", path):
        device = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    _check_device(device, path, expected)
    tree = mounts.open_tree(device)
    mounts.set_attributes(tree, ("ro", "nosuid", "noexec"), about=path)
    _attach(tree, target(context, path, folder=False), path)
    os.close(device)


def mask_path(context: Context, each: ops.MaskPath) -> None:
    fd = _lookup(context, each.path)
    if fd is None:
        return
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        null = null_device(context, os.O_PATH)
        _attach(mounts.open_tree(null), fd, each.path)
        os.close(null)
    elif context.empty < 0:
        names = ("ro", "nosuid", "nodev", "noexec")
        attributes = sum(mounts.attribute(name) for name in names)
        context.empty = mounts.new_filesystem("tmpfs", "size=4k,nr_inodes=2,mode=555", attributes)
        mounts.move_mount(context.empty, fd, about=each.path)
        os.close(fd)
    else:
        _attach(mounts.open_tree(context.empty), fd, each.path)


def read_only_path(context: Context, each: ops.ReadOnlyPath) -> None:
    fd = _lookup(context, each.path)
    if fd is not None:
        tree = mounts.open_tree(fd, recursive=True)
        mounts.set_attributes(tree, ("ro",), recursive=True, about=each.path)
        _attach(tree, fd, each.path)


def remount_root_read_only(context: Context, each: ops.RemountRootReadOnly) -> None:
    mounts.set_attributes(_inside(context), ("ro",), about="/")


def change_directory(context: Context, each: ops.ChangeDirectory) -> None:
    fd = directory(context, each.path) if each.make else _open(context, each.path, os.O_PATH | os.O_DIRECTORY)
    with naming("chdir", each.path):
        os.fchdir(fd)
    os.close(fd)


def null_device(context: Context, flags: int) -> int:
    """The container's own /dev/null, checked to be that device."""
    fd = mounts.open_beneath(_inside(context), "/dev/null", flags, symlinks=False)
    _check_device(fd, "/dev/null", _NULL)
    return fd


def directory(context: Context, path: str) -> int:
    """O_PATH descriptor of the folder `path` in the root, made with its parents where missing (mode 755)."""
    root, path = _inside(context), _normal(path)
    symlinks = path.split("/")[1] not in _OURS
    try:
        return mounts.open_beneath(root, path, os.O_PATH | os.O_DIRECTORY, symlinks=symlinks)
    except CallError as error:
        _explain(error, path)
        if error.errno != errno.ENOENT:
            raise
    fd, done = os.dup(root), ""
    for name in path.split("/")[1:]:
        done += f"/{name}"
        parent = fd
        try:
            fd = _subdirectory(root, parent, done, symlinks=symlinks)
        finally:
            os.close(parent)
    return fd


def _subdirectory(root: int, parent: int, path: str, *, symlinks: bool) -> int:
    try:
        return mounts.open_beneath(root, path, os.O_PATH | os.O_DIRECTORY, symlinks=symlinks)
    except CallError as error:
        _explain(error, path)
        if error.errno != errno.ENOENT:
            raise
    try:
        os.mkdir(os.path.basename(path), 0o755, dir_fd=parent)
    except FileExistsError:
        raise CallError(
            errno.ENOENT, "mkdir", path, text=f"mkdir {path}: a symlink that leads nowhere"
        ) from None
    except OSError as error:
        raise CallError(error.errno or errno.EIO, "mkdir", path) from error
    return mounts.open_beneath(root, path, os.O_PATH | os.O_DIRECTORY, symlinks=symlinks)


def target(context: Context, path: str, *, folder: bool) -> int:
    """O_PATH descriptor of the mount target `path`, made where missing; refused on a proc file system."""
    path = _normal(path)
    fd = directory(context, path) if folder else _file(context, path)
    if path == "/" or mounts.is_procfs(fd):
        raise CallError(errno.EPERM, "move_mount", path, text=f"nothing may be mounted at {path}")
    return fd


def _file(context: Context, path: str) -> int:
    parent, name = os.path.split(path)
    fd = directory(context, parent)
    try:
        with naming("open", path):
            try:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=fd))
            except FileExistsError:
                _replace_dangling(context, fd, path)
            except OSError as error:
                if error.errno != errno.EROFS:  # it may exist on a read-only file system: the next open tells
                    raise
    finally:
        os.close(fd)
    found = _open(context, path, os.O_PATH)
    if stat.S_ISDIR(os.fstat(found).st_mode):
        raise CallError(
            errno.EISDIR, "move_mount", path, text=f"{path} is a folder in the rootfs, its mount a file"
        )
    return found


def _replace_dangling(context: Context, parent: int, path: str) -> None:
    """Put an empty file in the place of a symlink that leads nowhere, such as resolv.conf's into /run of a Debian.

    Only on the file system of the root itself, which is an overlay's upper layer: what is mounted is somebody's data.
    """
    if _exists(context, path):
        return
    if os.fstat(parent).st_dev != os.fstat(_inside(context)).st_dev:
        raise CallError(errno.ENOENT, "open", path, text=f"{path}: a symlink that leads nowhere")
    name = os.path.basename(path)
    os.unlink(name, dir_fd=parent)
    os.close(
        os.open(
            name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent
        )
    )


def _open(context: Context, path: str, flags: int) -> int:
    path = _normal(path)
    try:
        return mounts.open_beneath(_inside(context), path, flags, symlinks=path.split("/")[1] not in _OURS)
    except CallError as error:
        _explain(error, path)
        raise


def _lookup(context: Context, path: str) -> int | None:
    try:
        return _open(context, path, os.O_PATH)
    except CallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def _exists(context: Context, path: str) -> bool:
    fd = _lookup(context, path)
    if fd is not None:
        os.close(fd)
    return fd is not None


def _explain(error: CallError, path: str) -> None:
    """What openat2 means by these: the rootfs has a link, or a file, where it may not."""
    top = "/" + path.split("/")[1]
    if error.errno == errno.ELOOP and top[1:] in _OURS:
        error.text = f"{path}: {top} of the rootfs must be an ordinary directory, not a symlink"
    elif error.errno == errno.ELOOP:
        error.text = f"{path}: too many symlinks in the rootfs, or one of procfs"
    elif error.errno == errno.ENOTDIR:
        error.text = f"{path}: not a directory in the rootfs"


def _attach(tree: int, fd: int, path: str) -> None:
    try:
        mounts.move_mount(tree, fd, about=path)
    finally:
        os.close(tree)
        os.close(fd)


def _check_device(fd: int, path: str, expected: tuple[int, int]) -> None:
    status = os.fstat(fd)
    found = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if not stat.S_ISCHR(status.st_mode) or found != expected:
        major, minor = expected
        raise CallError(
            errno.ENODEV, "fstat", path, text=f"{path} is not the character device {major}:{minor}"
        )


def _inside(context: Context) -> int:
    if context.root < 0:
        raise CallError(errno.EINVAL, "openat2", text="an operation inside the root comes before EnterRoot")
    return context.root


def _normal(path: str) -> str:
    """`path` as /a/b, with `..` taken away by its text: a rootfs's symlinks have no say in it."""
    return os.path.normpath("/" + path.lstrip("/"))
