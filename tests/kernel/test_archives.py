"""Unpacking hostile archives: nothing outside the folder is made, changed or linked; what is asked for is there."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from orchestrator.drivers.rootfs.oci.layers import unpack_layer
from orchestrator.drivers.rootfs.store import ContentStore
from orchestrator.drivers.rootfs.streams import Stream
from orchestrator.drivers.rootfs.tarball import Tarball
from orchestrator.drivers.rootfs.unpack import Bounds, TarError, Unpacked, unpack
from orchestrator.errors import StepError
from orchestrator.ports.layout import Layout

pytestmark = pytest.mark.root
Entry = tuple[str, dict[str, object], bytes]


def file(name: str, content: bytes = b"x", **more: object) -> Entry:
    return name, more, content


def link(name: str, target: str, *, hard: bool = False) -> Entry:
    return name, {"type": tarfile.LNKTYPE if hard else tarfile.SYMTYPE, "linkname": target}, b""


def folder(name: str, **more: object) -> Entry:
    return name, {"type": tarfile.DIRTYPE, "mode": 0o755, **more}, b""


def packed(*entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, attributes, content in entries:
            info = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zstd(raw: bytes) -> bytes:
    """With a sum of its own, as the others have it."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(raw)


class Nest:
    """A folder to unpack into, beside a canary that nothing may touch."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.inside = base / "deep" / "root"
        self.inside.mkdir(parents=True)
        self.canary = base / "canary"
        self.canary.write_text("alive")
        self.archive = base / "a.tar"

    def unpack(self, raw: bytes, bounds: Bounds | None = None) -> Unpacked:
        self.archive.write_bytes(raw)
        with open(self.archive, "rb") as opened:
            return unpack(opened, os.fspath(self.inside), hashlib.sha256(raw).hexdigest(), bounds)

    def unpack_layer(self, raw: bytes) -> None:
        """Over a layer of symlinks that lead out."""
        store = ContentStore(Layout.at(self.inside))
        names: tuple[str, ...] = ()
        for each in (packed(link("low", "../../../../../.."), link("etc", "/etc")), raw):
            self.archive.write_bytes(each)
            digest = f"sha256:{hashlib.sha256(each).hexdigest()}"
            names = (unpack_layer(store, self.archive, "tar", digest, digest, names), *names)

    def outside(self) -> set[str]:
        return {
            os.fspath(each.relative_to(self.base))
            for each in self.base.rglob("*")
            if not each.is_relative_to(self.inside) and each != self.archive
        }


@pytest.fixture
def nest(tmp_path: Path) -> Nest:
    return Nest(tmp_path)


ATTACKS: dict[str, list[Entry]] = {
    "dots": [file("../../canary", b"dead")],
    "dots inside": [folder("a"), file("a/../../../canary", b"dead")],
    "absolute": [file("/canary", b"dead")],
    "symlink then file": [link("l", "../.."), file("l/canary", b"dead")],
    "absolute symlink then file": [link("l", "/"), file("l/canary", b"dead")],
    "symlink chain": [
        folder("a"),
        link("a/b", "."),
        link("a/b/c", "../.."),
        link("x", "a/b/c"),
        file("x/../../canary", b"dead"),
    ],
    "long symlink chain": [
        *(link(f"l{n}", f"l{n + 1}/..") for n in range(10)),
        link("l10", "/"),
        file("l0/canary", b"dead"),
    ],
    "file over symlink": [link("l", "../../canary"), file("l", b"dead")],
    "folder over symlink": [link("l", "../.."), folder("l", mode=0o777), file("l/canary", b"dead")],
    "hard link outside": [link("h", "../../canary", hard=True), file("h", b"dead")],
    "absolute hard link": [link("h", "/etc/shadow", hard=True)],
    "hard link to a symlink": [link("l", "../../canary"), link("h", "l", hard=True), file("h", b"dead")],
    "hard link below a symlink": [link("l", "../.."), link("h", "l/canary", hard=True), file("h", b"dead")],
    "fifo below a symlink": [link("l", "/.."), ("l/f", {"type": tarfile.FIFOTYPE}, b"")],
    "symlink loop": [link("a", "b"), link("b", "a"), file("a/x")],
    "symlink to proc": [link("p", "/proc/self/root"), file("p/canary", b"dead")],
    "hard link through a chain of symlinks": [
        *(link(f"l{n}", f"l{n + 1}/..") for n in range(5)),
        link("l5", "/etc"),
        link("h", "l0/../canary", hard=True),
        file("h", b"dead"),
    ],
    "symlink swapped for a folder": [folder("d"), file("d/x"), link("d", "../.."), file("d/canary", b"dead")],
    "folder swapped for a symlink after it was open": [
        folder("d"),
        file("d/x"),
        folder("e"),
        link("e/up", "../../.."),
        link("d", "e/up"),
        folder("d/canary"),
    ],
    "symlink to a descriptor": [link("p", "/proc/self/fd"), folder("p/3"), file("p/3/canary", b"dead")],
    "symlink to a symlink beside the root": [link("a", "../root/../../canary"), file("a", b"dead")],
    "symlink of an empty name": [link("s", ""), file("s/canary", b"dead")],
    "hard link with dots": [link("h", "a/../../../canary", hard=True)],
    "hard link to a folder": [folder("d"), link("h", "d", hard=True), file("h/../../canary", b"dead")],
    "hard link to what it replaces": [file("h"), link("h", "h", hard=True)],
    "hard link to the root": [link("h", "./", hard=True)],
    "device of the disk": [("disk", {"type": tarfile.BLKTYPE, "devmajor": 8}, b""), file("disk", b"dead")],
    "device over a symlink": [link("l", "../../canary"), ("l", {"type": tarfile.CHRTYPE}, b"")],
    "setuid of a file outside": [link("l", "../../canary"), file("l", b"dead", mode=0o6777, uid=1000)],
    "owner of a folder outside": [link("l", "../.."), folder("l", mode=0o6777, uid=1000)],
    "very long name": [file("n" * 5000, b"x"), file("/".join(["n" * 200] * 40), b"x")],
    "name of dots and slashes": [file("./././..//canary", b"dead"), file("a//./b/.")],
    "attribute with a zero byte": [file("a", pax_headers={"SCHILY.xattr.user.a\0b": "1"})],
    "attribute too large": [file("a", pax_headers={"SCHILY.xattr.user.a": "x" * 70_000})],
    "attributes of the host": [
        file("a", pax_headers={"SCHILY.xattr.security.ima": "x", "SCHILY.xattr.system.posix_acl_access": "x"})
    ],
    "capability of one byte": [file("a", pax_headers={"SCHILY.xattr.security.capability": "x"})],
    "whiteout outside": [link("l", "../.."), file("l/.wh.canary")],
    "opaque outside": [link("l", "../.."), file("l/.wh..wh..opq")],
    "whiteout of dots": [file(".wh..."), file("d/.wh..")],
    "root replaced": [link(".", "/etc"), file("./canary", b"dead")],
    "mode of the root": [folder("./", mode=0)],
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("how", ["archive", "layer"])
def test_nothing_outside_is_made_or_changed(nest: Nest, name: str, how: str) -> None:
    raw = packed(*ATTACKS[name])
    with contextlib.suppress(TarError, StepError):
        nest.unpack(raw) if how == "archive" else nest.unpack_layer(raw)
    assert nest.canary.read_text() == "alive"
    assert nest.canary.stat().st_nlink == 1
    assert nest.outside() == {"canary", "deep"}
    assert not (Path("/canary")).exists()
    for each in nest.inside.rglob("*"):
        if each.is_file() and not each.is_symlink():
            assert each.stat().st_nlink <= 2


def test_a_tree_deeper_than_paths_may_be_is_no_layer(nest: Nest) -> None:
    down = "/".join(["d" * 100] * 20)
    steps = [(folder(f"l{n}/{down}"), link(f"l{n + 1}", f"l{n}/{down}")) for n in range(30)]
    with pytest.raises(StepError, match="name too long"):
        nest.unpack_layer(packed(*(each for step in steps for each in step)))
    assert len(ContentStore(Layout.at(nest.inside)).contents()) == 1, "the layer below alone"


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_layer_that_is_a_bomb_stops_early(nest: Nest, pack: Callable[[bytes], bytes]) -> None:
    """Of the size of a GiB and its ratio at most; nothing of it is ever in memory, or left."""
    raw = pack(bytes(1 << 20) * 64)
    assert len(raw) < 1 << 17
    nest.archive.write_bytes(raw)
    with open(nest.archive, "rb") as opened, pytest.raises(TarError, match="more than 1000000 bytes"):
        stream = Stream(opened, 1_000_000)
        try:
            stream.drain()
        finally:
            stream.close()


def test_headers_without_members_fill_no_memory() -> None:
    header = tarfile.TarInfo("a").create_pax_global_header({f"k{n}": "v" * 900 for n in range(900)})
    raw = header * 3
    with pytest.raises(TarError, match="headers of"):
        list(Tarball(io.BytesIO(raw)))


def test_folders_implied_to_the_greatest_depth_are_made(nest: Nest) -> None:
    nest.unpack(packed(file("/".join(["d"] * 255 + ["f"]))))
    assert len(list(nest.inside.rglob("*"))) == 256


def test_dots_are_an_error_that_names_the_member(nest: Nest) -> None:
    with pytest.raises(TarError, match=r"'\.\./\.\./canary' leads out"):
        nest.unpack(packed(file("../../canary")))


def test_owners_modes_links_and_times_are_kept(nest: Nest) -> None:
    nest.unpack(
        packed(
            folder("d", mode=0o2750, uid=7, gid=8),
            file("d/su", b"abc", mode=0o4755, uid=1000, gid=1001, mtime=1_000_000_000),
            link("abs", "/d/su"),
            link("d/hard", "d/su", hard=True),
            ("pipe", {"type": tarfile.FIFOTYPE, "mode": 0o640}, b""),
        )
    )
    made = os.stat(nest.inside / "d/su")
    assert (made.st_mode & 0o7777, made.st_uid, made.st_gid, int(made.st_mtime)) == (
        0o4755,
        1000,
        1001,
        1_000_000_000,
    )
    assert made.st_ino == os.stat(nest.inside / "d/hard").st_ino
    assert os.stat(nest.inside / "d").st_mode & 0o7777 == 0o2750
    assert os.readlink(nest.inside / "abs") == "/d/su"
    assert stat.S_ISFIFO(os.stat(nest.inside / "pipe").st_mode)
    assert os.stat(nest.inside).st_mode & 0o7777 == 0o755


def test_member_below_a_symlink_lands_where_the_container_sees_it(nest: Nest) -> None:
    nest.unpack(
        packed(folder("usr/lib"), link("lib", "usr/lib"), file("lib/x", b"1"), folder("lib"), file("lib/y"))
    )
    assert (nest.inside / "usr/lib/x").read_bytes() == b"1"
    assert os.readlink(nest.inside / "lib") == "usr/lib"
    assert (nest.inside / "usr/lib/y").exists()


def test_devices_are_passed_over_and_counted(nest: Nest) -> None:
    done = nest.unpack(
        packed(("sda", {"type": tarfile.BLKTYPE, "devmajor": 8}, b""), ("n", {"type": tarfile.CHRTYPE}, b""))
    )
    assert done.devices == 2
    assert not list(nest.inside.iterdir())


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
def test_compressions_are_known_by_their_first_bytes(nest: Nest, pack: Callable[[bytes], bytes]) -> None:
    nest.unpack(pack(packed(file("a", b"hello" * 1000))))
    assert (nest.inside / "a").read_bytes() == b"hello" * 1000


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_archives_are_refused(nest: Nest, pack: Callable[[bytes], bytes], damage: str) -> None:
    raw = bytearray(pack(packed(file("a", os.urandom(5000)))))
    if damage == "cut":
        del raw[len(raw) // 2 :]
    else:
        raw[len(raw) // 2] ^= 0xFF
    with pytest.raises(TarError, match=r"damaged|ends|changed|number|written"):
        nest.unpack(bytes(raw))


def test_zstd_that_is_none_is_refused(nest: Nest) -> None:
    with pytest.raises(TarError, match="damaged"):
        nest.unpack(b"\x28\xb5\x2f\xfd" + b"\0" * 600)


def test_bombs_stop_at_the_bounds(nest: Nest) -> None:
    with pytest.raises(TarError, match="more than 1000 bytes"):
        nest.unpack(packed(file("a", b"\0" * 5000)), Bounds(bytes=1000))
    with pytest.raises(TarError, match="more than 3 entries"):
        nest.unpack(packed(*(file(f"f{n}") for n in range(9))), Bounds(entries=3))
    with pytest.raises(TarError, match="deeper"):
        nest.unpack(packed(folder("/".join(["d"] * 300))))


def test_an_archive_that_changes_while_it_is_read_is_refused(nest: Nest) -> None:
    nest.archive.write_bytes(packed(file("a")))
    with open(nest.archive, "rb") as opened, pytest.raises(TarError, match="written to"):
        unpack(opened, os.fspath(nest.inside), "0" * 64)


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ],
    ids=lambda options: options[-1].strip("-"),
)
@pytest.mark.parametrize("parts", [0, 1, 3, 60])
def test_sparse_files_of_tar_keep_their_holes(nest: Nest, options: list[str], parts: int) -> None:
    source = nest.base / "source"
    source.mkdir()
    with open(source / "holes", "wb") as made:
        for part in range(parts):
            made.seek(part * 300_000)
            made.write(b"%d" % part * 5000)
        made.truncate(parts * 300_000 + 1_000_001)
    (source / "next").write_bytes(b"after it")
    command = ["tar", "--sparse", *options, "-C", source, "-cf", nest.archive, "holes", "next"]
    subprocess.run(command, check=True)
    assert nest.archive.stat().st_size < parts * 20_000 + 50_000, "there are holes in it"
    raw = nest.archive.read_bytes()
    nest.unpack(raw)
    assert (nest.inside / "holes").read_bytes() == (source / "holes").read_bytes()
    assert (nest.inside / "next").read_bytes() == b"after it"
    assert (nest.inside / "holes").stat().st_blocks * 512 < parts * 30_000 + 4096
    shutil.rmtree(source)


def gnu_sparse(extents: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    header = bytearray(tarfile.TarInfo("s").tobuf(tarfile.GNU_FORMAT))
    header[124:136], header[156:157] = b"%011o\0" % len(data), b"S"
    for at, (offset, length) in enumerate(extents):
        header[386 + 24 * at : 410 + 24 * at] = b"%011o\0%011o\0" % (offset, length)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    "extents,size",
    [
        ([(0, 600)], 600),
        ([(0, 200)], 300),
        ([(100, 200), (0, 200)], 500),
        ([(0, 300), (200, 100)], 500),
        ([(400, 400)], 500),
        ([(0, 400)], 8**11 - 1),
    ],
)
def test_impossible_maps_of_sparse_members_are_refused(
    nest: Nest, extents: list[tuple[int, int]], size: int
) -> None:
    with pytest.raises(TarError, match=r"sparse|more than"):
        nest.unpack(gnu_sparse(extents, size, b"x" * 400), Bounds(bytes=1 << 30))
    assert not any(each.stat().st_size for each in nest.inside.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        {"major": "1", "minor": "0", "realsize": "9", "name": "s"},
        {"map": "0,1", "size": "9"},
        {"map": "0,1,2", "size": "9"},
        {"map": "0,x", "size": "9"},
        {"map": "0,8", "size": "-9"},
        {"map": "0,8"},
        {"major": "2", "realsize": "9" * 15},
    ],
)
def test_impossible_words_of_sparse_members_are_refused(nest: Nest, words: dict[str, str]) -> None:
    headers = {f"GNU.sparse.{key}": value for key, value in words.items()}
    for content in (b"12345678", b"100000\n" * 100, b"99999999999\n" * 100, b"2\n0\n1\n"):
        with pytest.raises(TarError):
            nest.unpack(packed(file("s", content, pax_headers=headers)))
