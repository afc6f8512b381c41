"""Random layers against a model that applies them one after the other to a tree, as the image-spec tells and as containerd
does; and random bytes against nothing but StepError."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import StepError
from tests.kernel.layer_lab import (
    Entry,
    Shelf,
    file,
    folder,
    hard_link,
    opaque,
    packed,
    symlink,
    whiteout,
)

pytestmark = pytest.mark.root


# the model


class Refused(Exception):
    """No layer may say that."""


@dataclass
class Node:
    """`what`: dir, file or link. `layer`: of the last layer that had an entry for it, or made it for another's sake."""

    what: str
    layer: int
    text: str = ""
    mode: int = 0
    inner: dict[str, Node] = field(default_factory=dict)


class Model:
    def __init__(self) -> None:
        self.top = Node("dir", 0)
        self.layer = 0

    def apply(self, kind: str, path: str, *more: Any) -> None:
        names = path.split("/")
        if kind == "link":
            target = self._at(self._way(more[0].split("/")[:-1], make=False)).inner.get(
                more[0].split("/")[-1]
            )
            if target is None or target.what == "dir":
                raise Refused
            self._way(more[0].split("/")[:-1], make=True)
        if kind == "opaque":
            names.append("")
        parent = self._at(self._way(names[:-1], make=True))
        old = parent.inner.get(names[-1])
        match kind:
            case "whiteout":
                if old is not None and not self._prune(old):
                    del parent.inner[names[-1]]
            case "opaque":
                parent.layer = self.layer
                for name in [each for each, node in parent.inner.items() if not self._prune(node)]:
                    del parent.inner[name]
            case "folder" if old is not None and old.what == "dir":
                old.layer, old.mode = self.layer, more[0]
            case "folder":
                parent.inner[names[-1]] = Node("dir", self.layer, mode=more[0])
            case "link":
                if old is not None and _holds(old, target):
                    raise Refused  # what is to be linked goes to make room for the link
                parent.inner[names[-1]] = Node(target.what, self.layer, target.text)
            case _:
                parent.inner[names[-1]] = Node(kind, self.layer, str(more[0]))

    def _prune(self, node: Node) -> bool:
        """Take what lower layers had out of it; whether it stays itself."""
        if node.layer != self.layer:
            return False
        node.inner = {name: each for name, each in node.inner.items() if self._prune(each)}
        return True

    def _at(self, way: list[str]) -> Node:
        node = self.top
        for name in way:
            node = node.inner[name]
        return node

    def _way(self, names: list[str], *, make: bool) -> list[str]:
        way: list[str] = []
        left, links = names[::-1], 0
        while left:
            name = left.pop()
            if name == "..":
                way = way[:-1]
            if name in ("", ".", ".."):
                continue
            parent = self._at(way)
            node = parent.inner.get(name)
            if node is None:
                if not make:
                    raise Refused
                node = parent.inner[name] = Node("dir", self.layer, mode=0o755)
            if node.what == "file":
                raise Refused
            if node.what == "symlink":
                links += 1
                if links > 40:
                    raise Refused
                way = [] if node.text.startswith("/") else way
                left += node.text.split("/")[::-1]
                continue
            if make:
                node.layer = self.layer
            way.append(name)
        return way

    def seen(self, node: Node | None = None, path: str = "") -> dict[str, str]:
        found = {}
        for name, each in (node or self.top).inner.items():
            inner = f"{path}{name}"
            match each.what:
                case "dir":
                    found[inner] = f"dir {each.mode:o}"
                    found |= self.seen(each, f"{inner}/")
                case what:
                    found[inner] = f"{what} {each.text}"
        return found


def _holds(node: Node, other: Node) -> bool:
    return node is other or any(_holds(each, other) for each in node.inner.values())


def looked_at(top: Path) -> dict[str, str]:
    found = {}
    for path in top.rglob("*"):
        about, name = path.lstat(), os.fspath(path.relative_to(top))
        if stat.S_ISDIR(about.st_mode):
            found[name] = f"dir {stat.S_IMODE(about.st_mode):o}"
        elif stat.S_ISLNK(about.st_mode):
            found[name] = f"symlink {os.readlink(path)}"
        else:
            assert stat.S_ISREG(about.st_mode)
            found[name] = f"file {path.read_text()}"
    return found


NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.one_of(PATHS, PATHS.map("/{}".format), PATHS.map("../{}".format), st.just(".."))
OPERATIONS = st.one_of(
    st.tuples(st.just("folder"), PATHS, st.sampled_from([0o755, 0o700])),
    st.tuples(st.just("folder"), PATHS, st.sampled_from([0o755, 0o1777])),
    st.tuples(st.just("file"), PATHS, st.integers(0, 99)),
    st.tuples(st.just("symlink"), PATHS, TARGETS),
    st.tuples(st.just("whiteout"), PATHS),
    st.tuples(st.just("opaque"), st.one_of(PATHS, st.just(""))),
)
# Links come last: a target that was copied up counts as the layer's own to a whiteout that comes later.
LINKS = st.lists(st.tuples(st.just("link"), PATHS, PATHS), max_size=1)
LAYERS = st.lists(
    st.tuples(st.lists(OPERATIONS, min_size=1, max_size=5), LINKS).map(lambda both: both[0] + both[1]),
    max_size=3,
)
ENTRIES: dict[str, Callable[..., Entry]] = {
    "folder": lambda path, mode: folder(path, mode=mode),
    "file": lambda path, number: file(path, str(number).encode()),
    "symlink": symlink,
    "whiteout": whiteout,
    "opaque": opaque,
    "link": hard_link,
}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=LAYERS)
def test_a_container_sees_what_the_layers_make_of_a_tree(
    tmp_path: Path, layers: list[list[tuple[Any, ...]]]
) -> None:
    shutil.rmtree(tmp_path / "instance", ignore_errors=True)
    shelf, model = Shelf(tmp_path), Model()
    names: tuple[str, ...] = ()
    for operations in layers:
        tar = packed(*(ENTRIES[kind](*more) for kind, *more in operations))
        model.layer += 1
        try:
            for operation in operations:
                model.apply(*operation)
        except Refused:
            with pytest.raises(StepError):
                shelf.unpack(tar, names)
            return
        names = (shelf.unpack(tar, names), *names)
        assert shelf.store.damage(names[0]) == ()
        with shelf.merged(names) as top:
            assert looked_at(top) == model.seen()


RAW = packed(
    folder("a"),
    file("a/b", b"x" * 700),
    symlink("l", "a"),
    hard_link("h", "a/b"),
    whiteout("a/c"),
    opaque("l"),
    ("long/" * 40, {"pax_headers": {"SCHILY.xattr.user.k": "v", "mtime": "1.5"}}, b"y"),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noise=st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.binary(min_size=1, max_size=40)), max_size=4),
    kind=st.lists(
        st.tuples(st.integers(0, len(RAW) // 512 - 1), st.sampled_from(b"0123456xgLKS\0")), max_size=2
    ),
    mended=st.booleans(),
)
def test_random_bytes_are_a_layer_or_an_error(
    tmp_path: Path, noise: list[tuple[int, bytes]], kind: list[tuple[int, int]], mended: bool
) -> None:
    raw = bytearray(RAW)
    for at, found in noise:
        raw[at : at + len(found)] = found
    for block, type in kind:
        raw[block * 512 + 156] = type
    if mended:  # or few headers would be looked at
        for at in range(0, len(raw) - 511, 512):
            if raw[at + 257 : at + 262] == b"ustar":
                raw[at + 148 : at + 156] = b" " * 8
                raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    shutil.rmtree(tmp_path / "instance", ignore_errors=True)
    shelf = Shelf(tmp_path)
    before = sorted(os.listdir("/proc/self/fd"))
    with contextlib.suppress(StepError):
        shelf.unpack(bytes(raw), blob=bytes(raw))
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert shelf.left() == []
    for each in tmp_path.glob("*"):
        assert each.name == "instance" or each.stat().st_size == len(raw)
        if each.name != "instance":
            each.unlink()
