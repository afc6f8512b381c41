"""Copies from tree to tree and through tar streams: docker cp's rules, hostile names and links, what is passed over."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from orchestrator.errors import StepError
from orchestrator.supervisor.kernel.mounts import open_beneath
from orchestrator.transfer import copying
from orchestrator.transfer.copying import Progress, Side
from orchestrator.transfer.entries import Skipped
from orchestrator.transfer.writing import Owners


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A container's root beside the host's files; `/escape` in it leads out by name, and must not."""
    folder = tmp_path / "inside"
    for each in ("etc", "srv/data", "tmp"):
        (folder / each).mkdir(parents=True)
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (folder / "srv/data/a").write_text("a")
    (folder / "srv/data/b").symlink_to("a")
    (folder / "escape").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    yield folder
    assert sorted(os.listdir(tmp_path / "outside")) == ["secret"]
    assert (tmp_path / "outside/secret").read_text() == "secret"


def there(root: Path, path: str) -> Side:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    return Side(opener=partial(open_beneath, fd), path=path, name="web-1:")


def here(path: Path | str) -> Side:
    return Side(opener=copying.host, path=str(path))


def copy(source: Side, target: Side, *, follow: bool = False, owners: Owners | None = None) -> list[str]:
    """The names that were passed over."""
    events = list(copying.copy(source, target, owners=owners or Owners(plain=True), follow=follow))
    return ["/".join(each.names) for each in events if isinstance(each, Skipped)]


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("srv/data", "new", "new/a"),  # a folder becomes what is not there
        ("srv/data", "old", "old/data/a"),  # and goes into what is
        ("srv/data/", "old", "old/data/a"),
        ("srv/data/.", "old", "old/a"),  # or only what is in it
        ("srv/data/.", "new", "new/a"),
        ("/", "new", "new/srv/data/a"),
        ("srv/data/a", "old", "old/a"),
        ("srv/data/a", "old/", "old/a"),
        ("srv/data/a", "old/c", "old/c"),
        ("srv/data/a", "old/file", "old/file"),  # replaced
        ("srv/data/a", "old/link", "old/file"),  # by way of the symlink
        ("srv/data/a", "old/dangling", "old/later"),
        ("../../srv/data/a", "new", "new"),
    ],
)
def test_things_land_where_docker_cp_puts_them(
    root: Path, tmp_path: Path, source: str, target: str, found: str
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/file").write_text("before")
    (tmp_path / "old/link").symlink_to("file")
    (tmp_path / "old/dangling").symlink_to("later")
    copy(there(root, source), here(tmp_path / target if not target.endswith("/") else f"{tmp_path}/{target}"))
    assert (tmp_path / found).read_text() == "a"
    assert (tmp_path / "old/link").is_symlink()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("srv/none", "new", "web-1:srv/none: no such file or directory"),
        ("srv/data/a/", "new", "not a "),
        ("srv/data", "file", "a file is there, and a folder is to be put in its place"),
        ("srv/data/a", "none/", "no such folder"),
        ("srv/data/a", "none/a", "no such file or directory"),
        ("srv/data/.", "clash", "clash/a: a folder is there already, and a file is to be put in its place"),
        ("etc/pipe", "new", "web-1:etc/pipe: a FIFO, which is not copied"),
        ("escape/secret", "new", "no such file or directory"),
    ],
)
def test_what_cannot_be_copied_is_an_error_with_its_place(
    root: Path, tmp_path: Path, source: str, target: str, message: str
) -> None:
    os.mkfifo(root / "etc/pipe")
    (tmp_path / "file").write_text("before")
    (tmp_path / "clash/a").mkdir(parents=True)
    with pytest.raises(StepError) as caught:
        copy(there(root, source), here(f"{tmp_path}/{target}"))
    assert message in caught.value.message
    assert (tmp_path / "file").read_text() == "before"


def test_a_link_is_copied_as_a_link_unless_it_is_to_be_followed(root: Path, tmp_path: Path) -> None:
    copy(there(root, "srv/data/b"), here(tmp_path / "link"))
    assert os.readlink(tmp_path / "link") == "a"
    copy(there(root, "srv/data/b"), here(tmp_path / "file"), follow=True)
    assert (tmp_path / "file").read_text() == "a"
    copy(there(root, "escape"), here(tmp_path / "escape"))
    assert os.readlink(tmp_path / "escape") == str(tmp_path / "outside")


def test_links_of_the_container_lead_nowhere_else(root: Path, tmp_path: Path) -> None:
    """Into it: by a link at the end of the way, on the way, and in a tree that was copied before."""
    (tmp_path / "tree/escape").mkdir(parents=True)
    (tmp_path / "tree/escape/secret").write_text("planted")
    with pytest.raises(StepError, match="no such file"):
        copy(here(tmp_path / "tree/escape/secret"), there(root, "escape/x"))
    with pytest.raises(StepError, match="a file or symlink is there already"):
        copy(here(f"{tmp_path}/tree/."), there(root, "/"))
    # Out of it: what an earlier copy left as a link is not followed either.
    (tmp_path / "back").mkdir()
    copy(there(root, "escape"), here(tmp_path / "back"))
    (root / "escape").unlink()
    (root / "escape").mkdir()
    (root / "escape/secret").write_text("planted")
    with pytest.raises(StepError, match="a file or symlink is there already"):
        copy(there(root, "escape"), here(tmp_path / "back"))


def test_a_file_takes_its_place_whole_and_at_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("new")
    (tmp_path / "file").chmod(0o640)
    os.utime(tmp_path / "file", (1000, 1000))
    os.link(root / "srv/data/a", root / "srv/hard")
    copy(here(tmp_path / "file"), there(root, "srv/data/a"))
    found = (root / "srv/data/a").stat()
    assert ((root / "srv/data/a").read_text(), stat.S_IMODE(found.st_mode), found.st_mtime) == (
        "new",
        0o640,
        1000,
    )
    assert (root / "srv/hard").read_text() == "a"
    assert sorted(os.listdir(root / "srv/data")) == ["a", "b"]


def test_devices_and_their_like_are_passed_over_with_a_word(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "srv/data/pipe")
    assert copy(there(root, "srv/data"), here(tmp_path / "new")) == ["pipe"]
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "b"]
    with pytest.raises(StepError, match="a view of the kernel's"):
        copy(here("/proc/self/status"), there(root, "tmp"))


def test_holes_stay_holes_and_setuid_stays_inside(root: Path, tmp_path: Path) -> None:
    big = root / "srv/big"
    with open(big, "wb") as file:
        file.seek(1 << 40)
        file.write(b"end")
    big.chmod(0o4755)
    copy(there(root, "srv/big"), here(tmp_path / "big"))
    found = (tmp_path / "big").stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == ((1 << 40) + 3, 0o755)
    assert found.st_blocks * 512 < 1 << 20
    copy(here(tmp_path / "big"), there(root, "srv/again"), owners=Owners())
    with open(root / "srv/again", "rb") as file:
        file.seek(1 << 40)
        assert file.read() == b"end"


def test_a_tree_too_deep_is_an_error(root: Path, tmp_path: Path) -> None:
    fd = os.open(root / "tmp", os.O_PATH)
    for _ in range(300):
        os.mkdir("d", dir_fd=fd)
        fd, old = os.open("d", os.O_PATH, dir_fd=fd), fd
        os.close(old)
    os.close(fd)
    with pytest.raises(StepError, match="deeper than 256 folders"):
        copy(there(root, "tmp"), here(tmp_path / "new"))


def test_tar_streams_are_read_by_others_and_back(root: Path, tmp_path: Path) -> None:
    name = "ä" * 60 + "/" + "n" * 120
    (root / "srv/data" / name).parent.mkdir()
    (root / "srv/data" / name).write_bytes(b"x" * 1000)
    stream = io.BytesIO()
    list(copying.pack(there(root, "/srv/data"), stream, follow=False))
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "out"], input=stream.getvalue(), check=True)
    assert (tmp_path / "out/data" / name).read_bytes() == b"x" * 1000
    assert os.readlink(tmp_path / "out/data/b") == "a"
    packed = io.BufferedReader(io.BytesIO(gzip.compress(stream.getvalue())))  # type: ignore[arg-type]
    list(copying.unpack(packed, there(root, "tmp"), owners=Owners()))
    assert (root / "tmp/data" / name).read_bytes() == b"x" * 1000
    with pytest.raises(StepError, match=r"web-1:/etc/hosts: not a directory"):
        list(copying.unpack(packed, there(root, "/etc/hosts"), owners=Owners()))


def archive(*members: tuple[str, bytes, str]) -> io.BufferedReader:
    """(name, type, link or content)"""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            tar.addfile(info, io.BytesIO(text.encode()))
    return io.BufferedReader(io.BytesIO(stream.getvalue()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "members",
    [
        [("../outside/x", tarfile.REGTYPE, "planted")],
        [("d/../../x", tarfile.REGTYPE, "planted")],
        [("l", tarfile.SYMTYPE, "/tmp"), ("l/x", tarfile.REGTYPE, "planted")],
        [("escape/x", tarfile.REGTYPE, "planted")],
        [("h", tarfile.LNKTYPE, "../outside/secret")],
        [("h", tarfile.LNKTYPE, "escape/secret")],
        [("h", tarfile.LNKTYPE, "")],
    ],
)
def test_hostile_archives_are_refused(root: Path, members: list[tuple[str, bytes, str]]) -> None:
    with pytest.raises(StepError):
        list(copying.unpack(archive(*members), there(root, "/"), owners=Owners()))


def test_ordinary_archives_are_unpacked(root: Path) -> None:
    stream = archive(
        ("./", tarfile.DIRTYPE, ""),
        ("./d/deep/file", tarfile.REGTYPE, "text"),
        ("./d/hard", tarfile.LNKTYPE, "./d/deep/file"),
        ("/d/soft", tarfile.SYMTYPE, "deep/file"),
        ("d/fifo", tarfile.FIFOTYPE, ""),
    )
    events = list(copying.unpack(stream, there(root, "srv"), owners=Owners()))
    assert [each for each in events if isinstance(each, Skipped)] == [
        Skipped(names=("d", "fifo"), why="a fifo")
    ]
    assert events[-2] == Progress(entries=4, bytes=4)
    assert (root / "srv/d/hard").samefile(root / "srv/d/deep/file")
    assert (root / "srv/d/soft").read_text() == "text"
