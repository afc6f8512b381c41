"""Images in the store: looked up, pulled, unpacked layer by layer.

In: names of images. Out: pins; `images` and `names` documents, layers as contents of the store. The documents are written
before anything is fetched, so that layers on their way are not collected. Blobs are verified while they are unpacked.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.drivers.rootfs.oci import layouts, skopeo
from orchestrator.drivers.rootfs.oci.layers import unpack_layer
from orchestrator.drivers.rootfs.oci.manifests import (
    Blob,
    Choice,
    ImageManifest,
    digest_of,
    read_config,
    read_manifest,
    verified,
)
from orchestrator.drivers.rootfs.oci.skopeo import Reference
from orchestrator.drivers.rootfs.store import ContentStore, layer_name
from orchestrator.drivers.trees import remove_tree
from orchestrator.errors import StepError
from orchestrator.manifest.image_names import path_of
from orchestrator.model.images import ImageWish, Pin, Pull
from orchestrator.ports.images import Progress, Watch

_REGISTRY = "docker://"
_TELL = 0.2  # seconds between two words of progress


class OciImages:
    """All images of one store."""

    def __init__(self, store: ContentStore) -> None:
        self._store = store

    def pin(self, wish: ImageWish) -> Pin:
        local = not wish.name.startswith(_REGISTRY)
        stamp = self._stamp(wish.name) if local else None
        known = self._known(wish, stamp)
        if known is not None:
            return known
        if wish.pull is Pull.NEVER and not local:
            raise StepError(
                f"{wish.name} is not in the store, and is never to be pulled",
                hint=f"`orchestrator rootfs pull {wish.name}`, or write pull: missing",
            )
        name = wish.name
        pin = self._remember(name, *self._local(name)) if local else self._ask(name, Reference.of(name))
        self._name(wish.name, str(pin.digest), stamp)
        return pin

    def fetch(self, wish: ImageWish, pin: Pin, watch: Watch) -> Pin:
        digest = str(pin.digest)
        with self._store.lock(f"pull-{digest.removeprefix('sha256:')}", passing=True):
            document = self._store.document("images", digest)
            if document is None:
                document = self._again(wish, digest)
            if not document.get("whole") or not all(map(self._store.has, document["layers"])):
                self._fetch(wish, digest, document, watch)
        watch(Progress(wish=wish, stage="ready"))
        return pin

    # what is known

    def _known(self, wish: ImageWish, stamp: Sequence[int] | None) -> Pin | None:
        """What the store says the name stands for, where nobody has to be asked."""
        asked_always = wish.pull is Pull.ALWAYS and wish.name.startswith(_REGISTRY) and "@" not in wish.name
        name = self._store.document("names", wish.name)
        if asked_always or (stamp is not None and (name or {}).get("stamp") != list(stamp)):
            return None
        digest = str(name["digest"]) if name else wish.name.partition("@")[2]
        image = self._store.document("images", digest) if digest else None
        if image is None:
            return None
        if name is None:  # pulled by another name, as a lock's words are
            self._name(wish.name, digest, stamp)
        return self._pin(image)

    def _pin(self, image: Mapping[str, Any]) -> Pin:
        manifest = _image(image["manifest"].encode(), image["name"])
        config, diff_ids = read_config(image["config"].encode(), image["name"], len(manifest.layers))
        missing = [
            each.size
            for each, diff in zip(manifest.layers, diff_ids, strict=True)
            if not image.get("whole") and not self._store.has(layer_name(diff))
        ]
        return Pin(digest=image["digest"], config=config, size=sum(missing))

    def _ask(self, name: str, reference: Reference) -> Pin:
        """From the registry; the configuration only where the image was not known before."""
        manifest = _manifest(reference)
        image = self._store.document("images", digest_of(manifest))
        if image is not None:
            return self._pin(image)
        return self._remember(name, manifest, _config(reference, manifest))

    def _remember(self, name: str, manifest: bytes, config: bytes) -> Pin:
        """The image's document, unless there is one."""
        digest = digest_of(manifest)
        known = self._store.document("images", digest)
        if known is None:
            layers = _image(manifest, name).layers
            _, diff_ids = read_config(config, name, len(layers))
            known = {
                "digest": digest,
                "name": name,
                "manifest": manifest.decode(),
                "config": config.decode(),
                "layers": [layer_name(each) for each in reversed(diff_ids)],
                "size": sum(each.size for each in layers),
                "whole": False,
            }
            self._store.put("images", digest, known)
        return self._pin(known)

    def _name(self, name: str, digest: str, stamp: Sequence[int] | None) -> None:
        more = {"stamp": list(stamp)} if stamp is not None else {}
        document = {"name": name, "digest": digest, "kind": "image", "at": time.time(), **more}
        self._store.put("names", name, document)

    def _again(self, wish: ImageWish, digest: str) -> Mapping[str, Any]:
        """The document of an image that was forgotten meanwhile."""
        if wish.name.startswith(_REGISTRY):
            self._ask(wish.name, Reference.of(wish.name).at(digest))
        else:
            manifest, config = self._local(wish.name)
            self._remember(wish.name, verified(manifest, digest, wish.name), config)
        document = self._store.document("images", digest)
        assert document is not None
        return document

    # what lies on this host

    @staticmethod
    def _stamp(name: str) -> list[int]:
        path, _, archive = _place(name)
        return layouts.stamp(path, archive=archive)

    @staticmethod
    def _local(name: str) -> tuple[bytes, bytes]:
        path, tag, archive = _place(name)
        found = layouts.look(path, tag, archive=archive)
        return found.manifest, found.config

    # fetching

    def _fetch(self, wish: ImageWish, digest: str, document: Mapping[str, Any], watch: Watch) -> None:
        manifest = _image(document["manifest"].encode(), wish.name)
        _, diff_ids = read_config(document["config"].encode(), wish.name, len(manifest.layers))
        unpacking = _Unpacking(self._store, wish, document, manifest.layers, diff_ids, watch)
        partial = self._store.partial(digest)
        try:
            if wish.name.startswith(_REGISTRY):
                self._pull(wish, digest, manifest, unpacking, partial)
            else:
                self._from_here(wish, digest, unpacking, partial)
        except (OSError, StepError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                remove_tree(partial)  # a full disk is to be emptied at once
            if isinstance(error, OSError):
                raise StepError.of(f"{wish.name}: cannot fetch it", error) from error
            raise
        remove_tree(partial)

    def _pull(
        self, wish: ImageWish, digest: str, manifest: ImageManifest, unpacking: _Unpacking, partial: Path
    ) -> None:
        """Each layer is unpacked as soon as it and those below it have come.

        A layer has one fetcher over all images. Who holds layers never waits for one: what somebody else fetches is left
        out, and looked for again once our own have come."""
        blobs = partial / "blobs"
        folder = blobs / "sha256"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in partial.glob("layout-*"):
            remove_tree(left)
        for blob in manifest.layers:  # what a machine that went down left may be shorter than it was
            left = folder / blob.digest.removeprefix("sha256:")
            if _plain(left) and left.stat().st_size != blob.size:
                left.unlink()
        total = sum(each.size for each in unpacking.missing())
        reference = Reference.of(wish.name).at(digest)

        def done() -> int:
            now = sum(map(_size, (*folder.iterdir(), *partial.glob("layout-*/*"))))
            unpacking.tell("pull", now, total)
            return now

        def place(blob: Blob) -> Path | None:
            path = folder / blob.digest.removeprefix("sha256:")
            return path if _plain(path) else None

        unpacking.advance(place)
        while absent := [each for each in unpacking.missing() if place(each) is None]:
            with contextlib.ExitStack() as locks:
                mine = {each for each in absent if self._claimed(locks, each)}
                # One may have come by somebody else before it was ours.
                mine.intersection_update(unpacking.missing())
                if mine:
                    others = [each for each in manifest.layers if each not in mine]
                    _leave_holes(folder, partial / "holes", others)
                    skopeo.copy(
                        reference,
                        blobs,
                        preserve=manifest.oci,
                        done=done,
                        ready=lambda: unpacking.advance(place),
                    )
                    if any(place(each) is None for each in mine):
                        break
                    unpacking.advance(place)
            if not mine:
                with self._store.lock(_claim(absent[0]), passing=True):
                    pass
                unpacking.advance(place)
        unpacking.finish(place)

    def _claimed(self, locks: contextlib.ExitStack, blob: Blob) -> bool:
        try:
            locks.enter_context(self._store.lock(_claim(blob), wait=False, passing=True))
        except BlockingIOError:
            return False
        return True

    def _from_here(self, wish: ImageWish, digest: str, unpacking: _Unpacking, partial: Path) -> None:
        path, tag, archive = _place(wish.name)
        found = layouts.look(path, tag, archive=archive)
        verified(found.manifest, digest, wish.name)
        folder = Path(path)
        if archive:
            folder = partial / "archive"
            remove_tree(folder)
            folder.mkdir(mode=0o700)
            unpacking.tell("unpack")
            layouts.extract(path, folder)
        unpacking.finish(lambda blob: layouts.blob(folder, found.paths[blob.digest]))


class _Unpacking:
    """The layers of one image, bottommost first, each on those below it."""

    def __init__(
        self,
        store: ContentStore,
        wish: ImageWish,
        document: Mapping[str, Any],
        layers: Sequence[Blob],
        diff_ids: Sequence[str],
        watch: Watch,
    ) -> None:
        self._store, self._wish, self._document, self._watch = store, wish, document, watch
        self._layers = list(zip(layers, diff_ids, strict=True))
        self._discard = wish.name.startswith(_REGISTRY)
        self._names: list[str] = []
        self._told = 0.0

    def missing(self) -> tuple[Blob, ...]:
        """The blobs of layers that the store has not, and whose turn has not come."""
        left = self._layers[len(self._names) :]
        return tuple(dict.fromkeys(blob for blob, diff in left if not self._store.has(layer_name(diff))))

    def advance(self, place: Callable[[Blob], Path | None]) -> None:
        """Unpack the layers whose turn it is and whose blobs have come."""
        while len(self._names) < len(self._layers):
            blob, diff = self._layers[len(self._names)]
            path = place(blob)
            if path is None and not self._store.has(layer_name(diff)):
                return
            self._unpack(blob, diff, path or Path("/nonexistent"))

    def finish(self, place: Callable[[Blob], Path | None]) -> None:
        self.advance(place)
        if len(self._names) < len(self._layers):
            blob, _ = self._layers[len(self._names)]
            raise StepError(f"{self._wish.name}: layer {blob.digest} did not come", hint="try again")
        document = {**self._document, "layers": list(reversed(self._names)), "whole": True}
        self._store.put("images", document["digest"], document)

    def tell(self, stage: str, done: int = 0, total: int | None = None, line: str = "") -> None:
        if time.monotonic() - self._told >= _TELL:
            self._told = time.monotonic()
            self._watch(Progress(wish=self._wish, stage=stage, done=done, total=total, line=line))

    def _unpack(self, blob: Blob, diff: str, path: Path) -> None:
        self.tell("unpack", line=f"layer {len(self._names) + 1} of {len(self._layers)}")
        below = tuple(reversed(self._names))
        try:
            name = unpack_layer(self._store, path, blob.media_type, blob.digest, diff, below)
        except StepError as error:
            if self._discard:  # what cannot be used is not to be found by the next attempt
                path.unlink(missing_ok=True)
            raise StepError(
                f"{self._wish.name}: {error.message}",
                argument=error.argument,
                errno=error.errno,
                hint=error.hint,
            ) from error
        self._names.append(name)


def _manifest(reference: Reference) -> bytes:
    """From the registry, for this host's platform, verified."""
    what = reference.text
    raw = skopeo.manifest(reference)
    if reference.digest:
        verified(raw, reference.digest, what)
    found = read_manifest(raw, what)
    if isinstance(found, Choice):
        raw = verified(skopeo.manifest(reference.at(found.blob.digest)), found.blob.digest, what)
    return raw


def _config(reference: Reference, manifest: bytes) -> bytes:
    what = f"the configuration of {reference.text}"
    config = skopeo.config(reference.at(digest_of(manifest)))
    return verified(config, _image(manifest, what).config.digest, what)


def _image(raw: bytes, what: str) -> ImageManifest:
    found = read_manifest(raw, what)
    if isinstance(found, Choice):
        raise StepError(f"{what}: an index names an index")
    return found


def _place(name: str) -> tuple[str, str, bool]:
    """Path, tag and whether it is an archive."""
    path = path_of(name)
    assert path is not None
    transport, _, rest = name.partition(":")
    return path, rest[len(path) + 1 :], transport != "oci"


def _leave_holes(folder: Path, holes: Path, blobs: Sequence[Blob]) -> None:
    """skopeo does not fetch what lies in its folder in the right size: an empty file stands for each layer that the store
    has. Links, so that none is ever taken for a blob."""
    remove_tree(holes)
    holes.mkdir(mode=0o700)
    for each in folder.iterdir():
        if each.is_symlink():
            each.unlink()
    for blob in blobs:
        name = blob.digest.removeprefix("sha256:")
        if not (folder / name).exists():
            with (holes / name).open("wb") as file:
                file.truncate(blob.size)
            (folder / name).symlink_to(holes / name)


def _claim(blob: Blob) -> str:
    """The name of the lock of whoever fetches it."""
    return f"blob-{blob.digest.removeprefix('sha256:')}"


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if _plain(path) else 0
    except FileNotFoundError:
        return 0  # whole just now, and elsewhere


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
