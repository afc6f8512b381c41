"""Lock files: what the images, archives and recipes of stacks came down to, written down beside them.

In: a lock file's text. Out: a `Lock`, every diagnostic with its place; and back to text, sorted, so that the same lock is
the same bytes. Must not write files or know what a root is wished for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.diagnostics import Diagnostic, Severity, Span
from orchestrator.manifest import words
from orchestrator.manifest.codes import Code
from orchestrator.manifest.interpolate import Variables
from orchestrator.manifest.source import Node, parse

LOCK_FILE = "stack.lock"
VERSION = 1
_HEADER = (
    "# What the roots of stacks came down to. Written by `orchestrator lock`, used by plan, apply and watch."
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/:@+~-]*(?<!:)")
_HIDDEN = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # what JSON leaves as it is and YAML refuses
_AGAIN = "`orchestrator lock` writes it; remove what is wrong and run that again"


class LockedKind(StrEnum):
    """By the key that names it."""

    IMAGE = "image"
    ARCHIVE = "archive"
    RECIPE = "recipe"


_KEYS: Mapping[LockedKind, tuple[str, ...]] = {
    LockedKind.IMAGE: ("image", "digest"),
    LockedKind.ARCHIVE: ("archive", "sha256"),
    LockedKind.RECIPE: ("recipe", "debian", "content", "packages"),
}

_DIGESTS = {LockedKind.IMAGE: "digest", LockedKind.ARCHIVE: "sha256", LockedKind.RECIPE: "content"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedRoot:
    """`name`: an image's or archive's, with paths relative to the lock file, or a recipe's key. `digest`: `sha256:…` of an
    image's manifest, an archive or a recipe's content. `suite`, `packages` (name -> version): of a recipe."""

    kind: LockedKind
    name: str
    digest: str
    suite: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)


Roots = Mapping[str, LockedRoot]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """`stacks`: by stack the roots by the name of the rootfs."""

    stacks: Mapping[str, Roots] = field(default_factory=dict)

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(sorted({each.digest for roots in self.stacks.values() for each in roots.values()}))


def read_lock(text: str, file: str) -> tuple[Lock | None, tuple[Diagnostic, ...]]:
    """None with errors."""
    documents, problems = parse(text, file, variables=Variables({}))
    reading = _Reading(file, list(problems))
    lock = None
    if not any(each.severity is Severity.ERROR for each in problems):
        lock = reading.lock(documents)
    return (None if reading.problems else lock), tuple(reading.problems)


def lock_text(lock: Lock) -> str:
    """The inverse of `read_lock`; stacks without roots are left out."""
    lines = [_HEADER, f"version: {VERSION}"]
    stacks = {name: roots for name, roots in sorted(lock.stacks.items()) if roots}
    lines.append("stacks:" if stacks else "stacks: {}")
    for stack, roots in stacks.items():
        lines += [f"  {_key(stack)}:", "    rootfs:"]
        for name, root in sorted(roots.items()):
            lines.append(f"      {_key(name)}:")
            lines += [f"        {line}" for line in _root_lines(root)]
    return "\n".join(lines) + "\n"


def _root_lines(root: LockedRoot) -> Iterator[str]:
    yield f"{root.kind.value}: {_scalar(root.name)}"
    match root.kind:
        case LockedKind.IMAGE:
            yield f"digest: {root.digest}"
        case LockedKind.ARCHIVE:
            yield f'sha256: "{root.digest.removeprefix("sha256:")}"'
        case LockedKind.RECIPE:
            yield f"debian: {_scalar(root.suite)}"
            yield f"content: {root.digest}"
            yield "packages:" if root.packages else "packages: {}"
            for name, version in sorted(root.packages.items()):
                yield f"  {_key(name)}: {_quoted(version)}"


def _key(text: str) -> str:
    try:
        return words.key(text) if _PLAIN.fullmatch(text) else _quoted(text)
    except words.Surprise:
        return _quoted(text)


def _scalar(text: str) -> str:
    try:
        return text if _PLAIN.fullmatch(text) and words.plain(text) == text else _quoted(text)
    except words.Surprise:
        return _quoted(text)


def _quoted(text: str) -> str:
    written = json.dumps(text.replace("$", "$$"), ensure_ascii=False)
    return _HIDDEN.sub(lambda found: f"\\u{ord(found.group()):04x}", written)


class _Reading:
    """Node by node; each problem once, with its place."""

    def __init__(self, file: str, problems: list[Diagnostic]) -> None:
        self._file = file
        self.problems = problems

    def lock(self, documents: tuple[Node, ...]) -> Lock:
        whole = documents[0] if documents else Node(self._file, 0, 0, 1, None)
        if len(documents) > 1:
            self._fail(Code.VALUE, "a lock is one document", documents[1].span)
        found = self._keys(whole, ("version", "stacks"), "the lock")
        version = found.get("version")
        if version is not None and (type(version.data) is bool or version.data != VERSION):
            hint = "this orchestrator is older than the lock: upgrade it, or lock again"
            message = f"version {version.data} of lock files is not known"
            self._fail(Code.VALUE, message, version.span, hint=hint)
            return Lock()
        stacks = found.get("stacks")
        return Lock(
            stacks={
                name: self._roots(node) for name, node in (self._entries(stacks, "stacks") if stacks else ())
            }
        )

    def _roots(self, stack: Node) -> Roots:
        rootfs = self._keys(stack, ("rootfs",), "a stack").get("rootfs")
        entries = self._entries(rootfs, "rootfs") if rootfs is not None else ()
        found = {name: self._root(name, node) for name, node in entries}
        return {name: root for name, root in found.items() if root is not None}

    def _root(self, name: str, node: Node) -> LockedRoot | None:
        before = len(self.problems)
        kinds = [each for each in LockedKind if each.value in (node.entries or {})]
        if len(kinds) != 1:
            self._fail(Code.COMBINATION, f"{name} expects exactly one of image, archive or recipe", node.span)
            return None
        (kind,) = kinds
        found = self._keys(node, _KEYS[kind], name)
        digest = _DIGESTS[kind]
        right = _is(_HEX) if kind is LockedKind.ARCHIVE else _is(_DIGEST)
        texts = {
            key: self._text(each, key, right if key == digest else bool)
            for key, each in found.items()
            if key != "packages"
        }
        packages = {}
        if "packages" in found:
            for package, version in self._entries(found["packages"], "packages"):
                packages[package] = self._text(version, package, bool)
        if len(self.problems) > before:
            return None
        value = texts[digest]
        return LockedRoot(
            kind=kind,
            name=texts[kind.value],
            digest=f"sha256:{value.removeprefix('sha256:')}",
            suite=texts.get("debian", ""),
            packages=packages,
        )

    def _entries(self, node: Node, what: str) -> Iterator[tuple[str, Node]]:
        if node.entries is None:
            self._fail(Code.TYPE, f"{what} expects a mapping", node.span)
            return
        for name, (_, value) in node.entries.items():
            yield name, value

    def _keys(self, node: Node, known: tuple[str, ...], what: str) -> dict[str, Node]:
        """The values of just these keys, all of which have to be there."""
        if node.entries is None:
            self._fail(Code.TYPE, f"{what} expects a mapping with {', '.join(known)}", node.span)
            return {}
        for name, (key, _) in node.entries.items():
            if name not in known:
                self._fail(Code.UNKNOWN_KEY, f'{what} has no key "{name}"', key.span)
        for name in known:
            if name not in node.entries:
                self._fail(Code.MISSING_KEY, f"{what} lacks {name}", node.span)
        return {name: node.entries[name][1] for name in known if name in node.entries}

    def _text(self, node: Node, key: str, right: Callable[[str], object]) -> str:
        text = node.data
        if not isinstance(text, str) or not right(text):
            self._fail(Code.VALUE, f"{key} cannot be this", node.span)
            return ""
        return text

    def _fail(self, code: Code, message: str, span: Span, *, hint: str = _AGAIN) -> None:
        self.problems.append(Diagnostic(code=code, message=message, span=span, hint=hint))


def _is(pattern: re.Pattern[str]) -> Callable[[str], object]:
    return pattern.fullmatch
