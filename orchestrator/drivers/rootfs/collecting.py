"""What of the store nobody names any more.

In: the store, the contents that records name, the sources that kept revisions name. Out: what was removed. Lock files hold
what they name for as long as they are there. A name (a tag that was pulled, a recipe that was built) holds its contents
too, until `prune` is told to let go of those that no stack uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.drivers.rootfs.images import layers_of
from orchestrator.drivers.rootfs.store import ContentStore, tree_name
from orchestrator.model.desired import ArchiveRoot, ImageRoot, RecipeRoot, RootSource

Sources = Callable[[], Iterable[RootSource]]


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


def collect(
    store: ContentStore,
    used: Iterable[str],
    recorded: Iterable[RootSource],
    revised: Sources,
    *,
    unnamed: bool = False,
    dry: bool = False,
) -> tuple[Removed, ...]:
    """Remove every content that is not in `used`, no source of a record or revision stands for, and no lock file or name
    holds; also what killed processes left half made. `unnamed`: first forget the names of what nothing else holds. `dry`:
    only say so. Inside `store.held(alone=True)`. Raises OSError."""
    held = frozenset(_held(store))
    digests = {*held, *_digests(recorded)}
    names = store.documents("names")
    named = set() if unnamed else {str(each.get("digest")) for each in names}
    kept = {*used, *(each for digest in (*digests, *named) for each in digest_contents(store, digest))}
    left = [each for each in store.contents() if each not in kept]
    documents = [
        *(each for each in names if unnamed),
        *(each for each in store.documents("images") if str(each["digest"]) not in named),
    ]
    documents = [each for each in documents if str(each["digest"]) not in digests]
    if not left and not documents and not store.half_made():
        return ()
    for source in revised():  # every kept revision is read for it: only where there is something to remove
        kept.update(contents_of(store, source))
        digests.update(_digests((source,)))
    removed: list[Removed] = []
    for document in documents:
        if str(document["digest"]) not in digests:
            removed += _forgotten(store, document, dry=dry)
    for name in left:
        if name not in kept:
            size = int(store.about(name).get("bytes", 0))
            if dry or store.remove(name):
                removed.append(Removed(name=name, bytes=size))
    for name in () if dry else store.half_made():
        store.discard(name)
    return tuple(removed)


def _digests(sources: Iterable[RootSource]) -> Iterator[str]:
    for each in sources:
        if isinstance(each, ImageRoot | RecipeRoot) and each.digest:
            yield each.digest


def _held(store: ContentStore) -> Iterator[str]:
    """The digests that lock files name; a lock file that is gone holds nothing any more."""
    for hold in store.documents("holds"):
        if Path(hold["holder"]).exists():
            yield from hold["digests"]
        else:
            store.drop("holds", hold["holder"])


def _forgotten(store: ContentStore, document: Mapping[str, Any], *, dry: bool) -> Iterator[Removed]:
    """Forget a name, or an image without one, unless somebody is fetching it just now."""
    digest = str(document["digest"])
    try:
        with store.lock(f"pull-{digest.removeprefix('sha256:')}", wait=False):
            if "manifest" in document:
                kind, key = "images", digest
            else:
                recipe = document.get("kind") == "recipe"
                kind, key = "names", f"recipe/{document['key']}" if recipe else str(document["name"])
                yield Removed(name=str(document["name"]))
            if not dry:
                store.drop(kind, key)
    except BlockingIOError:
        return
