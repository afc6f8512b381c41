"""Writes the members of an archive of strangers into an empty folder of ours: nothing is written, read or linked outside.

In: a parsed archive and the descriptor of an empty folder. Out: files, links, folders, FIFOs with owners, modes, times and
the extended attributes that cannot harm (`user.*`, file capabilities); device nodes are passed over and counted. Every path
is resolved beneath the folder by the kernel (openat2, RESOLVE_IN_ROOT), so a member below a symlink (`lib/x` where
lib -> usr/lib) lands where it would in the container. Layers differ in a few words: `oci.layers`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.drivers.rootfs.streams import CHUNK
from orchestrator.drivers.rootfs.tarball import BLOCK, Member, MemberType, Tarball, TarError
from orchestrator.drivers.trees import remove_tree
from orchestrator.supervisor.kernel.mounts import open_beneath

FOLDER = os.O_PATH | os.O_DIRECTORY
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = 16  # descriptors of folders, kept for the members that come next
MISSING = (errno.ENOENT, errno.ENOTDIR)
_HOSTILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EINVAL)
_CAPABILITY = "security.capability"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What an archive may become at most: `bytes` and `entries` in all, `ratio` times its own size past a GiB."""

    bytes: int = 64 << 30
    entries: int = 2_000_000
    ratio: int = 100
    depth: int = 256

    def most(self, size: int) -> int:
        """Bytes that an archive of `size` may unpack to."""
        return min(self.bytes, (1 << 30) + self.ratio * size)


@dataclass(slots=True)
class Unpacked:
    """`devices`: how many nodes were passed over. `digests`: SHA-256 of the files, by inode, known from writing them."""

    entries: int = 0
    bytes: int = 0
    devices: int = 0
    digests: dict[int, str] = field(default_factory=dict)


class Unpacker:
    """One archive into one folder, `root`, which `folder` names in errors."""

    def __init__(self, root: int, folder: str, bounds: Bounds, most: int) -> None:
        self.root = root
        self.done = Unpacked()
        self.folder = folder
        self._bounds = bounds
        self._most = most
        self._open: dict[str, int] = {}  # path -> descriptor, the latest used last
        self._held: list[int] = []
        self._times: dict[str, tuple[int, int]] = {
            ".": (os.fstat(root).st_ino, 0)
        }  # path -> inode, nanoseconds

    def run(self, tarball: Tarball) -> Unpacked:
        try:
            for member in tarball:
                self.count(member.size)
                names = self.names(member.name)
                if not names:  # the root itself
                    if member.type is MemberType.DIRECTORY:
                        self._remember(self.root, ".", member.mtime_ns)
                elif member.type is MemberType.DEVICE:
                    self.done.devices += 1
                else:
                    self._place(member, names, tarball)
            self.finish()
            return self.done
        finally:
            self.forget()
            self._let_go()

    def _place(self, member: Member, names: list[str], tarball: Tarball) -> None:
        try:
            self.put(member, names, tarball)
        except OSError as error:
            if error.errno in _HOSTILE:  # no path that a file system of ours could have
                text = os.strerror(error.errno).lower()
                raise TarError(f"member {member.name[:200]!r} cannot be made: {text}") from error
            path = f"{self.folder}/{'/'.join(names)}"
            raise OSError(error.errno, error.strerror or str(error), path) from error

    def count(self, size: int) -> None:
        self.done.entries += 1
        self.done.bytes += size + BLOCK
        if self.done.entries > self._bounds.entries:
            raise TarError(f"it holds more than {self._bounds.entries} entries")
        if self.done.bytes > self._most:
            raise TarError(f"it unpacks to more than {self._most} bytes")

    def names(self, path: str) -> list[str]:
        names = [each for each in path.split("/") if each not in ("", ".")]
        if ".." in names:
            raise TarError(f"member {path[:200]!r} leads out of it")
        if len(names) > self._bounds.depth:
            raise TarError(f"member {path[:60]!r}… lies deeper than {self._bounds.depth} folders")
        return names

    def put(self, member: Member, names: list[str], tarball: Tarball) -> None:
        if member.type is MemberType.LINK:
            self._link(names, member)
            return
        parent, name = self.directory(names[:-1]), names[-1]
        match member.type:
            case MemberType.FILE:
                self._write(parent, name, member, tarball)
            case MemberType.DIRECTORY:
                self._make_directory(parent, names, member)
            case MemberType.SYMLINK:
                if not member.link:
                    raise TarError(f"member {member.name!r} is a symlink to nothing")
                try:
                    os.symlink(member.link, name, dir_fd=parent)
                except FileExistsError:
                    self.clear(parent, name)
                    os.symlink(member.link, name, dir_fd=parent)
                os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
                self._time(parent, name, member)
            case MemberType.FIFO:
                self.clear(parent, name)
                os.mkfifo(name, 0o600, dir_fd=parent)
                self._own(parent, name, member)
                self._time(parent, name, member)
            case MemberType.DEVICE | MemberType.LINK:
                raise AssertionError("done before")

    # folders

    def directory(self, names: Sequence[str]) -> int:
        """O_PATH descriptor of a folder beneath the root, made with its parents where missing. Ours: not to be closed, and
        good until the next call."""
        self._let_go()
        if not names:
            return self.root
        path = "/".join(names)
        fd = self._open.pop(path, -1)
        if fd < 0:
            fd = self._opened(names, path)
            if len(self._open) >= _OPEN:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = fd
        return fd

    def _opened(self, names: Sequence[str], path: str) -> int:
        try:
            return open_beneath(self.root, path, FOLDER)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise TarError(f"member {path[:200]!r} lies below a loop of symlinks") from error
            if error.errno not in MISSING:
                raise
            return self.missing(names, error)

    def missing(self, names: Sequence[str], error: OSError) -> int:
        """A folder that no member was for, made now, and those above it."""
        path = "/".join(names)
        if error.errno == errno.ENOTDIR:
            raise TarError(f"member {path[:200]!r} lies below a file") from error
        parent = os.dup(self.root)
        try:
            for end in range(1, len(names) + 1):
                inner = self._step_down(parent, names[:end])
                os.close(parent)
                parent = inner
            return parent
        except BaseException as caught:
            os.close(parent)
            if isinstance(caught, FileExistsError):
                raise TarError(f"member {path[:200]!r} lies below a symlink that leads nowhere") from None
            raise

    def _step_down(self, parent: int, names: Sequence[str]) -> int:
        path = "/".join(names)
        try:
            return open_beneath(self.root, path, FOLDER)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        self.implied(parent, names[-1], path)
        return open_beneath(self.root, path, FOLDER)

    def implied(self, parent: int, name: str, path: str) -> None:
        os.mkdir(name, 0o755, dir_fd=parent)
        os.chmod(name, 0o755, dir_fd=parent)  # whatever the umask is
        self.remember(parent, name, path, 0)  # the same listing each time it is unpacked

    def _make_directory(self, parent: int, names: list[str], member: Member) -> None:
        name = names[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode) and not self.replace(parent, names, mode):
                return
        self._own(parent, name, member)
        self._attributes(f"/proc/self/fd/{parent}/{name}", member)
        self.remember(parent, name, "/".join(names), member.mtime_ns)

    def replace(self, parent: int, names: list[str], mode: int) -> bool:
        """Put an empty folder where an earlier member, of `mode`, is none. False: it stays."""
        if stat.S_ISLNK(mode):
            # `lib/` over lib -> usr/lib: the link stays, if a folder beneath the root is behind it.
            os.close(open_beneath(self.root, "/".join(names), FOLDER))
            return False
        self.clear(parent, names[-1])
        os.mkdir(names[-1], 0o700, dir_fd=parent)
        return True

    def clear(self, parent: int, name: str) -> None:
        """What an earlier member of the same name left, with all below it."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            remove_tree(f"/proc/self/fd/{parent}/{name}")
        self.forget(parent)  # paths, its own too, may lead elsewhere now

    def forget(self, held: int = -1) -> None:
        """Close what is open, `held` with the next call of `directory`."""
        self._held += [fd for fd in self._open.values() if fd == held]
        for fd in self._open.values():
            if fd != held:
                os.close(fd)
        self._open.clear()

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def remember(self, parent: int, name: str, path: str, mtime_ns: int) -> None:
        """The time of a folder: it is set at the end, for what is made in it changes it."""
        self._times[path] = (os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino, mtime_ns)

    def _remember(self, fd: int, path: str, mtime_ns: int) -> None:
        self._times[path] = (os.fstat(fd).st_ino, mtime_ns)

    def finish(self) -> None:
        for path, (inode, mtime) in self._times.items():
            try:
                fd = open_beneath(self.root, path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                if error.errno in (errno.ENOENT, *_HOSTILE):
                    continue  # replaced since
                raise
            try:
                if os.fstat(fd).st_ino == inode:
                    os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)

    # files and links

    def _write(self, parent: int, name: str, member: Member, tarball: Tarball) -> None:
        try:
            fd = os.open(name, NEW, 0o600, dir_fd=parent)
        except FileExistsError:
            self.clear(parent, name)
            fd = os.open(name, NEW, 0o600, dir_fd=parent)
        try:
            if member.extents is None:
                self.fill(fd, iter(lambda: tarball.read(CHUNK), b""))
            else:
                _fill_sparsely(fd, tarball.pieces(member, CHUNK), member.size)
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)  # after chown, which takes setuid away
            if member.xattrs:
                self._attributes(fd, member)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def fill(self, fd: int, chunks: Iterator[bytes]) -> None:
        digest = hashlib.sha256()
        for found in chunks:
            digest.update(found)
            written = os.write(fd, found)
            while written < len(found):
                written += os.write(fd, found[written:])
        self.done.digests[os.fstat(fd).st_ino] = digest.hexdigest()

    def _link(self, names: list[str], member: Member) -> None:
        target = self.names(member.link)
        if not target:
            raise TarError(f"member {member.name!r} is a hard link to the root")
        source = -1
        try:
            source = self.source(target)
            parent, name = self.directory(names[:-1]), names[-1]
            try:
                _hard_link(source, target[-1], parent, name)
            except FileExistsError:
                self.clear(parent, name)
                _hard_link(source, target[-1], parent, name)
        except OSError as error:
            if error.errno in MISSING:
                raise TarError(
                    f"member {member.name!r} is a hard link to {member.link!r}, which is not there"
                ) from None
            if error.errno == errno.EPERM:
                raise TarError(f"member {member.name!r} is a hard link to a folder") from None
            raise
        finally:
            if source >= 0:
                os.close(source)

    def source(self, target: list[str]) -> int:
        """Descriptor of the folder in which a hard link's target lies, to be closed."""
        return open_beneath(self.root, "/".join(target[:-1]) or ".", FOLDER)

    # owners, modes, times, attributes

    def _own(self, parent: int, name: str, member: Member) -> None:
        """Of a folder or FIFO that we made just now: nobody else is here to put a symlink in its place."""
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        os.chmod(name, member.mode, dir_fd=parent)

    def _time(self, parent: int, name: str, member: Member) -> None:
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _attributes(self, target: int | str, member: Member) -> None:
        for key, value in member.xattrs.items():
            if kept(key, file=isinstance(target, int)):
                set_attribute(target, key, value)


def _fill_sparsely(fd: int, pieces: Iterator[tuple[int, bytes]], size: int) -> None:
    for offset, found in pieces:
        at = 0
        while at < len(found):
            at += os.pwrite(fd, found[at:], offset + at)
    os.ftruncate(fd, size)


def kept(key: str, *, file: bool) -> bool:
    """Of the extended attributes: not those by which an archive could give orders to the host (`trusted.overlay.*` hides
    what lies below, `security.*` belongs to the host's policy)."""
    return "\0" not in key and (
        (key.startswith("user.") and not key.startswith("user.overlay.")) or (file and key == _CAPABILITY)
    )


def set_attribute(target: int | str, key: str, value: bytes) -> None:
    try:
        os.setxattr(target, key, value)
    except OSError as error:
        if error.errno in (errno.ERANGE, errno.E2BIG):
            raise TarError(f"an extended attribute {key[:40]!r} of {len(value)} bytes") from error
        if error.errno != errno.ENOTSUP or key == _CAPABILITY:
            raise  # what a file system has no place for (user.* on a tmpfs before Linux 6.6) is not worth an image


def _hard_link(source: int, old: str, parent: int, new: str) -> None:
    os.link(old, new, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
