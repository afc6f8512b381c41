"""Roots as written to what they are: at once where the manifest says it all, by a pin where somebody has to look.

In: a manifest, pins by the name of the rootfs. Out: wishes to look up, and specs. Pure: an image that was not looked up
gives a spec without a digest, which can be shown and checked but never applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.manifest.image_names import canonical
from orchestrator.manifest.load import Manifest, absolute, rootfs_of
from orchestrator.manifest.roots import Rootfs
from orchestrator.model import desired as d
from orchestrator.model.images import ArchiveWish, ImageConfig, ImageWish, Pin, Pull, Recipe, RecipeFile, Wish

Pins = Mapping[str, Pin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A root that somebody has to look up. `name`: of the rootfs; `path`: where it is written."""

    name: str
    wish: Wish
    path: tuple[str, ...]


def wanted_of(manifest: Manifest) -> Iterator[Wanted]:
    """All of a manifest, declared and written inside containers."""
    for written, path in rootfs_of(manifest.content):
        wish = _wish(written, manifest, path)
        if wish is not None:
            yield Wanted(name=name_of(path), wish=wish, path=path)


def name_of(path: tuple[str, ...]) -> str:
    """The name of the rootfs written at a path: its own, or `UNIT.CONTAINER` (no declared name holds a dot)."""
    if path[0] == "rootfs":
        return path[1]
    return f"{path[1]}.{path[3]}" if path[0] == "groups" else f"{path[1]}.{path[1]}"


def spec_of(written: Rootfs, manifest: Manifest, path: tuple[str, ...], pins: Pins) -> d.RootfsSpec:
    """A rootfs as meant; relative paths by the file that writes them."""
    pin = pins.get(name_of(path))
    digest = pin.digest if pin else None
    match wish := _wish(written, manifest, path):
        case ImageWish():
            return d.RootfsSpec(source=d.ImageRoot(digest=digest), name=wish.name)
        case Recipe():
            return d.RootfsSpec(source=d.RecipeRoot(key=wish.key, digest=digest), name=wish.name)
        case ArchiveWish():
            sha256 = (digest or "").removeprefix("sha256:")
            return d.RootfsSpec(source=d.ArchiveRoot(path=wish.path, sha256=sha256))
        case None:
            return d.RootfsSpec(source=_plain(written, manifest, path))


def config_of(pin: Pin | None) -> ImageConfig:
    return pin.config if pin else ImageConfig()


def _plain(written: Rootfs, manifest: Manifest, path: tuple[str, ...]) -> d.RootSource:
    if written.archive is not None and written.sha256 is not None:
        return d.ArchiveRoot(path=absolute(manifest, written.archive, *path), sha256=written.sha256)
    if written.directory is not None:
        return d.DirectoryRoot(path=absolute(manifest, written.directory, *path))
    return d.HostRoot()


def _wish(written: Rootfs, manifest: Manifest, path: tuple[str, ...]) -> Wish | None:
    if written.image is not None:
        name = canonical(written.image, absolute(manifest, ".", *path))
        return ImageWish(name=name, pull=Pull(written.pull))
    if written.debian is not None:
        return Recipe(
            suite=written.debian,
            packages=tuple(sorted(set(written.packages))),
            files=tuple(_files(written, manifest, path)),
            run=written.run,
            variant=written.variant,
        )
    if written.archive is not None and written.sha256 is None:
        return ArchiveWish(path=absolute(manifest, written.archive, *path))
    return None


def _files(written: Rootfs, manifest: Manifest, path: tuple[str, ...]) -> Iterator[RecipeFile]:
    for target in sorted(written.files):
        each = written.files[target]
        read = manifest.contents.get("/".join((*path, "files", target)))
        content = read.data.decode("latin-1") if read else ""
        yield RecipeFile(target=target, content=content, mode=each.mode, owner=each.owner)
