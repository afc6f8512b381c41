"""Files to manifests.

In: paths (files, folders, `-`) and the environment as a mapping. Out: `Loaded`: one `Manifest` for each stack name, the
texts for excerpts, and every diagnostic, sorted by place. Reads files and what they name; decides nothing about what is
meant.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.diagnostics import Diagnostic, Severity, Span
from orchestrator.manifest.codes import Code
from orchestrator.manifest.contents import Content, read_content
from orchestrator.manifest.envfile import EnvEntry, load_env
from orchestrator.manifest.explain import existing, explain
from orchestrator.manifest.image_names import canonical, path_of
from orchestrator.manifest.interpolate import Variables
from orchestrator.manifest.lock import LOCK_FILE, Lock, read_lock
from orchestrator.manifest.roots import Rootfs
from orchestrator.manifest.schema import ContainerKeys, StackFile
from orchestrator.manifest.source import LARGEST, Map, Node, no_collection, parse

STDIN = "<stdin>"
SECTIONS = ("rootfs", "networks", "volumes", "secrets", "configs", "containers", "groups")
Sources = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One stack as written. `root` holds the places; `folders` the absolute folder of each file, for relative paths.

    `env_files`: absolute path -> entries. `bound`: absolute path -> inode number of each single file that is bound.
    `lock_file`: the absolute path of the lock file beside it, and what it holds (None: there is none).
    `contents`: what `secret/NAME`, `config/NAME` and the files of recipes (by their places) hold. `failed`: there are
    errors, so that it is not to be applied; `resolve` only looks for more of them. `partial`: because of errors parts
    were left out.
    """

    name: str
    content: StackFile
    root: Node
    folders: Mapping[str, str]
    env_files: Mapping[str, tuple[EnvEntry, ...]] = field(default_factory=dict)
    bound: Mapping[str, int] = field(default_factory=dict)
    contents: Mapping[str, Content] = field(default_factory=dict)
    lock_file: str = ""
    lock: Lock | None = None
    partial: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """All that was read. `manifests` in the order in which their names were met. `files`: the absolute path of every file
    and folder that any of it depends on, there or not; `bound`: of files that are bound as they are, whatever they hold."""

    manifests: tuple[Manifest, ...]
    sources: Sources
    diagnostics: tuple[Diagnostic, ...]
    files: frozenset[str] = frozenset()
    bound: frozenset[str] = frozenset()

    @property
    def failed(self) -> bool:
        return any(each.severity is Severity.ERROR for each in self.diagnostics)


def load(paths: Sequence[str], env: Mapping[str, str], *, stdin: str | None = None) -> Loaded:
    """Reads and validates. `env` wins over the `.env` beside each file; `stdin` is the text that `-` means."""
    reading = _Reading(env, stdin)
    with no_collection():
        for path in paths:
            reading.path(path)
        manifests = [each for group in reading.stacks() if (each := _manifest(group, reading)) is not None]
    # Files of one command belong together: none is applied while another has errors.
    failed = any(each.severity is Severity.ERROR for each in reading.problems)
    return Loaded(
        manifests=tuple(replace(each, failed=failed) for each in manifests),
        sources=reading.sources,
        diagnostics=by_place(reading.problems, tuple(reading.sources)),
        files=frozenset(reading.files),
        bound=frozenset(reading.bound),
    )


def by_place(diagnostics: Iterable[Diagnostic], files: Sequence[str]) -> tuple[Diagnostic, ...]:
    """Each diagnostic once, in the order of files and places; those without a place first."""
    order = {file: number for number, file in enumerate(files)}

    def place(each: Diagnostic) -> tuple[int, int, int]:
        span = each.span
        return (order.get(span.file, len(order)), span.line, span.column) if span else (-1, 0, 0)

    return tuple(sorted(dict.fromkeys(diagnostics), key=place))


def is_stack_file(folder: str, name: str) -> bool:
    """What a folder's editors and tools leave beside stack files is none."""
    wanted = name.endswith((".yaml", ".yml")) and not name.startswith(".")
    return wanted and not os.path.isdir(os.path.join(folder, name))  # noqa: PTH112, PTH118


class _Reading:
    """What one call of `load` has gathered so far."""

    def __init__(self, env: Mapping[str, str], stdin: str | None) -> None:
        self._env = env
        self._stdin = stdin
        self.sources: dict[str, str] = {}
        self.folders: dict[str, str] = {}
        self.files: set[str] = set()
        self.bound: set[str] = set()
        self.problems: list[Diagnostic] = []
        self.locks: dict[str, Lock | None] = {}
        self.roots: list[Node] = []

    def fail(self, code: Code, message: str, *, span: Span | None = None, hint: str | None = None) -> None:
        self.problems.append(Diagnostic(code=code, message=message, span=span, hint=hint))

    def path(self, path: str) -> None:
        if path == "-":
            self._document(STDIN, self._stdin or "", str(Path.cwd()))
            return
        self.files.add(os.path.abspath(path))  # noqa: PTH100
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises on a null character
            self._folder(path)
        elif (text := self._read(path)) is not None:
            self._document(path, text, os.path.dirname(os.path.abspath(path)))  # noqa: PTH100, PTH120

    def _folder(self, path: str) -> None:
        try:
            names = sorted(os.listdir(path))  # noqa: PTH208
        except OSError as error:
            self.fail(Code.UNREADABLE, f"{path}: {(error.strerror or str(error)).lower()}")
            return
        found = [each for each in names if is_stack_file(path, each)]
        if not found:
            self.fail(
                Code.UNREADABLE,
                f"{path} holds no *.yaml and no *.yml",
                hint="folders below it are not searched",
            )
        folder = os.path.abspath(path)  # noqa: PTH100
        for each in found:
            file = os.path.join(path, each)  # noqa: PTH118
            self.files.add(os.path.join(folder, each))  # noqa: PTH118
            if (text := self._read(file)) is not None:
                self._document(file, text, folder)

    def _read(self, path: str) -> str | None:
        try:
            with open(path, "rb") as file:
                raw = file.read(LARGEST + 1)
        except (OSError, ValueError) as error:
            word = (getattr(error, "strerror", None) or str(error)).lower()
            self.fail(Code.UNREADABLE, f"{path}: {word}", hint="give a file, a folder or - with -f")
            return None
        if len(raw) > LARGEST:
            self.fail(Code.TOO_LARGE, f"{path} is larger than {LARGEST >> 20} MiB", hint="split the stack")
            return None
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            self.fail(Code.ENCODING, f"{path}: line {line} is not UTF-8 text", hint="save the file as UTF-8")
            return None

    def _document(self, file: str, text: str, folder: str) -> None:
        if file in self.sources:
            return  # named twice: read once
        self.sources[file] = text
        self.folders[file] = folder
        roots, problems = parse(text, file, variables=Variables(self._env, lambda: self._beside(folder)))
        self.problems += problems
        roots = tuple(each for each in roots if each.data is not None)
        if not roots and not problems:
            self.fail(
                Code.EMPTY,
                f"{file} holds nothing",
                hint="write stack: NAME; to remove a stack: orchestrator delete NAME",
            )
        for root in roots:
            if root.entries is None:
                self.fail(
                    Code.TYPE,
                    "the file expects a mapping at its top",
                    span=root.span,
                    hint="write stack: NAME first",
                )
            else:
                self.roots.append(root)

    def _beside(self, folder: str) -> Mapping[str, str]:
        path = os.path.join(folder, ".env")  # noqa: PTH118
        self.files.add(path)
        if not os.path.exists(path):  # noqa: PTH110
            return {}
        entries, problems = load_env(path)
        self.problems += problems
        return {each.name: each.value for each in entries}

    def beside(self, file: str) -> str:
        """The absolute path of the lock file beside a file, which is read."""
        folder = self.folders[file]
        path = os.path.join(folder, LOCK_FILE)  # noqa: PTH118
        self.files.add(path)
        if path not in self.locks:
            self.locks[path] = None
            shown = path if file == STDIN else os.path.join(os.path.dirname(file), LOCK_FILE)  # noqa: PTH118, PTH120
            text = self._read(shown) if os.path.lexists(path) else None
            if text is not None:
                self.sources[shown] = text
                self.locks[path], problems = read_lock(text, shown)
                self.problems += problems
        return path

    def stacks(self) -> list[list[Node]]:
        """The documents by stack name; those without a name stand alone."""
        named: dict[Any, list[Node]] = {}
        for root in self.roots:
            name = root.data.get("stack")
            named.setdefault(name if isinstance(name, str) else id(root), []).append(root)
        return list(named.values())


def _manifest(documents: list[Node], reading: _Reading) -> Manifest | None:
    root = documents[0] if len(documents) == 1 else _merged(documents, reading)
    content, partial = _validated(root, reading.problems)
    if content is None:
        return None
    if not content.containers and not content.groups and not partial:
        reading.fail(
            Code.NOTHING_TO_RUN,
            f'stack "{content.stack}" holds no containers and no groups',
            span=root.find("stack"),
            hint=f"write containers:, or remove the stack with `orchestrator delete {content.stack}`",
        )
    lock_file = reading.beside(root.file)
    manifest = Manifest(
        name=content.stack,
        content=content,
        root=root,
        folders=reading.folders,
        lock_file=lock_file,
        lock=reading.locks[lock_file],
        partial=partial,
    )
    return replace(
        manifest,
        env_files=_env_files(manifest, reading),
        bound=_bound(manifest, reading),
        contents=_contents(manifest, reading),
    )


def _merged(documents: list[Node], reading: _Reading) -> Node:
    """Several documents of one stack as one: sections are joined, and nothing may be declared twice."""
    first = documents[0]
    root = Node(first.file, first.line, first.column, first.width, Map())
    root.entries, root.data.node = {}, root
    for key, (key_node, node) in ((k, e) for each in documents for k, e in (each.entries or {}).items()):
        there = root.entries.get(key)
        if there is None:
            joined = _copied(node) if key in SECTIONS and node.entries is not None else node
            root.entries[key] = (key_node, joined)
            root.data[key] = joined.data
        elif key in SECTIONS and node.entries is not None and there[1].entries is not None:
            _join(there[1], node, f"{key}.", reading.problems)
        elif key != "stack" and not key.startswith("x-"):
            reading.problems.append(_twice(key, key_node, there[0]))
    return root


def _copied(node: Node) -> Node:
    copy = Node(node.file, node.line, node.column, node.width, Map(node.data))
    copy.entries, copy.data.node = dict(node.entries or {}), copy
    return copy


def _join(target: Node, source: Node, prefix: str, problems: list[Diagnostic]) -> None:
    assert target.entries is not None and source.entries is not None
    for name, (key, value) in source.entries.items():
        if name in target.entries:
            problems.append(_twice(prefix + name, key, target.entries[name][0]))
        else:
            target.entries[name] = (key, value)
            target.data[name] = value.data


def _twice(name: str, key: Node, first: Node) -> Diagnostic:
    return Diagnostic(
        code=Code.DECLARED_TWICE,
        message=f"{name} is declared twice",
        span=key.span,
        hint="files of one stack are joined; keep one of the two",
        related=((first.span, "first here"),),
    )


def _validated(root: Node, problems: list[Diagnostic]) -> tuple[StackFile | None, bool]:
    """The content; with errors, what is left without the wrong values (True), if that still makes sense."""
    before = len(problems)
    try:
        return StackFile.model_validate(root.data, context=problems), len(problems) > before
    except ValidationError as error:
        problems += explain(error, root, problems[before:])
        rest = _without(
            root.data, [existing(root, each["loc"]) for each in error.errors() if each["type"] != "missing"]
        )
    try:
        return StackFile.model_validate(rest, context=[]), True
    except ValidationError:
        return None, True


def _without(data: Any, paths: list[tuple[str | int, ...]]) -> Any:
    """A copy without the keys at `paths`; a value inside a list takes the whole list with it."""
    if not isinstance(data, dict) or () in paths:
        return data
    heads: dict[Any, list[tuple[str | int, ...]]] = {}
    for path in paths:
        heads.setdefault(path[0], []).append(path[1:])
    copy = Map(data)
    if isinstance(data, Map):
        copy.node = data.node
    for key, rests in heads.items():
        if () in rests or not isinstance(copy.get(key), dict):
            copy.pop(key, None)
        else:
            copy[key] = _without(copy[key], rests)
    return copy


def _env_files(manifest: Manifest, reading: _Reading) -> dict[str, tuple[EnvEntry, ...]]:
    found: dict[str, tuple[EnvEntry, ...]] = {}
    for path, container in _containers(manifest.content):
        for number, name in enumerate(container.env_file):
            span = manifest.root.find(*path, "env_file", number)
            where = absolute(manifest, name, *path)
            reading.files.add(where)
            if where not in found:
                found[where], problems = load_env(where, asked=span)
                reading.problems += problems
    return found


def _bound(manifest: Manifest, reading: _Reading) -> dict[str, int]:
    """A bind mount keeps to its file when a rename puts another one there: so the file itself is part of the wish."""
    found: dict[str, int] = {}
    for path, container in _containers(manifest.content):
        for mount in container.mounts:
            if mount.bind is None:
                continue
            where = absolute(manifest, mount.bind, *path)
            try:
                there = os.stat(where)  # noqa: PTH116
            except (OSError, ValueError):
                reading.bound.add(where)  # the host's check tells it
                continue
            if stat.S_ISREG(there.st_mode):
                reading.bound.add(where)
                found[where] = there.st_ino
    return found


def _contents(manifest: Manifest, reading: _Reading) -> dict[str, Content]:
    """Of all secrets, configs and files of recipes that can be read."""
    found: dict[str, Content] = {}
    declared = [
        *(("secrets", name, each.file, None) for name, each in manifest.content.secrets.items()),
        *(("configs", name, each.file, each.content) for name, each in manifest.content.configs.items()),
    ]
    wanted: list[tuple[str, tuple[str, ...], str | None, str | None]] = [
        (f"{section[:-1]}/{name}", (section, name), file, text) for section, name, file, text in declared
    ]
    for rootfs, where in rootfs_of(manifest.content):
        reading.files.update(_archives(rootfs, manifest, where))
        for target, each in rootfs.files.items():
            place = (*where, "files", target)
            wanted.append(("/".join(place), place, each.file, each.content))
    for key, place, file, text in wanted:
        span = manifest.root.find(*place, "content" if file is None else "file")
        path = None if file is None else absolute(manifest, file, *place)
        if path is not None:
            reading.files.add(path)
        content, problem = read_content(path, text, asked=span)
        if content is not None:
            found[key] = content
        if problem is not None:
            reading.problems.append(problem)
    return found


def _archives(rootfs: Rootfs, manifest: Manifest, where: tuple[str, ...]) -> Iterable[str]:
    """Files and folders of the host whose content decides what the rootfs is."""
    if rootfs.archive is not None and rootfs.sha256 is None:
        yield absolute(manifest, rootfs.archive, *where)
    if rootfs.image is not None:
        path = path_of(canonical(rootfs.image, absolute(manifest, ".", *where)))
        if path is not None:
            yield path


def rootfs_of(content: StackFile) -> Iterable[tuple[Rootfs, tuple[str, ...]]]:
    """Every rootfs that is written, declared or inside a container, with its place."""
    for name, each in content.rootfs.items():
        yield each, ("rootfs", name)
    for path, container in _containers(content):
        if container.rootfs.name is None:
            yield container.rootfs, (*path, "rootfs")


def _containers(content: StackFile) -> Iterable[tuple[tuple[str, ...], ContainerKeys]]:
    for name, single in content.containers.items():
        yield ("containers", name), single
    for group, parts in content.groups.items():
        for name, container in parts.containers.items():
            yield ("groups", group, "containers", name), container


def absolute(manifest: Manifest, path: str, *section: str) -> str:
    """A path as written under `section`, made absolute by the folder of the file that writes it."""
    folder = manifest.folders[manifest.root.find(*section).file]
    return os.path.normpath(os.path.join(folder, path))  # noqa: PTH118
