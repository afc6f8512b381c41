"""Layers in the store, seen through the kernel's overlayfs as a container sees them."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from orchestrator.drivers.rootfs import listing
from orchestrator.drivers.rootfs.oci.layers import unpack_layer
from orchestrator.drivers.rootfs.store import chain_name, layer_name
from orchestrator.errors import StepError
from tests.kernel.layer_lab import (
    Entry,
    Shelf,
    file,
    folder,
    hard_link,
    opaque,
    packed,
    sha256,
    symlink,
    umoci_layout,
    whiteout,
)

pytestmark = pytest.mark.root
BASE = [
    folder("d"),
    file("d/a", b"low"),
    file("d/b", b"low"),
    folder("d/sub"),
    file("d/sub/x", b"low"),
    folder("usr"),
    folder("usr/lib"),
    symlink("lib", "usr/lib"),
    file("top", b"low"),
]
REST = {"usr": "dir", "usr/lib": "dir", "lib": "-> usr/lib"}
D = {"d": "dir", "d/a": "file low", "d/b": "file low", "d/sub": "dir", "d/sub/x": "file low"}
TOP = {"top": "file low"}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


# What a second layer over BASE makes of it: its entries, what is seen, whether the layers below had a say.
CASES: dict[str, tuple[list[Entry], dict[str, str], bool]] = {
    "nothing": ([], {**REST, **D, **TOP}, False),
    "whiteout of a file": (
        [folder("d"), whiteout("d/a")],
        {**REST, **TOP, "d": "dir", "d/b": "file low", "d/sub": "dir", "d/sub/x": "file low"},
        False,
    ),
    "whiteout of a folder": ([whiteout("d")], {**REST, **TOP}, False),
    "whiteout of what is not there": ([whiteout("none")], {**REST, **D, **TOP}, True),
    "whiteout of nothing in a new folder": (
        [folder("n"), whiteout("n/o")],
        {**REST, **D, **TOP, "n": "dir"},
        True,
    ),
    "whiteout before a folder of its name": (
        [whiteout("d"), folder("d"), file("d/n", b"new")],
        {**REST, **TOP, "d": "dir", "d/n": "file new"},
        False,
    ),
    "whiteout after a folder of its name": (
        [folder("d"), file("d/n", b"new"), whiteout("d")],
        {**REST, **TOP, "d": "dir", "d/n": "file new"},
        False,
    ),
    "whiteout before a file of its name": (
        [whiteout("top"), file("top", b"new")],
        {**REST, **D, "top": "file new"},
        False,
    ),
    "whiteout after a file of its name": (
        [file("top", b"new"), whiteout("top")],
        {**REST, **D, "top": "file new"},
        False,
    ),
    "whiteout, then a folder that is only implied": (
        [whiteout("d"), file("d/n/m", b"new")],
        {**REST, **TOP, "d": "dir", "d/n": "dir", "d/n/m": "file new"},
        False,
    ),
    "opaque before its siblings": (
        [folder("d"), opaque("d"), file("d/n", b"new")],
        {**REST, **TOP, "d": "dir", "d/n": "file new"},
        False,
    ),
    "opaque after its siblings": (
        [folder("d"), folder("d/sub"), file("d/sub/y", b"new"), opaque("d")],
        {**REST, **TOP, "d": "dir", "d/sub": "dir", "d/sub/y": "file new"},
        False,
    ),
    "opaque and whiteouts in it": (
        [folder("d"), whiteout("d/a"), opaque("d"), whiteout("d/b")],
        {**REST, **TOP, "d": "dir"},
        False,
    ),
    "opaque folder that is only implied": ([opaque("d")], {**REST, **TOP, "d": "dir"}, True),
    "opaque top": ([folder("d"), file("d/n", b"new"), opaque("")], {"d": "dir", "d/n": "file new"}, True),
    "metadata of aufs": (
        [folder(".wh..wh.plnk"), file(".wh..wh.plnk/1", b""), file(".wh..wh.aufs", b"")],
        {**REST, **D, **TOP},
        False,
    ),
    "file over folder": ([file("d", b"new")], {**REST, **TOP, "d": "file new"}, False),
    "folder over file": ([folder("top")], {**REST, **D, "top": "dir"}, False),
    "folder over symlink": (
        [folder("lib"), file("lib/n", b"new")],
        {**D, **TOP, "usr": "dir", "usr/lib": "dir", "lib": "dir", "lib/n": "file new"},
        False,
    ),
    "file, then folder of the same name, in one layer": (
        [file("d", b"new"), folder("d")],
        {**REST, **TOP, "d": "dir"},
        False,
    ),
    "folder with content, then file of the same name": (
        [folder("d"), folder("d/n"), file("d/n/m"), file("d", b"new")],
        {**REST, **TOP, "d": "file new"},
        False,
    ),
    "symlink, then folder of the same name": (
        [symlink("s", "d"), folder("s"), file("s/n", b"new")],
        {**REST, **D, **TOP, "s": "dir", "s/n": "file new"},
        False,
    ),
    "member below a symlink of the layer": (
        [folder("new"), symlink("l", "/new"), file("l/n", b"new")],
        {**REST, **D, **TOP, "new": "dir", "new/n": "file new", "l": "-> /new"},
        False,
    ),
    "member below a symlink of a layer below": (
        [file("lib/n", b"new")],
        {**REST, **D, **TOP, "usr/lib/n": "file new"},
        True,
    ),
    "member below a symlink of a layer below, then a folder in its place": (
        [folder("lib/n"), folder("lib"), file("lib/m", b"new")],
        {**D, **TOP, "usr": "dir", "usr/lib": "dir", "usr/lib/n": "dir", "lib": "dir", "lib/m": "file new"},
        True,
    ),
    "folder in the place of the symlink that it was named by": (
        [symlink("a", "."), folder("a/a"), folder("a/a")],
        {**REST, **D, **TOP, "a": "dir", "a/a": "dir"},
        False,
    ),
    "member below a symlink of the layer that leads below": (
        [symlink("l", "d/../d/sub"), file("l/n", b"new")],
        {**REST, **D, **TOP, "l": "-> d/../d/sub", "d/sub/n": "file new"},
        True,
    ),
    "member below a symlink that leads nowhere": (
        [symlink("l", "/far/away"), file("l/n", b"new")],
        {**REST, **D, **TOP, "l": "-> /far/away", "far": "dir", "far/away": "dir", "far/away/n": "file new"},
        True,
    ),
    "implied folders": ([file("d/sub/n", b"new")], {**REST, **D, **TOP, "d/sub/n": "file new"}, True),
    "whiteout in implied folders": (
        [whiteout("d/sub/x")],
        {k: v for k, v in {**REST, **D, **TOP}.items() if k != "d/sub/x"},
        True,
    ),
    "hard link": (
        [file("o", b"new"), hard_link("h", "o"), file("o", b"newer")],
        {**REST, **D, **TOP, "h": "file new", "o": "file newer"},
        False,
    ),
    "hard link to a layer below": ([hard_link("h", "top")], {**REST, **D, **TOP, "h": "file low"}, True),
    "hard link below a symlink of a layer below": (
        [file("usr/lib/n", b"new"), hard_link("h", "lib/n")],
        {**REST, **D, **TOP, "usr/lib/n": "file new", "h": "file new"},
        True,
    ),
    "hard link to a symlink below": (
        [hard_link("h", "lib")],
        {**REST, **D, **TOP, "h": "-> usr/lib"},
        True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_over_another_shows_what_the_image_says(shelf: Shelf, name: str) -> None:
    entries, seen, consulted = CASES[name]
    assert shelf.seen(BASE, entries) == seen
    tar = packed(*entries)
    below = (layer_name(sha256(packed(*BASE))),)
    expected = chain_name(sha256(tar), below) if consulted else layer_name(sha256(tar))
    assert expected in shelf.store.contents()
    assert shelf.left() == []
    for content in shelf.store.contents():
        assert shelf.store.damage(content) == ()


REFUSED: dict[str, tuple[list[Entry], str]] = {
    "hard link to a whiteout": ([whiteout("top"), hard_link("h", "top")], "not there"),
    "hard link to what a whiteout hides": (
        [folder("d"), whiteout("d/sub"), hard_link("h", "d/sub/x")],
        "not there",
    ),
    "hard link to what an opaque folder hides": (
        [folder("d"), opaque("d"), hard_link("h", "d/a")],
        "not there",
    ),
    "hard link to nothing": ([hard_link("h", "none")], "not there"),
    "hard link to a folder": ([folder("f"), hard_link("h", "f")], "hard link to a folder"),
    "hard link to a folder below": ([hard_link("h", "d")], "hard link to a folder"),
    "hard link to itself": ([file("h"), hard_link("h", "h")], "not there"),
    "below a file of the layer": ([file("f"), file("f/n")], "lies below"),
    "below a file below": ([file("top/n")], "in a layer below"),
    "below a whiteout": ([file(".wh.d/n")], "below a whiteout"),
    "whiteout of no name": ([file(".wh.")], "of no name"),
    "whiteout of the folder": ([folder("d"), file("d/.wh..")], "of no name"),
    "whiteout of the parent": ([folder("d"), file("d/.wh...")], "of no name"),
    "loop of symlinks": ([symlink("p", "q"), symlink("q", "p"), file("p/n")], "loop"),
    "loop through a layer below": ([symlink("usr", "lib"), file("lib/n")], "loop"),
    "leads out": ([file("../n")], "leads out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_layer_should_say_is_refused_and_nothing_is_kept(shelf: Shelf, name: str) -> None:
    entries, words = REFUSED[name]
    below = shelf.stack(BASE)
    with pytest.raises(StepError, match=words):
        shelf.unpack(packed(*entries), below)
    assert shelf.store.contents() == below
    assert shelf.left() == []


def test_implied_folders_are_as_below(shelf: Shelf) -> None:
    below = [folder("srv", mode=0o2750, uid=33, gid=34), folder("srv/w", mode=0o1777, uid=1)]
    names = shelf.stack(below, [file("srv/w/n")])
    for path, wanted in (("srv", (0o2750, 33, 34)), ("srv/w", (0o1777, 1, 0))):
        about = os.stat(shelf.store.folder(names[0]) / path)
        assert (about.st_mode & 0o7777, about.st_uid, about.st_gid) == wanted
        assert about.st_mtime == 1_000_000_000


def test_a_layer_that_asks_below_is_another_over_other_parents(shelf: Shelf) -> None:
    layer = [file("lib/n", b"new")]
    one = shelf.stack(BASE, layer)
    two = shelf.stack([folder("lib")], layer)
    three = shelf.stack(layer)
    assert len({one[0], two[0], three[0]}) == 3
    assert (shelf.store.folder(two[0]) / "lib/n").exists()
    assert shelf.stack(BASE, layer) == one


def test_a_layer_that_does_not_ask_is_made_once(shelf: Shelf) -> None:
    layer = [folder("lib"), file("lib/n", b"new")]
    one, two = shelf.stack(BASE, layer), shelf.stack([folder("other")], layer)
    assert one[0] == two[0]
    before = shelf.store.about(one[0])
    assert shelf.unpack(packed(*layer), blob=b"", diff_id=sha256(packed(*layer))) == one[0], "not even opened"
    assert shelf.store.about(one[0]) == before
    assert before["diff_id"] == sha256(packed(*layer))


def test_a_content_of_the_same_short_name_is_not_taken_for_the_layer(shelf: Shelf) -> None:
    name = shelf.unpack(packed(file("a")))
    other = f"sha256:{name.removeprefix('l-')}{'0' * 40}"
    with pytest.raises(StepError, match="is of layer"):
        shelf.unpack(packed(file("b")), diff_id=other)


def test_modes_owners_times_and_links_are_kept(shelf: Shelf) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    entries = [
        folder("d", mode=0o1777, uid=5, gid=6, mtime=1_100_000_000),
        (
            "d/su",
            {
                "mode": 0o6755,
                "uid": 1000,
                "gid": 70000,
                "pax_headers": {
                    "mtime": "1200000000.123456789",
                    "SCHILY.xattr.user.note": "kept",
                    "SCHILY.xattr.user.overlay.opaque": "y",
                    "SCHILY.xattr.trusted.overlay.opaque": "y",
                    "SCHILY.xattr.security.selinux": "x",
                    "SCHILY.xattr.security.capability": capability.decode("latin-1"),
                },
            },
            b"abc",
        ),
        symlink("d/abs", "/d/su", mtime=1_300_000_000, uid=7),
        hard_link("d/hard", "d/su"),
        ("d/fifo", {"type": tarfile.FIFOTYPE, "mode": 0o640, "mtime": 1_400_000_000}, b""),
        folder("d/marked", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"}),
    ]
    top = shelf.store.folder(shelf.unpack(packed(*entries)))
    su = os.stat(top / "d/su")
    assert (su.st_mode & 0o7777, su.st_uid, su.st_gid, su.st_nlink) == (0o6755, 1000, 70000, 2)
    assert su.st_mtime_ns == 1_200_000_000_123_456_789
    assert {each: os.getxattr(top / "d/su", each) for each in os.listxattr(top / "d/su")} == {
        "user.note": b"kept",
        "security.capability": capability,
    }
    d, link = os.stat(top / "d"), os.lstat(top / "d/abs")
    assert (d.st_mode & 0o7777, d.st_uid, d.st_gid, d.st_mtime) == (0o1777, 5, 6, 1_100_000_000)
    assert (os.readlink(top / "d/abs"), link.st_mtime, link.st_uid) == ("/d/su", 1_300_000_000, 7)
    assert os.stat(top / "d/fifo").st_mtime == 1_400_000_000
    assert stat.S_ISFIFO(os.stat(top / "d/fifo").st_mode)
    assert os.listxattr(top / "d/marked") == []


def test_an_archive_cannot_bring_a_whiteout_itself(shelf: Shelf) -> None:
    forged = [("top", {"type": tarfile.CHRTYPE, "devmajor": 0, "devminor": 0}, b"")]
    assert shelf.seen(BASE, forged) == {**REST, **D, **TOP}
    assert shelf.store.about(layer_name(sha256(packed(*forged))))["devices"] == 1


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        zstandard.compress,
        lambda raw: gzip.compress(raw[:700]) + gzip.compress(raw[700:]),
    ],
)
def test_a_blob_is_what_its_first_bytes_say(shelf: Shelf, pack) -> None:  # type: ignore[no-untyped-def]
    tar = packed(file("a", b"hello" * 1000))
    name = shelf.unpack(tar, blob=pack(tar))
    assert (shelf.store.folder(name) / "a").read_bytes() == b"hello" * 1000


def test_digests_are_verified_on_the_way(shelf: Shelf) -> None:
    tar = packed(file("a"))
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(StepError, match=f"uncompressed content is {sha256(tar)}, not {wrong}"):
        shelf.unpack(tar, diff_id=wrong)
    with pytest.raises(StepError, match=r"its blob is sha256:\w+, not "):
        unpack_layer(shelf.store, shelf.blob(tar), "tar", wrong, sha256(tar), ())
    assert shelf.store.contents() == ()
    assert shelf.left() == []


def test_a_blob_that_came_half_is_told_by_its_digest_and_a_damaged_one_by_its_damage(shelf: Shelf) -> None:
    tar = packed(file("a", os.urandom(100_000)))
    whole = gzip.compress(tar)
    half = shelf.blob(whole[:50_000])
    with pytest.raises(StepError, match=rf"its blob is {sha256(whole[:50_000])}, not {sha256(whole)}"):
        unpack_layer(shelf.store, half, "tar", sha256(whole), sha256(tar), ())
    with pytest.raises(StepError, match="it is damaged: it ends in the middle"):
        unpack_layer(shelf.store, half, "tar", sha256(whole[:50_000]), sha256(tar), ())
    assert shelf.left() == []


def test_damage_of_a_layer_is_found(shelf: Shelf) -> None:
    layer = [folder("d"), opaque("d"), file("d/n", b"new"), whiteout("top")]
    name = shelf.stack(BASE, layer)[0]
    top = shelf.store.folder(name)
    os.removexattr(top / "d", "trusted.overlay.opaque")
    (top / "top").unlink()
    (top / "d/n").write_bytes(b"neu")
    os.utime(top / "d/n", (1_000_000_000, 1_000_000_000))
    assert shelf.store.damage(name) == (".: changed", "d/n: changed", "d: changed", "top: missing")


def test_an_image_is_what_umoci_makes_of_it(shelf: Shelf, tmp_path: Path) -> None:
    layers = [
        [
            *BASE,
            file("d/su", b"#!", mode=0o4755, uid=3, gid=4, mtime=1_500_000_000),
            hard_link("d/su2", "d/su"),
            folder("tmp", mode=0o1777),
            folder("gone"),
            file("gone/x"),
            folder("anew"),
            folder("anew/old"),
            file("etc", b"a file"),
            ("pipe", {"type": tarfile.FIFOTYPE, "mode": 0o622}, b""),
            file("n" * 120 + "/" + "ö" * 60, pax_headers={"SCHILY.xattr.user.k": "v"}),
        ],
        [
            folder("d", mode=0o711, uid=9),
            whiteout("d/a"),
            file("d/b", b"high"),
            hard_link("d/b2", "d/b"),
            whiteout("gone"),
            folder("anew"),
            opaque("anew"),
            file("anew/young"),
            whiteout("etc"),
            folder("etc", mode=0o750),
            file("etc/conf"),
            symlink("tmp", "/etc"),
            file("lib/implied", mode=0o600),
        ],
        [folder("d"), folder("d/sub"), whiteout("d/sub/x"), whiteout("tmp"), file("gone", b"a file now")],
    ]
    image = umoci_layout(tmp_path / "image", [packed(*each) for each in layers])
    subprocess.run(["umoci", "unpack", "--image", f"{image}:t", tmp_path / "bundle"], check=True)
    theirs = listing.listing(tmp_path / "bundle/rootfs")
    with shelf.merged(shelf.stack(*layers)) as top:
        ours = listing.listing(top)
    # They tell the top by the first layer's; ours is the folder that a container lies over.
    implied = {"usr/lib", ".", "n" * 120}  # we make them as old as they were, or of 1970; they as old as now
    found = {json.loads(each)[0]: json.loads(each) for each in theirs.lines}
    for line in map(json.loads, ours.lines):
        their = found.pop(line[0])
        if line[0] in implied:
            line[5] = their[5]
        assert line == their
    assert not found
