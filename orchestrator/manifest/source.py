"""Strict YAML with places.

In: one file's text and its variables. Out: a `Node` tree for each document, every node with its place, and all diagnostics.
Built from libyaml's event stream, so that hostile input is refused before anything is built of it: size, depth, number
of nodes, alias expansion, length of numbers, tags, duplicate keys. Knows nothing of stacks.
"""

from __future__ import annotations

import gc
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.manifest import words
from orchestrator.manifest.codes import Code
from orchestrator.manifest.interpolate import Variables, interpolate

LARGEST = 16 * 1024 * 1024  # bytes of one file
DEEPEST = 100  # levels
MOST_NODES = 2_000_000  # of one file, aliases expanded
EXPANSION = 10  # times the written nodes, past
FREE_EXPANSION = 100_000  # expanded nodes that are always allowed

# what YAML 1.1 allows in a stream, less the surrogates
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Node:
    """One YAML value with its place. Exactly one of these: a mapping (`entries`), a sequence (`items`), a scalar (`value`).

    `data` is the same value as plain Python: dict (a `Map`), list, str, int, float, bool, None.
    """

    __slots__ = ("column", "data", "entries", "file", "items", "line", "width")

    def __init__(self, file: str, line: int, column: int, width: int, data: Any) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.width = width
        self.data = data
        self.entries: dict[str, tuple[Node, Node]] | None = None  # key -> (key node, value node)
        self.items: list[Node] | None = None

    @property
    def span(self) -> Span:
        return Span(file=self.file, line=self.line + 1, column=self.column + 1, width=self.width)

    @property
    def scalar(self) -> bool:
        return self.entries is None and self.items is None

    def find(self, *path: str | int) -> Span:
        """The place of what `path` leads to (or its deepest part that exists): a scalar itself, else its key."""
        node, key = self, None
        for part in path:
            if node.entries is not None and part in node.entries:
                key, node = node.entries[part]
            elif node.items is not None and isinstance(part, int) and 0 <= part < len(node.items):
                key, node = None, node.items[part]
            elif part == "[key]" and key is not None:
                return key.span
            elif node.items is not None and isinstance(
                part, str
            ):  # a list where a mapping may stand (depends_on)
                key, node = None, next((each for each in node.items if each.data == part), node)
            elif part == 0:  # one mapping where a list may stand (io)
                continue
            else:
                break
        return node.span if (node.scalar and node.data is not None) or key is None else key.span


class Map(dict[str, Any]):
    """A mapping's data that knows its node."""

    __slots__ = ("node",)
    node: Node


class Broken(str):
    """Stands for a scalar about which a diagnostic was made already: later checks say nothing more of it."""

    __slots__ = ()


class Rejected(Exception):
    """The text is refused as a whole."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


def parse(text: str, file: str, *, variables: Variables) -> tuple[tuple[Node, ...], tuple[Diagnostic, ...]]:
    """The documents of one file, and what is wrong with it. A refused file has no documents."""
    problems: list[Diagnostic] = []
    try:
        if len(text) > LARGEST:
            raise _too_large(f"{file} is larger than {LARGEST >> 20} MiB", None)
        with no_collection():
            roots = _Builder(file, variables, problems.append).documents(text)
    except Rejected as rejected:
        return (), (*problems, rejected.diagnostic)
    return tuple(roots), tuple(problems)


@contextmanager
def no_collection() -> Iterator[None]:
    """Without the garbage collector, for building much and dropping nothing."""
    # Hundreds of thousands of small objects, none of them garbage: the collector costs five times the parse.
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(slots=True)
class _Frame:
    """A mapping or sequence that is still open."""

    node: Node
    anchor: str | None
    before: int  # expanded nodes when it began
    key: Node | None = None  # of the entry whose value comes next
    merges: list[Node] = field(default_factory=list)


class _Builder:
    def __init__(self, file: str, variables: Variables, report: Callable[[Diagnostic], None]) -> None:
        self._file = file
        self._variables = variables
        self._report = report
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[Node, int] | None] = {}  # None: still open
        self._roots: list[Node] = []
        self._written = 0
        self._expanded = 0

    def documents(self, text: str) -> list[Node]:
        steps: dict[type[Any], Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._open,
            yaml.SequenceStartEvent: self._open,
            yaml.MappingEndEvent: self._close_mapping,
            yaml.SequenceEndEvent: self._close,
            yaml.AliasEvent: self._alias,
            yaml.DocumentEndEvent: self._end_document,
        }
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                step = steps.get(type(event))
                if step is not None:
                    step(event)
        except yaml.YAMLError as error:
            if isinstance(error, yaml.reader.ReaderError):
                raise Rejected(_unreadable(self._file, text)) from error
            raise Rejected(_syntax(error, self._file)) from error
        except UnicodeEncodeError as error:
            raise Rejected(_unreadable(self._file, text)) from error
        return self._roots

    def _node(self, event: Any, data: Any) -> Node:
        start, end = event.start_mark, event.end_mark
        line, column = start.line, start.column
        width = end.column - column if end.line == line else 1
        self._written += 1
        self._expanded += 1
        node = Node(self._file, line, column, max(1, width), data)
        if self._expanded > MOST_NODES:
            raise _too_large(f"{self._file} holds more than {MOST_NODES:,} values", node.span)
        if event.tag is not None and not (event.tag == "" and event.implicit):
            self._problem(
                Code.TAG,
                f'the tag "{_shown_tag(event.tag)}" is not allowed',
                node,
                "remove the tag; quote the value if it is text",
            )
        return node

    def _scalar(self, event: Any) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.node.entries is not None and frame.key is None:
            self._key(event, frame)
            return
        text: str = event.value
        node = self._node(event, text)
        bare = event.style is None or event.style == ""
        if "$" in text:
            node.data = self._interpolated(node, text, bare)
        elif bare and not event.implicit[1]:
            try:
                node.data = words.plain(text)
            except words.Surprise as surprise:
                self._problem(Code.SURPRISE, surprise.message, node, surprise.hint)
                node.data = Broken(text)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1)
        self._put(node)

    def _interpolated(self, node: Node, text: str, bare: bool) -> str:
        out, problems = interpolate(text, self._variables)
        exact = node.width == len(text) + (0 if bare else 2)  # one line, no escapes: the offset is a column
        for each in problems:
            span = node.span
            if exact:
                column = node.column + each.offset + (1 if bare else 2)
                span = Span(file=self._file, line=node.line + 1, column=column, width=each.width)
            self._report(Diagnostic(code=each.code, message=each.message, span=span, hint=each.hint))
        return Broken(text) if problems else out

    def _key(self, event: Any, frame: _Frame) -> None:
        node = self._node(event, event.value)
        bare = event.style is None or event.style == ""
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1)
        if bare:
            try:
                words.key(event.value)
            except words.Surprise as surprise:
                self._problem(Code.SURPRISE, surprise.message, node, surprise.hint)
        if not event.value.isascii():
            node.data = unicodedata.normalize("NFC", event.value)
        # marks a merge key; a quoted "<<" is a key like any other
        node.items = [] if bare and event.value == "<<" else None
        frame.key = node

    def _open(self, event: Any) -> None:
        frame = self._frames[-1] if self._frames else None
        if len(self._frames) >= DEEPEST:
            raise _too_large(
                f"{self._file} is nested more than {DEEPEST} levels deep", self._node(event, None).span
            )
        before = self._expanded
        if frame is not None and frame.node.entries is not None and frame.key is None:
            key = self._node(event, None)
            raise self._reject(Code.KEY_FORM, "a list or mapping cannot be a key", key, "write a plain word")
        node = self._node(event, None)
        node.width = 1
        if type(event) is yaml.MappingStartEvent:
            node.entries = {}
            node.data = data = Map()
            data.node = node
        else:
            node.items = []
            node.data = []
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._frames.append(_Frame(node, event.anchor, before))

    def _close_mapping(self, event: Any) -> None:
        frame = self._frames[-1]
        entries = frame.node.entries or {}
        for source in frame.merges:
            for name, entry in (source.entries or {}).items():
                if name not in entries:
                    entries[name] = entry
                    frame.node.data[name] = entry[1].data
        self._close(event)

    def _close(self, event: Any) -> None:
        frame = self._frames.pop()
        if frame.anchor is not None:
            self._anchors[frame.anchor] = (frame.node, self._expanded - frame.before)
        self._put(frame.node)

    def _alias(self, event: Any) -> None:
        place = Node(self._file, event.start_mark.line, event.start_mark.column, len(event.anchor) + 1, None)
        if event.anchor not in self._anchors:
            raise self._reject(
                Code.ALIAS,
                f'the alias "*{event.anchor}" has no anchor before it',
                place,
                f"write &{event.anchor} where the value stands first",
            )
        found = self._anchors[event.anchor]
        if found is None:
            raise self._reject(
                Code.ALIAS, f'the alias "*{event.anchor}" lies inside itself', place, "write the value out"
            )
        frame = self._frames[-1]
        if frame.node.entries is not None and frame.key is None:
            raise self._reject(Code.KEY_FORM, "an alias cannot be a key", place, "write the key out")
        self._written += 1
        self._expanded += found[1]
        if self._expanded > MOST_NODES:
            raise _too_large(f"aliases expand {self._file} to more than {MOST_NODES:,} values", place.span)
        self._put(found[0])

    def _put(self, node: Node) -> None:
        """Hands a finished value to what encloses it."""
        if not self._frames:
            self._roots.append(node)
            return
        frame = self._frames[-1]
        if frame.node.items is not None:
            frame.node.items.append(node)
            frame.node.data.append(node.data)
            return
        key, frame.key = frame.key, None
        entries = frame.node.entries
        assert key is not None and entries is not None
        if key.items is not None:
            frame.merges += self._merged(key, node)
            return
        name: str = key.data
        if name in entries:
            first = entries[name][0]
            self._report(
                Diagnostic(
                    code=Code.DUPLICATE_KEY,
                    message=f'the key "{name}" occurs twice',
                    span=key.span,
                    hint="keep one of them",
                    related=((first.span, "first here"),),
                )
            )
            return
        entries[name] = (key, node)
        frame.node.data[name] = node.data

    def _merged(self, key: Node, node: Node) -> list[Node]:
        sources = node.items if node.items is not None else [node]
        if any(each.entries is None for each in sources):
            self._problem(
                Code.ALIAS,
                "<< takes a mapping or a list of mappings",
                key,
                "write <<: *NAME with NAME an anchor of a mapping",
            )
            return []
        return sources

    def _end_document(self, event: Any) -> None:
        self._anchors.clear()
        if self._expanded > max(FREE_EXPANSION, EXPANSION * self._written):
            raise _too_large(
                f"aliases expand {self._file} to {self._expanded:,} values, more than {EXPANSION} times what is written",
                None,
            )

    def _problem(self, code: Code, message: str, node: Node, hint: str) -> None:
        self._report(Diagnostic(code=code, message=message, span=node.span, hint=hint))

    def _reject(self, code: Code, message: str, node: Node, hint: str) -> Rejected:
        return Rejected(Diagnostic(code=code, message=message, span=node.span, hint=hint))


def _shown_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _too_large(message: str, span: Span | None) -> Rejected:
    return Rejected(
        Diagnostic(
            code=Code.TOO_LARGE, message=message, span=span, hint="split the stack, or write less by alias"
        )
    )


def _unreadable(file: str, text: str) -> Diagnostic:
    found = _UNPRINTABLE.search(text)
    if found is None:
        return Diagnostic(code=Code.ENCODING, message=f"{file} is not text", hint="save it as UTF-8")
    line = text.count("\n", 0, found.start())
    column = found.start() - (text.rfind("\n", 0, found.start()) + 1)
    return Diagnostic(
        code=Code.ENCODING,
        message=f"the control character U+{ord(found.group()):04X} is not allowed",
        span=Span(file=file, line=line + 1, column=column + 1),
        hint='remove it; a quoted value can hold it as an escape ("\\x1b")',
    )


_HINTS = (
    ("tab character", "indent with spaces, not with tabs"),
    ("\\t", "indent with spaces, not with tabs"),
    ("mapping values are not allowed", 'quote a value that holds ": ", and check the indentation'),
    ("could not find expected ':'", "write KEY: VALUE; check the indentation and the line before"),
    (
        "did not find expected key",
        "check the indentation, and quote values that begin with a quote, *, & or %",
    ),
    ("expected <block end>", "check the indentation"),
)


def _syntax(error: yaml.YAMLError, file: str) -> Diagnostic:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    message = str(getattr(error, "problem", None) or error).strip().rstrip(".")
    context = getattr(error, "context", None)
    hint = next(
        (hint for part, hint in _HINTS if part in message),
        "check the indentation, quotes and brackets near here",
    )
    span = Span(file=file, line=mark.line + 1, column=mark.column + 1) if mark else None
    return Diagnostic(
        code=Code.SYNTAX,
        message=f"not valid YAML: {message}{f' ({context})' if context else ''}",
        span=span,
        hint=hint,
    )
