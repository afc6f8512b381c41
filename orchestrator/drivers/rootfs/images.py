"""The port `Images` over the store of roots: images of registries and archives, roots built by recipes.

In: wishes. Out: pins, and contents in the store. Says which contents a source stands for; `oci` and `debian` know how
they are made, and are loaded when they are needed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.drivers.rootfs.store import ContentStore, tree_name
from orchestrator.drivers.rootfs.unpack import sha256
from orchestrator.errors import StepError
from orchestrator.model.desired import ImageRoot, RecipeRoot
from orchestrator.model.images import ArchiveWish, ImageWish, Pin, Pull, Recipe, Wish
from orchestrator.ports.images import Watch

if TYPE_CHECKING:
    from orchestrator.drivers.rootfs.debian.recipes import Recipes
    from orchestrator.drivers.rootfs.oci.images import OciImages


class RootImages:
    """One instance's images."""

    def __init__(self, store: ContentStore) -> None:
        self.store = store

    def pin(self, wish: Wish) -> Pin:
        match wish:
            case ImageWish():
                return self._oci.pin(wish)
            case Recipe():
                return self._recipes.pin(wish)
            case ArchiveWish():
                return _archive(wish.path)

    def fetch(self, wish: Wish, pin: Pin, watch: Watch) -> Pin:
        match wish:
            case ImageWish():
                return self._oci.fetch(wish, pin, watch)
            case Recipe():
                return self._recipes.fetch(wish, pin, watch)
            case ArchiveWish():
                return pin  # unpacked by the driver, which checks the digest

    def renew(self, wish: Wish, watch: Watch) -> Pin:
        match wish:
            case ImageWish(pull=Pull.NEVER) | ArchiveWish():
                return self.pin(wish)
            case ImageWish():
                return self.pin(replace(wish, pull=Pull.ALWAYS))
            case Recipe():
                return self._recipes.renew(wish, watch)

    def hold(self, holder: str, digests: Sequence[str]) -> None:
        self.store.put("holds", holder, {"holder": holder, "digests": list(digests)})

    def contents(self, source: ImageRoot | RecipeRoot) -> tuple[str, ...]:
        """The contents that the source stands for, topmost first. StepError: nothing is known of that image here."""
        if source.digest is None:
            raise StepError("it was never fetched", hint="apply the stack again")
        if isinstance(source, RecipeRoot):
            return (tree_name(source.digest),)
        found = layers_of(self.store.document("images", source.digest))
        if not found:
            raise StepError(f"image {source.digest} is not in the store", hint="apply the stack again")
        return found

    @cached_property
    def _oci(self) -> OciImages:
        from orchestrator.drivers.rootfs.oci.images import OciImages

        return OciImages(self.store)

    @cached_property
    def _recipes(self) -> Recipes:
        from orchestrator.drivers.rootfs.debian.recipes import Recipes

        return Recipes(self.store)


def _archive(path: str) -> Pin:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StepError(f"{path} is not a regular file", argument=path)
            return Pin(digest=f"sha256:{sha256(file)}", size=os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise StepError.of("cannot read the archive", error) from error


def layers_of(image: Mapping[str, object] | None) -> tuple[str, ...]:
    """The names of the contents of an `images` document, topmost first. Each once: overlayfs takes no folder twice, and
    the lower one of the same layer shows and hides nothing that the upper one does not."""
    layers = (image or {}).get("layers")
    return tuple(dict.fromkeys(map(str, layers))) if isinstance(layers, list) else ()
