"""The first use of a volume: what it takes over, from whom, once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from orchestrator.drivers.volumes import seeding

pytestmark = pytest.mark.root


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    (folder / "data").mkdir(parents=True)
    return folder


def lower(tmp_path: Path, name: str, files: dict[str, str]) -> str:
    top = tmp_path / name
    top.mkdir()
    for path, text in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    return os.fspath(top)


def names(volume: Path) -> list[str]:
    return sorted(each.name for each in (volume / "data").iterdir())


def test_content_owner_and_mode_come_over(tmp_path: Path, volume: Path) -> None:
    root = lower(tmp_path, "root", {"var/lib/db/a": "x", "var/lib/db/sub/b": "y"})
    os.chown(f"{root}/var/lib/db", 999, 998)
    os.chmod(f"{root}/var/lib/db", 0o2750)
    os.link(f"{root}/var/lib/db/a", f"{root}/var/lib/db/same")
    os.symlink("/etc/passwd", f"{root}/var/lib/db/link")
    os.setxattr(f"{root}/var/lib/db/a", "user.note", b"1")
    seeding.seed(volume, (root,), "/var/lib/db")
    data = volume / "data"
    about = data.stat()
    assert (about.st_uid, about.st_gid, about.st_mode & 0o7777) == (999, 998, 0o2750)
    assert names(volume) == ["a", "link", "same", "sub"]
    assert (data / "a").stat().st_ino == (data / "same").stat().st_ino
    assert os.readlink(data / "link") == "/etc/passwd"
    assert os.getxattr(data / "a", "user.note") == b"1"


def test_once_in_a_volumes_life(tmp_path: Path, volume: Path) -> None:
    root = lower(tmp_path, "root", {"data/a": "x"})
    seeding.seed(volume, (root,), "/data")
    (volume / "data/a").unlink()
    seeding.seed(volume, (root,), "/data")
    assert names(volume) == []


def test_what_was_used_before_keeps_what_it_has(tmp_path: Path, volume: Path) -> None:
    (volume / "data/mine").write_text("1")
    seeding.seed(volume, (lower(tmp_path, "root", {"data/a": "x"}),), "/data")
    assert names(volume) == ["mine"]


@pytest.mark.parametrize("target", ["/none", "/file", "/loop", "/file/below"])
def test_where_there_is_no_folder_there_is_nothing_to_take(tmp_path: Path, volume: Path, target: str) -> None:
    root = lower(tmp_path, "root", {"file": "x"})
    os.symlink("loop", f"{root}/loop")
    seeding.seed(volume, (root,), target)
    assert names(volume) == [] and seeding.seeded(volume)


@pytest.mark.parametrize("link", ["/etc", "../../../../etc", "/proc/self/root/etc"])
def test_a_link_leads_nowhere_but_into_the_root(tmp_path: Path, volume: Path, link: str) -> None:
    root = lower(tmp_path, "root", {"etc/inside": "x"})
    os.symlink(link, f"{root}/data")
    seeding.seed(volume, (root,), "/data")
    assert names(volume) in (["inside"], [])
    assert "passwd" not in names(volume)


def test_layers_are_merged_as_the_container_sees_them(tmp_path: Path, volume: Path) -> None:
    below = lower(tmp_path, "below", {"data/gone": "x", "data/kept": "x", "data/changed": "old"})
    above = lower(tmp_path, "above", {"data/changed": "new"})
    os.mknod(f"{above}/data/gone", 0o20000, os.makedev(0, 0))
    seeding.seed(volume, (above, below), "/data")
    assert names(volume) == ["changed", "kept"]
    assert (volume / "data/changed").read_text() == "new"
    assert os.fspath(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert sorted(each.name for each in volume.iterdir()) == ["data", "seeded"]


def test_half_a_copy_is_never_used(tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lower(tmp_path, "root", {"data/a": "x", "data/b": "y"})
    (volume / ".seed").mkdir()
    (volume / ".seed/half").touch()

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", killed)
        seeding.seed(volume, (root,), "/data")
    assert names(volume) == [] and not seeding.seeded(volume)
    seeding.seed(volume, (root,), "/data")
    assert names(volume) == ["a", "b"]


def test_replicas_start_side_by_side(tmp_path: Path, volume: Path) -> None:
    root = lower(tmp_path, "root", {f"data/{number}": "x" for number in range(200)})
    failed: list[BaseException] = []

    def start() -> None:
        try:
            seeding.seed(volume, (root,), "/data")
            assert len(names(volume)) == 200
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
