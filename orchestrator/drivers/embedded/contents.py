"""The files of secrets and configs: one for each container and mount, on a tmpfs of the instance that is never swapped.

In: a container's record and spec. Out: files below `Layout.files`/ID, paths to bind, what became of them behind our back.
`extra` of the record holds, by mount target, each file's inode and how it looked when we left it, and the digests of
secrets that had changed since they were wished. The bytes of a secret are nowhere else: not in errors, not in records.
"""

from __future__ import annotations

# ruff: noqa: PTH102, PTH106, PTH112, PTH116, PTH208
import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.drivers import secrets
from orchestrator.drivers.records import Record, private_folders
from orchestrator.drivers.secrets import SecretKey
from orchestrator.drivers.trees import remove_tree
from orchestrator.errors import StepError
from orchestrator.model import codec
from orchestrator.model.desired import ConfigMount, ContainerSpec, Content, FileMount, SecretMount
from orchestrator.model.ids import Incarnation
from orchestrator.model.observed import LOST
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.kernel import mounts

_ATTRIBUTES = sum(mounts.attribute(name) for name in ("nosuid", "nodev", "noexec"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """`paths` of the files by mount target; `extra` for the record; `signals` that tell the process of new bytes."""

    paths: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    signals: frozenset[str] = frozenset()


class Contents:
    """Safe for several threads and processes that work on different containers."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._base = os.fspath(layout.files)
        self._key = SecretKey(layout)

    def paths(self, target: Incarnation, spec: ContainerSpec) -> Mapping[str, str]:
        """Where the files lie, by mount target."""
        return {each.target: self._path(target, each.target) for each in _file_mounts(spec)}

    def place(self, target: Incarnation, spec: ContainerSpec) -> Placed:
        """New files for a process about to be launched, still root's own: the launch gives them to their owner. Those of
        the process before it go."""
        wanted, paths = _file_mounts(spec), self.paths(target, spec)
        keys = {each.content for each in wanted}
        bytes_of = {
            key: self._fetch(target, key, spec.contents[key]) for key in keys
        }  # all, or nothing is touched
        with self._locked():
            remove_tree(f"{self._base}/{target.id}")
            if wanted:
                self._mount()
                os.mkdir(f"{self._base}/{target.id}", 0o700)
            else:
                self._unmount()
        files = {
            each.target: {
                "content": each.content,
                "ino": _create(paths[each.target], bytes_of[each.content]),
                "mark": None,
            }
            for each in wanted
        }
        used = {key: self._digest(key, bytes_of[key]) for key in keys}
        return Placed(paths=paths, extra={"files": files, "used": _other(used, spec)})

    def marked(self, placed: Placed) -> Mapping[str, Any]:
        """`extra` after the launch, when the files are as they are to stay."""
        files = {
            name: {**each, "mark": _mark(os.stat(placed.paths[name]))}
            for name, each in placed.extra["files"].items()
        }
        return {**placed.extra, "files": files}

    def write(self, record: Record, spec: ContainerSpec, keys: Collection[str]) -> Placed:
        """Brings the files of the contents `keys` of a running container to `spec`, in place on the same inodes."""
        target = record.target
        old, used = codec.decode(ContainerSpec, record.spec), record.extra.get("used", {})
        files = dict(record.extra.get("files", {}))
        told, digests = set(), {key: each for key, each in used.items() if key not in keys}
        for key in keys & spec.contents.keys():
            content = spec.contents[key]
            data = self._fetch(target, key, content)
            digests[key] = self._digest(key, data)
            before = used.get(key, old.contents[key].digest if key in old.contents else None)
            changed = digests[key] != before
            for each in (mount for mount in _file_mounts(spec) if mount.content == key):
                file = files.get(each.target, {})
                path = self._path(target, each.target)
                changed |= _rewrite(path, data, each.mode, file)
                files[each.target] = {**file, "mark": _mark(os.stat(path))}
            if changed and content.signal:
                told.add(content.signal)
        return Placed(extra={"files": files, "used": _other(digests, spec)}, signals=frozenset(told))

    def remove(self, id: str) -> None:
        """The files of one container; with the last of the instance its tmpfs."""
        if not os.path.lexists(self._base):
            return
        with self._locked():
            remove_tree(f"{self._base}/{id}")
            self._unmount()

    def applied(self, record: Record) -> Mapping[str, Any] | None:
        """The record's spec with the digests of what was really used; `asked` beside them is what was wished.

        Where the wished bytes are back, nothing but the difference is told: they can be had again.
        """
        used = record.extra.get("used")
        if not used or record.spec is None:
            return record.spec
        contents = dict(record.spec.get("contents", {}))
        for key, digest in used.items():
            if key not in contents:
                continue
            asked = contents[key]["digest"]
            contents[key] = {**contents[key], "digest": digest}
            if not self._back(contents[key].get("source"), asked):
                contents[key]["asked"] = asked
        return {**record.spec, "contents": contents}

    def drift(self, record: Record) -> Mapping[str, Any]:
        """`contents.KEY` of the files that somebody changed; LOST where the container's own inode is out of reach.

        One stat(2) a file, unless it looks otherwise than we left it: then its bytes are read.
        """
        found: dict[str, Any] = {}
        for target, file in record.extra.get("files", {}).items():
            path, name = self._path(record.target, target), f"contents.{file['content']}"
            try:
                status = os.stat(path, follow_symlinks=False)
            except OSError:
                found[name] = LOST
                continue
            if status.st_ino != file["ino"]:
                found[name] = LOST
            elif _mark(status) != file["mark"] and self._differs(record, target, file, status):
                found.setdefault(name, "changed")
        return found

    # parts

    def _differs(self, record: Record, target: str, file: Mapping[str, Any], status: os.stat_result) -> bool:
        spec = codec.decode(ContainerSpec, record.spec)
        mount = next((each for each in _file_mounts(spec) if each.target == target), None)
        if mount is None or mount.content not in spec.contents:
            return False
        owner = (file["mark"] or (status.st_uid, status.st_gid))[:2]
        if [status.st_uid, status.st_gid] != list(owner) or status.st_mode & 0o7777 != mount.mode:
            return True
        used: str = record.extra.get("used", {}).get(mount.content, spec.contents[mount.content].digest)
        try:
            data = secrets.read(self._path(record.target, target))
        except OSError:
            return True
        return self._digest(mount.content, data) != used

    def _fetch(self, target: Incarnation, key: str, content: Content) -> bytes:
        what = f"{target.ref}: {key.replace('/', ' ', 1)}"
        if content.source is not None:
            try:
                return secrets.read(content.source)
            except OSError as error:
                raise StepError.of(what, error, hint="put its file back, or apply again") from error
        path = self._layout.blobs(target.stack) / content.digest
        try:
            data = path.read_bytes()
            if self._digest(key, data) != content.digest:
                raise OSError(errno.EBADMSG, "not what was kept there", str(path))
        except OSError as error:
            raise StepError.of(what, error, hint="apply the stack again") from error
        return data

    def _digest(self, key: str, data: bytes) -> str:
        return self._key.digest(data) if key.startswith("secret/") else hashlib.sha256(data).hexdigest()

    def _back(self, source: str | None, asked: str) -> bool:
        try:
            return source is not None and self._key.digest(secrets.read(source)) == asked
        except OSError:
            return False

    def _path(self, target: Incarnation, inside: str) -> str:
        return f"{self._base}/{target.id}/{hashlib.sha256(inside.encode()).hexdigest()[:16]}"

    def _mount(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._base, 0o700)
        if os.path.ismount(self._base):
            return
        point = os.open(self._base, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            tree = _tmpfs()
            try:
                mounts.move_mount(tree, point, about=self._base)
            finally:
                os.close(tree)
        finally:
            os.close(point)

    def _unmount(self) -> None:
        """Unless it holds anything."""
        if os.path.isdir(self._base) and not os.listdir(self._base):
            if os.path.ismount(self._base):
                mounts.detach(self._base)
            os.rmdir(self._base)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The tmpfs is mounted, and unmounted, by one at a time, whatever process or thread that is."""
        run = os.fspath(self._layout.run)
        private_folders(self._layout.run, run)
        fd = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _tmpfs() -> int:
    try:
        return mounts.new_filesystem("tmpfs", "mode=0700,noswap", _ATTRIBUTES)
    except OSError as error:
        if error.errno != errno.EINVAL:  # kernels before 6.4 have no noswap
            raise
        return mounts.new_filesystem("tmpfs", "mode=0700", _ATTRIBUTES)


def _file_mounts(spec: ContainerSpec) -> list[FileMount]:
    return [each for each in spec.mounts if isinstance(each, SecretMount | ConfigMount)]


def _other(digests: Mapping[str, str], spec: ContainerSpec) -> Mapping[str, str]:
    """Those that are not as the spec says: secrets that were edited since."""
    return {
        key: each
        for key, each in digests.items()
        if key in spec.contents and spec.contents[key].digest != each
    }


def _create(path: str, data: bytes) -> int:
    """A new file, and its inode number."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        return os.fstat(fd).st_ino


def _rewrite(path: str, data: bytes, mode: int, file: Mapping[str, Any]) -> bool:
    """Puts `data` into the file, over what is there and never by way of an empty file; whether it held anything else."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if status.st_ino != file.get("ino"):
            raise OSError(errno.ESTALE, "not the file that the container sees", path)
        if file["mark"] and [status.st_uid, status.st_gid] != file["mark"][:2]:
            os.fchown(fd, *file["mark"][:2])
        if status.st_mode & 0o7777 != mode:
            os.fchmod(fd, mode)
        if os.pread(fd, len(data) + 1, 0) == data:
            return False
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], done)
        os.ftruncate(fd, len(data))
        return True
    finally:
        os.close(fd)


def _mark(status: os.stat_result) -> list[int]:
    """How a file looks to stat(2). Any write, chmod or chown moves its ctime."""
    return [
        *(status.st_uid, status.st_gid, status.st_mode, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    ]
