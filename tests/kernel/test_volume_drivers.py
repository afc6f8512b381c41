"""Volumes in memory, of the host's, and with a limit that the kernel enforces."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.drivers.volumes import quota
from orchestrator.drivers.volumes.driver import VolumeDriver
from orchestrator.model.desired import Stack, VolumeSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Phase
from orchestrator.ports.layout import Layout

pytestmark = pytest.mark.root

DATA = Ref(Kind.VOLUME, "data")
ONE = Incarnation("shop", DATA, "0" * 12)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path / "instance")


def phase(driver: VolumeDriver) -> Phase:
    (found,) = driver.observe("shop")
    return found.phase


def test_memory_is_mounted_grows_and_goes(layout: Layout) -> None:
    driver = VolumeDriver(layout)
    driver.create(ONE, VolumeSpec(tmpfs=1 << 20), ())
    path = driver.path(ONE)
    try:
        assert os.path.ismount(path) and phase(driver) is Phase.RUNNING
        Path(path, "kept").write_text("x")
        driver.update(ONE, VolumeSpec(tmpfs=4 << 20), ("tmpfs",), ())
        about = os.statvfs(path)
        assert about.f_blocks * about.f_frsize == 4 << 20 and Path(path, "kept").exists()
        assert about.f_flag & os.ST_NOSUID
        subprocess.run(["umount", path], check=True)  # as a reboot does it
        assert phase(driver) is Phase.CREATED
        driver.start(ONE)
        assert phase(driver) is Phase.RUNNING
    finally:
        driver.delete(ONE)
    assert not os.path.exists(path) and path not in Path("/proc/self/mountinfo").read_text()


def test_a_folder_of_the_hosts_is_never_removed(layout: Layout, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    driver, spec = VolumeDriver(layout), VolumeSpec(bind=os.fspath(mine))
    (problem,) = driver.check(Stack(name="shop", resources={DATA: spec}, needs={}))
    assert problem.message == f"{mine}: no such directory"
    mine.mkdir()
    (mine / "kept").touch()
    assert not driver.check(Stack(name="shop", resources={DATA: spec}, needs={}))
    driver.create(ONE, spec, ())
    assert driver.path(ONE) == os.fspath(mine)
    driver.delete(ONE)
    assert (mine / "kept").exists()


def test_another_driver_takes_no_data_away(layout: Layout, tmp_path: Path) -> None:
    driver = VolumeDriver(layout)
    driver.create(ONE, VolumeSpec(), ())
    Path(driver.path(ONE), "kept").touch()
    driver.update(ONE, VolumeSpec(bind=os.fspath(tmp_path)), ("bind",), ())
    assert driver.path(ONE) == os.fspath(tmp_path)
    driver.update(ONE, VolumeSpec(), ("bind",), ())
    assert Path(driver.path(ONE), "kept").exists()


def test_a_limit_that_cannot_be_set_is_found_before(layout: Layout) -> None:
    if quota.unsupported(os.fspath(layout.state)) is None:
        pytest.skip("the file system of the tests has project quotas")
    spec = VolumeSpec(size=1 << 20)
    (problem,) = VolumeDriver(layout).check(Stack(name="shop", resources={DATA: spec}, needs={}))
    assert problem.field == "size" and "project quotas" in problem.message


@pytest.fixture(params=["ext4", "xfs"])
def counted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layout]:
    """An instance on a file system with project quotas."""
    image, point = tmp_path / "image", tmp_path / "fs"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    if request.param == "ext4":
        make = ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", image]
    else:
        make = ["mkfs.xfs", "-q", image]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(make, check=True, env=environment)
    done = subprocess.run(
        ["mount", "-o", "loop,prjquota", image, point], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this kernel mounts no {request.param} with project quotas: {done.stderr.strip()}")
    try:
        yield Layout.at(point / "instance")
    finally:
        subprocess.run(["umount", point], check=True)


def test_the_kernel_keeps_a_volume_to_its_size(counted: Layout) -> None:
    driver = VolumeDriver(counted)
    driver.create(ONE, VolumeSpec(), ())
    data = Path(driver.path(ONE))
    (data / "sub").mkdir()
    (data / "sub/before").write_bytes(b"x" * (1 << 20))
    assert not driver.check(Stack(name="shop", resources={DATA: VolumeSpec(size=1)}, needs={}))
    driver.update(ONE, VolumeSpec(size=4 << 20), ("size",), ())
    with pytest.raises(OSError) as caught:
        (data / "sub/more").write_bytes(b"x" * (8 << 20))
    assert caught.value.errno in (errno.EDQUOT, errno.ENOSPC)
    (data / "sub/more").unlink()
    driver.update(ONE, VolumeSpec(size=16 << 20), ("size",), ())
    (data / "sub/more").write_bytes(b"x" * (8 << 20))
    driver.update(ONE, VolumeSpec(), ("size",), ())
    (data / "sub/most").write_bytes(b"x" * (20 << 20))
