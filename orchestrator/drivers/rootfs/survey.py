"""What the store of roots holds, who uses it, and what of it could go.

In: the store, the contents that records name by stack. Out: `Entry` values, one for each image, recipe, archive and host
skeleton. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.drivers.rootfs.images import layers_of
from orchestrator.drivers.rootfs.store import ContentStore

Users = Mapping[str, frozenset[str]]
"""Content -> the stacks whose records name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`kind`: image, recipe, archive, host or other (nobody knows of what). `names`: tags or recipes that stand for it.
    `contents`: topmost first. `bytes`: of all its contents; `own`: of those that no other entry has. `here`: all of them
    are there. `at`: when it was looked up or made, seconds since 1970."""

    kind: str
    names: tuple[str, ...]
    digest: str
    contents: tuple[str, ...]
    bytes: int
    own: int
    stacks: tuple[str, ...]
    here: bool
    at: float


def survey(store: ContentStore, users: Users) -> tuple[Entry, ...]:
    """Everything, by kind and name."""
    named: dict[str, list[Mapping[str, object]]] = {}
    for name in store.documents("names"):
        named.setdefault(str(name.get("digest")), []).append(name)
    found: list[tuple[str, tuple[str, ...], str, tuple[str, ...], float]] = []
    claimed: set[str] = set()
    for image in store.documents("images"):
        digest, contents = str(image["digest"]), layers_of(image)
        names = named.get(digest, [])
        at = max((float(str(each.get("at", 0))) for each in names), default=0.0)
        found.append(("image", _names(names) or (str(image["name"]),), digest, contents, at))
        claimed.update(contents)
    for content in store.contents():
        if content in claimed:
            continue
        about = store.about(content)
        digest, made = str(about.get("digest", "")), float(about.get("made", 0))
        match about.get("what"):
            case "recipe":
                names = named.get(digest, [])
                found.append(
                    ("recipe", _names(names) or (str(about.get("recipe")),), digest, (content,), made)
                )
            case "archive":
                found.append(("archive", (str(about.get("path")),), f"sha256:{content}", (content,), made))
            case "host":
                found.append(("host", ("host",), digest, (content,), made))
            case _:
                found.append(("other", (content,), digest, (content,), made))
    holders: dict[str, int] = {}
    for *_, contents, _at in found:
        for content in set(contents):
            holders[content] = holders.get(content, 0) + 1
    size = {content: int(store.about(content).get("bytes", 0)) for content in holders}
    entries = [
        Entry(
            kind=kind,
            names=names,
            digest=digest,
            contents=contents,
            bytes=sum(size[each] for each in set(contents)),
            own=sum(size[each] for each in set(contents) if holders[each] == 1),
            stacks=tuple(sorted({stack for each in contents for stack in users.get(each, ())})),
            here=all(map(store.has, contents)),
            at=at,
        )
        for kind, names, digest, contents, at in found
    ]
    return tuple(sorted(entries, key=lambda each: (each.kind, each.names, each.digest)))


def _names(names: list[Mapping[str, object]]) -> tuple[str, ...]:
    return tuple(sorted(str(each["name"]) for each in names))
