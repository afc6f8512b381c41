"""The rootfs driver: content shared between stacks, gone with its last user, never half there."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from orchestrator.drivers.rootfs.driver import RootfsDriver
from orchestrator.errors import StepError
from orchestrator.model.desired import ArchiveRoot, DirectoryRoot, HostRoot, RootfsSpec, RootSource, Stack
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Phase
from orchestrator.ports.layout import Layout

pytestmark = pytest.mark.root


def target(stack: str = "shop", id: str = "0" * 12) -> Incarnation:
    return Incarnation(stack, Ref(Kind.ROOTFS, "base"), id)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path / "instance")


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveRoot:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("etc/motd")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    path = tmp_path / "a.tar.gz"
    path.write_bytes(out.getvalue())
    return ArchiveRoot(path=os.fspath(path), sha256=hashlib.sha256(out.getvalue()).hexdigest())


def problems(driver: RootfsDriver, source: RootSource) -> list[str]:
    ref = Ref(Kind.ROOTFS, "base")
    return [
        each.message
        for each in driver.check(Stack(name="shop", resources={ref: RootfsSpec(source=source)}, needs={}))
    ]


def contents(layout: Layout) -> list[str]:
    """Those that are whole, and what is half made."""
    names = (each.name for each in layout.rootfs.iterdir())
    return sorted(each for each in names if not each.startswith(".") or each.startswith(".tmp-"))


def test_content_is_shared_and_goes_with_its_last_user(layout: Layout, archive: ArchiveRoot) -> None:
    driver = RootfsDriver(layout)
    first, second = target(), target("other", "1" * 12)
    for each in (first, second):
        driver.create(each, RootfsSpec(source=archive), ())
    assert driver.root(first) == driver.root(second)
    assert Path(driver.root(first).lowers[0], "etc/motd").read_text() == "hello"
    driver.delete(first)
    assert contents(layout) == [archive.sha256]
    driver.delete(second)
    driver.delete(second)
    assert contents(layout) == []
    assert driver.stacks() == frozenset()


def test_wrong_digest_is_found_before_anything_is_made(layout: Layout, archive: ArchiveRoot) -> None:
    driver = RootfsDriver(layout)
    wrong = ArchiveRoot(path=archive.path, sha256="0" * 64)
    (message,) = problems(driver, wrong)
    assert archive.sha256 in message
    assert "0" * 64 in message
    with pytest.raises(StepError, match=archive.sha256):
        driver.create(target(), RootfsSpec(source=wrong), ())
    assert contents(layout) == []
    assert driver.observe("shop") == ()


def test_half_an_unpacking_is_never_used(layout: Layout, archive: ArchiveRoot) -> None:
    driver = RootfsDriver(layout)
    (layout.rootfs / f".tmp-{archive.sha256}" / "etc").mkdir(parents=True)
    (layout.rootfs / f".tmp-{archive.sha256}" / "etc/half").touch()
    driver.create(target(), RootfsSpec(source=archive), ())
    assert not Path(driver.root(target()).lowers[0], "etc/half").exists()
    assert contents(layout) == [archive.sha256]


def test_delete_takes_along_what_killed_processes_left(layout: Layout, archive: ArchiveRoot) -> None:
    driver = RootfsDriver(layout)
    driver.create(target(), RootfsSpec(source=archive), ())
    driver.create(target("other", "1" * 12), RootfsSpec(source=HostRoot()), ())
    (kept,) = set(contents(layout)) - {archive.sha256}
    for name in (
        f".tmp-{kept}",
        ".tmp-" + "f" * 64,
        "e" * 64,
    ):  # half removed, half unpacked, unpacked unrecorded
        (layout.rootfs / name / "etc").mkdir(parents=True)
    driver.delete(target())
    assert contents(layout) == [kept]


def test_killed_before_its_record_went_a_delete_is_done_again(
    layout: Layout, archive: ArchiveRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = RootfsDriver(layout)
    driver.create(target(), RootfsSpec(source=archive), ())

    def killed(path: object) -> None:
        raise KeyboardInterrupt(path)

    monkeypatch.setattr("orchestrator.drivers.rootfs.store.remove_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        driver.delete(target())
    monkeypatch.undo()
    assert len(driver.observe("shop")) == 1
    driver.delete(target())
    assert contents(layout) == []
    assert driver.observe("shop") == ()


def test_content_that_somebody_removed_is_created_not_running_and_comes_back(
    layout: Layout, archive: ArchiveRoot
) -> None:
    driver = RootfsDriver(layout)
    driver.create(target(), RootfsSpec(source=archive), ())
    subprocess.run(["rm", "-r", driver.root(target()).lowers[0]], check=True)
    assert [each.phase for each in driver.observe("shop")] == [Phase.CREATED]
    driver.start(target())
    assert [each.phase for each in driver.observe("shop")] == [Phase.RUNNING]


def test_host_root_shows_usr_over_a_skeleton(layout: Layout) -> None:
    driver = RootfsDriver(layout)
    driver.create(target(), RootfsSpec(source=HostRoot()), ())
    root = driver.root(target())
    assert ("/usr", "/usr") in root.binds
    assert not Path(root.lowers[0], "etc/shadow").exists()
    assert Path(root.lowers[0], "etc/passwd").read_text().startswith("root:x:0:0:")


@pytest.mark.parametrize(
    "path,message",
    [
        ("/", "the host's / cannot be a rootfs"),
        ("/nonexistent/x", "no such directory"),
        ("/etc/passwd", "not a directory"),
    ],
)
def test_unfit_directories_are_problems(layout: Layout, path: str, message: str) -> None:
    driver = RootfsDriver(layout)
    assert any(message in each for each in problems(driver, DirectoryRoot(path=path)))
    with pytest.raises(StepError, match=message):
        driver.create(target(), RootfsSpec(source=DirectoryRoot(path=path)), ())


def test_missing_archive_is_a_problem(layout: Layout) -> None:
    (message,) = problems(RootfsDriver(layout), ArchiveRoot(path="/nonexistent.tar", sha256="0" * 64))
    assert "/nonexistent.tar: no such file" in message


def test_full_disk_says_where_and_leaves_nothing(layout: Layout, tmp_path: Path) -> None:
    """The store on a tmpfs of 256 KiB, an archive of 1 MiB."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("big")
        info.size = 1 << 20
        tar.addfile(info, io.BytesIO(b"x" * info.size))
    path = tmp_path / "big.tar"
    path.write_bytes(out.getvalue())
    layout.rootfs.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", layout.rootfs], check=True)
    try:
        source = ArchiveRoot(path=os.fspath(path), sha256=hashlib.sha256(out.getvalue()).hexdigest())
        with pytest.raises(StepError, match=r"rootfs/base.*big.*no space left on device"):
            RootfsDriver(layout).create(target(), RootfsSpec(source=source), ())
        assert contents(layout) == []
    finally:
        subprocess.run(["umount", layout.rootfs], check=True)
