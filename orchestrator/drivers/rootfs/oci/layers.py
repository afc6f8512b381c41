"""Layers of images, each unpacked once, alone, and shared by every image that has it (image-spec, layer.md).

In: a blob, its digest and that of the tar in it. Out: a content of the store, an overlay's lower (`layer_members`), whose
name is that of the layer alone, wherever an image has it.

Four things are not in the layer but below it, and make its content one of the whole chain (`chain_name`): the folders
that a member implies (`a/b/c` without `a` and `a/b`: their mode and owner, or that `lib` is a symlink to usr/lib), the
target of a hard link, what an opaque top hides, for overlayfs does not ask the top, and that a whiteout hides nothing.
They are looked up in the parents as overlayfs would find them (`lowers`), and folders and targets are copied up.
containerd, which unpacks on a mount of the parents, comes to the same; we need no mount, so a killed process leaves none,
and the number of layers has no limit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.drivers.rootfs.members import Bounds
from orchestrator.drivers.rootfs.oci.layer_members import LayerUnpacker
from orchestrator.drivers.rootfs.store import ContentStore, chain_name, layer_name
from orchestrator.drivers.rootfs.streams import Stream
from orchestrator.drivers.rootfs.tarball import Tarball, TarError
from orchestrator.drivers.rootfs.unpack import open_to_all, sha256
from orchestrator.errors import HostError, StepError


def unpack_layer(
    store: ContentStore,
    blob: Path,
    media_type: str,
    digest: str,
    diff_id: str,
    parents: tuple[str, ...],
) -> str:
    """The name of the content that the layer becomes on top of `parents` (names of contents, topmost first); made unless it
    is there. `digest` of the blob and `diff_id` of the tar in it are verified while it is unpacked.

    Raises StepError, and then nothing is kept.
    """
    what = f"layer {digest[:19]}"
    try:
        if found := _known(store, diff_id, parents):
            return found
        alone = layer_name(diff_id)
        with store.making(alone) as folder:
            if found := _known(store, diff_id, parents):
                return found  # by somebody else, while we waited
            for each in parents:
                if not store.has(each):
                    raise StepError(f"{what}: {each} below it is not in the store", hint="fetch it again")
            below = [os.fspath(store.folder(each)) for each in parents]
            unpacker = _unpacked(blob, os.fspath(folder), digest, diff_id, below)
            about: dict[str, object] = {"what": "layer", "diff_id": diff_id, "blob": digest}
            if unpacker.done.devices:
                about["devices"] = unpacker.done.devices  # passed over
            name = alone
            if unpacker.consulted:
                name, about["parents"] = chain_name(diff_id, parents), list(parents)
            store.keep(folder, name, about, unpacker.done.digests)
            return name
    except TarError as error:
        raise StepError(f"{what} ({media_type}): {error}", argument=os.fspath(blob)) from error
    except OSError as error:
        raise StepError.of(f"{what}: cannot unpack it", error) from error
    except HostError as error:
        raise StepError(f"{what}: {error.message}", hint=error.hint) from error


def _known(store: ContentStore, diff_id: str, parents: tuple[str, ...]) -> str | None:
    for name, below in ((layer_name(diff_id), None), (chain_name(diff_id, parents), list(parents))):
        if store.has(name):
            about = store.about(name)
            if (about.get("diff_id"), about.get("parents")) != (diff_id, below):
                raise StepError(
                    f"content {name} is of layer {about.get('diff_id')}, not of {diff_id}",
                    hint="its name is the same by chance or by intent; remove the image that it belongs to",
                )
            return name
    return None


def _unpacked(blob: Path, folder: str, digest: str, diff_id: str, below: Sequence[str]) -> LayerUnpacker:
    bounds = Bounds()
    with open(os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
        most = bounds.most(os.fstat(file.fileno()).st_size)
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stream = Stream(file, most)
        try:
            unpacker = LayerUnpacker(root, folder, bounds, most, below)
            try:
                unpacker.run(Tarball(stream))
                stream.drain()
            except TarError:
                stream.close()
                if (found := f"sha256:{sha256(file)}") != digest:
                    raise TarError(f"its blob is {found}, not {digest}") from None  # which says more
                raise
            for name, found, expected in (
                ("blob", stream.raw, digest),
                ("uncompressed content", stream.content, diff_id),
            ):
                if f"sha256:{found}" != expected:
                    raise TarError(f"its {name} is sha256:{found}, not {expected}")
            open_to_all(root)
            return unpacker
        finally:
            stream.close()
            os.close(root)
