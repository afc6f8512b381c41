"""Whether a lock file fits a manifest, and which digests it gives its roots.

In: roots as wished, what the lock says of them. Out: digests, misfits, entries for a new lock. Pure; paths in a lock are
relative to its folder, so that it can go where its stack goes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.diagnostics import Diagnostic
from orchestrator.manifest.codes import Code
from orchestrator.manifest.image_names import path_of
from orchestrator.manifest.load import Manifest
from orchestrator.manifest.lock import LockedKind, LockedRoot, Roots
from orchestrator.model.images import ArchiveWish, ImageWish, Pin, Recipe, Wish
from orchestrator.resolve.roots import Wanted

KEYS = {ImageWish: "image", Recipe: "debian", ArchiveWish: "archive"}
"""The key of the manifest that says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """A root of which lock and manifest do not say the same. `wanted`: None, the manifest does not have it at all."""

    name: str
    text: str
    wanted: Wanted | None


def entry_of(wish: Wish, pin: Pin, folder: str) -> LockedRoot:
    """What a lock in the folder says of it. `pin.digest` is known."""
    kind, name = _named(wish, folder)
    suite = wish.suite if isinstance(wish, Recipe) else ""
    return LockedRoot(kind=kind, name=name, digest=str(pin.digest), suite=suite, packages=pin.packages)


def fits(wish: Wish, entry: LockedRoot, folder: str) -> bool:
    return (entry.kind, entry.name) == _named(wish, folder)


def misfits(wanted: Sequence[Wanted], roots: Roots, folder: str) -> Iterator[Misfit]:
    """In the order of the manifest, then what the lock has too much."""
    for each in wanted:
        entry = roots.get(each.name)
        if entry is None:
            yield Misfit(name=each.name, text=f"{each.name} is not in the lock", wanted=each)
        elif not fits(each.wish, entry, folder):
            yield Misfit(name=each.name, text=_other(each, entry, folder), wanted=each)
    for name in sorted(roots.keys() - {each.name for each in wanted}):
        yield Misfit(name=name, text=f"{name} is in the lock, and not in the manifest", wanted=None)


def refusals(manifest: Manifest, wanted: Sequence[Wanted]) -> tuple[Diagnostic, ...]:
    """Of a manifest with a lock beside it: the roots for which the lock is of no use, each at its place."""
    return tuple(
        Diagnostic(
            code=Code.LOCK,
            message=each.text,
            span=manifest.root.find(*each.wanted.path, KEYS[type(each.wanted.wish)]),
            hint=f"`orchestrator lock --update {each.name}` takes what is there now",
        )
        for each in misfits(wanted, locked_roots(manifest), posixpath.dirname(manifest.lock_file))
        if each.wanted is not None
    )


def locked_roots(manifest: Manifest) -> Roots:
    """What the lock beside the manifest says of its roots."""
    return manifest.lock.stacks.get(manifest.name, {}) if manifest.lock else {}


def _other(wanted: Wanted, entry: LockedRoot, folder: str) -> str:
    kind, name = _named(wanted.wish, folder)
    if kind is entry.kind is LockedKind.RECIPE:
        return f"the recipe of {wanted.name} is another than the lock's"
    return f"{wanted.name} is {_word(kind, name)}, and the lock is of {_word(entry.kind, entry.name)}"


def _word(kind: LockedKind, name: str) -> str:
    return f"{kind.value} {name[:12] if kind is LockedKind.RECIPE else name}"


def _named(wish: Wish, folder: str) -> tuple[LockedKind, str]:
    match wish:
        case Recipe():
            return LockedKind.RECIPE, wish.key
        case ArchiveWish():
            return LockedKind.ARCHIVE, posixpath.relpath(wish.path, folder)
        case ImageWish():
            path = path_of(wish.name)
            if path is None:
                return LockedKind.IMAGE, wish.name
            transport, _, rest = wish.name.partition(":")
            return LockedKind.IMAGE, f"{transport}:{posixpath.relpath(path, folder)}{rest[len(path) :]}"
