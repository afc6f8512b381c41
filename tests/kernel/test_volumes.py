"""Volumes: known by stack and name, kept until they are deleted; and the removal of trees that containers leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.drivers.trees import remove_tree
from orchestrator.drivers.volumes.driver import VolumeDriver
from orchestrator.model.desired import VolumeSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Phase
from orchestrator.ports.layout import Layout

pytestmark = pytest.mark.root


def target(id: str = "0" * 12) -> Incarnation:
    return Incarnation("shop", Ref(Kind.VOLUME, "data"), id)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def test_volume_is_in_effect_and_every_user_gets_in(layout: Layout) -> None:
    driver = VolumeDriver(layout)
    old = os.umask(0o077)
    try:
        driver.create(target(), VolumeSpec(), ())
    finally:
        os.umask(old)
    assert [(each.ref, each.phase) for each in driver.observe("shop")] == [(target().ref, Phase.RUNNING)]
    assert Path(driver.path(target())).stat().st_mode & 0o7777 == 0o755
    assert layout.state.stat().st_mode & 0o7777 == 0o700


def test_creating_again_keeps_the_data(layout: Layout) -> None:
    driver = VolumeDriver(layout)
    driver.create(target(), VolumeSpec(), ())
    Path(driver.path(target()), "x").write_text("kept")
    driver.create(target("1" * 12), VolumeSpec(), ())
    assert Path(driver.path(target("1" * 12)), "x").read_text() == "kept"
    driver.delete(target())
    assert Path(driver.path(target("1" * 12)), "x").read_text() == "kept"


def test_delete_removes_data_and_record_and_can_be_repeated(layout: Layout) -> None:
    driver = VolumeDriver(layout)
    driver.create(target(), VolumeSpec(), ())
    Path(driver.path(target()), "x").write_text("x")
    driver.delete(target())
    driver.delete(target())
    assert driver.stacks() == frozenset()
    assert not layout.volume("shop", "data").exists()


def test_a_torn_record_is_incomplete_and_its_deletion_never_takes_data(layout: Layout) -> None:
    driver = VolumeDriver(layout)
    driver.create(target(), VolumeSpec(), ())
    Path(driver.path(target()), "x").write_text("kept")
    (layout.record(target()) / "record.json").write_text('{"schema"')
    (found,) = driver.observe("shop")
    assert found.phase is Phase.INCOMPLETE
    driver.delete(Incarnation("shop", found.ref, found.id))
    assert driver.observe("shop") == ()
    assert Path(driver.path(target()), "x").read_text() == "kept"


def test_trees_deeper_than_the_longest_path_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    remove_tree(top)
    assert not top.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "x").touch()
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "l").symlink_to(kept)
    (top / "d/l").symlink_to(kept)
    remove_tree(top)
    assert not top.exists()
    assert (kept / "x").exists()
