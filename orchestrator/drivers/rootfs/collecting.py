"""What of the store nobody names any more.

In: the store, the contents that records name, the sources that kept revisions name. Out: what was removed. Lock files hold
what they name for as long as they are there. A name (a tag that was pulled, a recipe that was built) holds its contents
too, until `prune` is told to let go of those that no stack uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.drivers.rootfs.images import layers_of
from orchestrator.drivers.rootfs.store import ContentStore, tree_name
from orchestrator.model.desired import ArchiveRoot, ImageRoot, RecipeRoot, RootSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """`name`: of a content, or of a tag or recipe that was forgotten; `bytes` that its files held."""

    name: str
    bytes: int = 0


def contents_of(store: ContentStore, source: RootSource) -> tuple[str, ...]:
    """The contents that a source of a kept revision stands for, as far as they are known here."""
    match source:
        case ArchiveRoot():
            return (source.sha256.lower(),)
        case ImageRoot() | RecipeRoot():
            return digest_contents(store, source.digest) if source.digest else ()
        case _:
            return ()


def digest_contents(store: ContentStore, digest: str) -> tuple[str, ...]:
    """Those of an image, a recipe's tree or an archive, whichever the digest is of."""
    return (*layers_of(store.document("images", digest)), tree_name(digest), digest.removeprefix("sha256:"))


def collect(store: ContentStore, used: Iterable[str], sources: Iterable[RootSource]) -> tuple[Removed, ...]:
    """Remove every content that is not in `used`, no source stands for, and no lock file or name holds; also what killed
    processes left half made. Inside `store.held(alone=True)`. Raises OSError."""
    kept = {*used}
    for source in sources:
        kept.update(contents_of(store, source))
    for hold in store.documents("holds"):
        if Path(hold["holder"]).exists():
            for digest in hold["digests"]:
                kept.update(digest_contents(store, digest))
        else:
            store.drop("holds", hold["holder"])
    for known in store.documents("names"):
        if known.get("digest"):
            kept.update(digest_contents(store, known["digest"]))
    removed = []
    for name in store.contents():
        if name not in kept:
            size = int(store.about(name).get("bytes", 0))
            if store.remove(name):
                removed.append(Removed(name=name, bytes=size))
    for left in store.half_made():
        store.discard(left)
    return tuple(removed)
