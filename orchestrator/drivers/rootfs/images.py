"""The port `Images` over the store of roots: images of registries and archives, roots built by recipes.

In: wishes. Out: pins, and contents in the store. Says which contents a source stands for; `oci` and `debian` know how
they are made, and are loaded when they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.drivers.rootfs.store import ContentStore, tree_name
from orchestrator.errors import StepError
from orchestrator.model.desired import ImageRoot, RecipeRoot
from orchestrator.model.images import ImageWish, Pin, Wish
from orchestrator.ports.images import Watch

if TYPE_CHECKING:
    from orchestrator.drivers.rootfs.debian.recipes import Recipes
    from orchestrator.drivers.rootfs.oci.images import OciImages


class RootImages:
    """One instance's images."""

    def __init__(self, store: ContentStore) -> None:
        self.store = store

    def pin(self, wish: Wish) -> Pin:
        return self._oci.pin(wish) if isinstance(wish, ImageWish) else self._recipes.pin(wish)

    def fetch(self, wish: Wish, pin: Pin, watch: Watch) -> Pin:
        if isinstance(wish, ImageWish):
            return self._oci.fetch(wish, pin, watch)
        return self._recipes.fetch(wish, pin, watch)

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


def layers_of(image: Mapping[str, object] | None) -> tuple[str, ...]:
    """The names of the contents of an `images` document, topmost first."""
    layers = (image or {}).get("layers")
    return tuple(str(each) for each in layers) if isinstance(layers, list) else ()
