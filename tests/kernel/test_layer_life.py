"""Layers in a hard world: a hundred in one container, killed in the middle, on a full disk, under any umask."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import StepError
from orchestrator.model.desired import BindMount, ContainerSpec, ImageRoot
from tests.kernel.embedded_lab import Lab
from tests.kernel.layer_lab import Shelf, file, folder, packed, sha256, symlink, whiteout

pytestmark = pytest.mark.root
LAYERS = 127  # what Docker and containerd take at most


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "instance")
    yield made
    made.close()


def test_a_container_over_127_layers(lab: Lab, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, lab.layout)
    bottom = [folder("usr"), *(symlink(each, f"usr/{each}") for each in ("bin", "lib", "lib64")), folder("d")]
    layers = [
        [folder("d"), file("d/last", b"%d" % n), file(f"d/f{n}"), whiteout(f"d/f{n - 1}")]
        for n in range(1, LAYERS)
    ]
    names = shelf.stack(bottom, *layers)
    assert len(set(names)) == LAYERS
    digest = sha256(b"manifest")
    lab.roots.store.put("images", digest, {"digest": digest, "name": "deep", "layers": list(names)})
    base = lab.rootfs("deep", ImageRoot(digest=digest))
    spec = ContainerSpec(
        rootfs="deep", command=(), mounts=(BindMount(source="/usr", target="/usr", read_only=True),)
    )
    assert lab.output("cat /d/last; echo; ls /d; echo new > /d/new; pwd", spec, base=base).split() == [
        "126",
        "f126",
        "last",
        "/",
    ]


def test_what_a_killed_unpacking_leaves_is_never_used(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    tar = packed(*(file(f"f{n}", os.urandom(5000)) for n in range(3000)))
    blob = shelf.blob(gzip.compress(tar, 1, mtime=0))
    script = (
        "import sys, os, pathlib\n"
        "from tests.kernel.layer_lab import Shelf\n"
        "Shelf(pathlib.Path(sys.argv[1])).unpack(pathlib.Path(sys.argv[2]).read_bytes())\n"
    )
    source = tmp_path / "tar"
    source.write_bytes(tar)
    child = subprocess.Popen([sys.executable, "-c", script, os.fspath(tmp_path), os.fspath(source)])
    root = shelf.store.folder("x").parent
    while child.poll() is None and not any(root.glob(".tmp-*/f1*")):
        pass
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it was killed in the middle"
    assert shelf.store.contents() == ()
    assert len(shelf.store.half_made()) == 1
    assert blob.exists()
    name = shelf.unpack(tar)
    assert shelf.store.damage(name) == ()
    assert shelf.left() == []


def test_a_full_disk_is_left_as_it_was(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=3000", "none", tmp_path], check=True)
    try:
        shelf = Shelf(tmp_path)
        first = shelf.unpack(packed(file("a")))
        big = packed(*(file(f"f{n}", b"0" * 100_000) for n in range(40)))
        many = packed(*(folder(f"d{n}") for n in range(20_000)))
        for each in (big, many):
            with pytest.raises(StepError, match="no space left on device"):
                shelf.unpack(each)
            assert shelf.store.contents() == (first,)
            assert shelf.left() == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_modes_are_the_archives_under_any_umask(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    before = os.umask(0o077)
    try:
        names = shelf.stack(
            [folder("a", mode=0o777)],
            [
                file("a/b/c", mode=0o666),
                file("n/m/o", mode=0o4755),
            ],
        )
    finally:
        os.umask(before)
    top = shelf.store.folder(names[0])
    modes = {
        path: os.stat(top / path).st_mode & 0o7777 for path in (".", "a", "a/b", "a/b/c", "n", "n/m", "n/m/o")
    }
    assert modes == {
        ".": 0o755, "a": 0o777, "a/b": 0o755, "a/b/c": 0o666, "n": 0o755, "n/m": 0o755, "n/m/o": 0o4755
    }  # fmt: skip
