"""Writes the members of a layer: what the spec says by names overlayfs is told in its words (image-spec, layer.md).

In: members of an archive of strangers, an empty folder, the folders of the layers below. Out: a lower of an overlay.
`.wh.NAME` becomes a character device 0:0, `.wh..wh..opq` the attribute trusted.overlay.opaque. Neither can an archive bring
itself: devices and `trusted.*` are dropped. Entries of the layer itself stay, whichever comes first: a whiteout hides what
lies below, and no more. Writes to no layer but its own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from orchestrator.drivers.rootfs.members import FOLDER, MISSING, NEW, Bounds, Unpacker, kept, set_attribute
from orchestrator.drivers.rootfs.oci.lowers import OPAQUE, find, is_opaque, is_whiteout, root_names
from orchestrator.drivers.rootfs.streams import CHUNK
from orchestrator.drivers.rootfs.tarball import Member, Tarball, TarError
from orchestrator.supervisor.kernel.mounts import open_beneath

WHITEOUT, META = ".wh.", ".wh..wh."
_OPAQUE = ".wh..wh..opq"
_LINKS = 40  # symlinks on the way to one member, as path_resolution(7)


class LayerUnpacker(Unpacker):
    """`below`: the folders of the parents, topmost first. `consulted`: whether what lies below had a say."""

    def __init__(self, root: int, folder: str, bounds: Bounds, most: int, below: Sequence[str]) -> None:
        super().__init__(root, folder, bounds, most)
        self.consulted = False
        self._below = below
        self._top_is_opaque = False
        self._led_below = False

    def put(self, member: Member, names: list[str], tarball: Tarball) -> None:
        if not any(each.startswith(WHITEOUT) for each in names):
            super().put(member, names, tarball)
        elif names[-1] == _OPAQUE:
            self._hide_all(names[:-1])
        elif any(each.startswith(META) for each in names):
            pass  # of aufs itself
        elif any(each.startswith(WHITEOUT) for each in names[:-1]):
            raise TarError(f"member {member.name[:200]!r} lies below a whiteout")
        else:
            self._hide(names[:-1], names[-1].removeprefix(WHITEOUT), member)

    # what is hidden

    def _hide(self, folder: list[str], name: str, member: Member) -> None:
        if name in ("", ".", ".."):
            raise TarError(f"member {member.name[:200]!r} is a whiteout of no name")
        parent = self.directory(folder)
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            if self._hides_something(parent, name):
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
            return
        if stat.S_ISDIR(found.st_mode):
            _hide_below(f"{_path(parent)}/{name}")

    def _hides_something(self, parent: int, name: str) -> bool:
        """Whether a whiteout is for anything. overlayfs would list one, and find nothing by its name, in a folder that it
        need not merge."""
        where, top = (os.readlink(_path(fd)) for fd in (parent, self.root))  # noqa: PTH115
        way = [each for each in where.removeprefix(top).split("/") if each]
        if self._is_hidden(way):
            return False
        if find(self._below, (*way, name)) is None:
            self.consulted = True
            return False
        return True

    def _hide_all(self, names: list[str]) -> None:
        folder = self.directory(names)
        if os.path.samestat(os.fstat(folder), os.fstat(self.root)):
            self._top_is_opaque = True
        else:
            _hide_below(_path(folder))

    def replace(self, parent: int, names: list[str], mode: int) -> bool:
        self.clear(parent, names[-1])
        os.mkdir(names[-1], 0o700, dir_fd=parent)
        # What was there before, be it a whiteout, hid a folder below.
        _hide_below(f"{_path(parent)}/{names[-1]}")
        return True

    def finish(self) -> None:
        if self._top_is_opaque:
            self.consulted = True
            for name in sorted(root_names(self._below)):
                try:
                    found = os.stat(name, dir_fd=self.root, follow_symlinks=False)
                except FileNotFoundError:
                    os.mknod(name, stat.S_IFCHR, 0, dir_fd=self.root)
                    continue
                if stat.S_ISDIR(found.st_mode):
                    _hide_below(f"{self.folder}/{name}")
        super().finish()

    # what lies below

    def directory(self, names: Sequence[str]) -> int:
        if self._led_below:
            self.forget()  # a folder made since may have taken the place of a symlink below that led there
        return super().directory(names)

    def missing(self, names: Sequence[str], error: OSError) -> int:
        way = self._way(names)
        self._led_below |= way != [*names]
        return open_beneath(self.root, "/".join(way) or ".", FOLDER)

    def _way(self, names: Sequence[str]) -> list[str]:
        """Where a folder is once symlinks, of this layer or below, are followed; made with what it needs of parents."""
        way: list[str] = []
        left, links = [*reversed(names)], 0
        while left:
            name = left.pop()
            if name == "..":
                way = way[:-1]
            elif name not in ("", "."):
                link = self._step(way, name)
                if link is None:
                    way.append(name)
                    continue
                links += 1
                if links > _LINKS:
                    raise TarError(f"member {'/'.join(names)[:200]!r} lies below a loop of symlinks")
                if link.startswith("/"):
                    way = []
                left += reversed(link.split("/"))
        return way

    def _step(self, way: list[str], name: str) -> str | None:
        """Make the folder `name` in `way` unless it is there; or the text of the symlink that it is."""
        path = "/".join((*way, name))
        parent = open_beneath(self.root, "/".join(way) or ".", FOLDER)
        try:
            try:
                about = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return self._bring_folder(parent, way, name)
            if stat.S_ISLNK(about.st_mode):
                return os.readlink(name, dir_fd=parent)
            if is_whiteout(about):
                os.unlink(name, dir_fd=parent)
                self.implied(parent, name, path)
                _hide_below(f"{_path(parent)}/{name}")
            elif not stat.S_ISDIR(about.st_mode):
                raise TarError(f"member {path[:200]!r} is a file, and another lies below it")
            return None
        finally:
            os.close(parent)

    def _bring_folder(self, parent: int, way: list[str], name: str) -> str | None:
        path = "/".join((*way, name))
        found = self._seen_below(way, name)
        if found is None:
            self.implied(parent, name, path)
            return None
        about = os.lstat(found)
        if stat.S_ISLNK(about.st_mode):
            return os.readlink(found)  # noqa: PTH115
        if not stat.S_ISDIR(about.st_mode):
            raise TarError(f"member {path[:200]!r} is a file in a layer below, and another lies below it")
        os.mkdir(name, 0o700, dir_fd=parent)
        os.chown(name, about.st_uid, about.st_gid, dir_fd=parent, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(about.st_mode), dir_fd=parent)
        _copy_attributes(found, f"{_path(parent)}/{name}", file=False)
        self.remember(parent, name, path, about.st_mtime_ns)
        return None

    def _seen_below(self, way: Sequence[str], name: str) -> str | None:
        """The path, in a parent, of what a container would see; what this layer hides it would not."""
        if self._is_hidden(way):
            return None
        self.consulted = True
        return find(self._below, (*way, name))

    def _is_hidden(self, way: Sequence[str]) -> bool:
        """Whether the layer itself hides all that is below the folder."""
        return self._top_is_opaque or any(
            is_opaque("/".join((self.folder, *way[:end]))) for end in range(1, len(way) + 1)
        )

    def source(self, target: list[str]) -> int:
        try:
            found = super().source(target)
            if self._linkable(found, target[-1]):
                return found
            os.close(found)
        except OSError as error:
            if error.errno not in MISSING:
                raise
        way, name = self._way(target[:-1]), target[-1]
        found = open_beneath(self.root, "/".join(way) or ".", FOLDER)
        try:
            if not self._linkable(found, name):
                below = self._seen_below(way, name) if _absent(found, name) else None
                if below is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
                self._bring_file(found, name, below)
            return found
        except BaseException:
            os.close(found)
            raise

    def _linkable(self, parent: int, name: str) -> bool:
        try:
            return not is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _bring_file(self, parent: int, name: str, below: str) -> None:
        """A copy of the file, symlink or FIFO `below`, so that a link can be made to it, as overlayfs copies up."""
        about = os.lstat(below)
        self.count(about.st_size)
        if stat.S_ISREG(about.st_mode):
            fd = os.open(name, NEW, 0o600, dir_fd=parent)
            try:
                with open(os.open(below, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
                    self.fill(fd, iter(lambda: file.read(CHUNK), b""))
                os.fchown(fd, about.st_uid, about.st_gid)
                os.fchmod(fd, stat.S_IMODE(about.st_mode))
                _copy_attributes(below, fd, file=True)
            finally:
                os.close(fd)
        elif stat.S_ISLNK(about.st_mode):
            os.symlink(os.readlink(below), name, dir_fd=parent)  # noqa: PTH115
            os.chown(name, about.st_uid, about.st_gid, dir_fd=parent, follow_symlinks=False)
        elif stat.S_ISFIFO(about.st_mode):
            os.mkfifo(name, 0o600, dir_fd=parent)
            os.chown(name, about.st_uid, about.st_gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(about.st_mode), dir_fd=parent)
        else:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)  # a folder
        times = (about.st_mtime_ns, about.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)


def _path(fd: int) -> str:
    """Of what a descriptor with O_PATH is for; extended attributes are not to be had by it."""
    return f"/proc/self/fd/{fd}"


def _absent(parent: int, name: str) -> bool:
    """Neither there nor a whiteout."""
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


def _hide_below(folder: str) -> None:
    """Make it opaque. The whiteouts in it say nothing any more, and would be listed."""
    if is_opaque(folder):
        return
    os.setxattr(folder, OPAQUE, b"y")
    left = [folder]
    while left:
        with os.scandir(left.pop()) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    left.append(each.path)
                elif is_whiteout(each.stat(follow_symlinks=False)):
                    os.unlink(each.path)  # noqa: PTH108


def _copy_attributes(source: str, target: int | str, *, file: bool) -> None:
    for key in os.listxattr(source, follow_symlinks=False):
        if kept(key, file=file):
            set_attribute(target, key, os.getxattr(source, key, follow_symlinks=False))
