"""Users as the rootfs's own files name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.supervisor.identity import Identity, resolve
from orchestrator.supervisor.kernel import CallError

PASSWD = """root:x:0:0:root:/root:/bin/sh
# comment:x:9:9::/:
web:x:1000:1001:Web:/home/web:/bin/sh
broken
bad:x:no:1::/:
big:x:70000:1::/:
"""
GROUP = "root:x:0:\nweb:x:1001:\nlogs:x:1002:other,web\nempty:x:1003:\nbad:x:no:\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("0", Identity(uid=0, gid=0, groups=(0,), home="/root")),
        ("root", Identity(uid=0, gid=0, groups=(0,), home="/root")),
        ("web", Identity(uid=1000, gid=1001, groups=(1001, 1002), home="/home/web")),
        ("1000", Identity(uid=1000, gid=1001, groups=(1001, 1002), home="/home/web")),
        ("web:logs", Identity(uid=1000, gid=1002, groups=(1002,), home="/home/web")),
        ("web:7", Identity(uid=1000, gid=7, groups=(7,), home="/home/web")),
        ("4242", Identity(uid=4242, gid=0, groups=(0,), home="/")),
        ("4242:4343", Identity(uid=4242, gid=4343, groups=(4343,), home="/")),
        ("65535:65535", Identity(uid=65535, gid=65535, groups=(65535,), home="/")),
    ],
)
def test_users_and_groups(root: int, user: str, expected: Identity) -> None:
    assert resolve(root, user) == expected


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", "user 'nobody' is not in the rootfs's /etc/passwd"),
        ("web:nogroup", "group 'nogroup' is not in the rootfs's /etc/group"),
        ("", "user '' is not USER or USER:GROUP"),
        ("web:", "user 'web:' is not USER or USER:GROUP"),
        (":web", "user ':web' is not USER or USER:GROUP"),
        ("bad", "user 'bad' has no numbers in the rootfs's /etc/passwd"),
        *(
            (text, f"id {text} is out of range: users and groups go from 0 to 65535")
            for text in ("-1", "65536", "2147483648", "4294967295", "4294967296", "99999999999999999999")
        ),
        ("big", "id 70000 is out of range: users and groups go from 0 to 65535"),
        ("0:4294967296", "id 4294967296 is out of range: users and groups go from 0 to 65535"),
    ],
)
def test_what_is_refused(root: int, user: str, message: str) -> None:
    with pytest.raises(CallError) as caught:
        resolve(root, user)
    assert str(caught.value) == message


def test_numbers_need_no_passwd(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_PATH)
    assert resolve(root, "1000:1000") == Identity(uid=1000, gid=1000, groups=(1000,), home="/")
    with pytest.raises(CallError, match="not in the rootfs's"):
        resolve(root, "web")
    os.close(root)


def test_a_passwd_that_is_no_regular_file_is_refused_without_hanging(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    root = os.open(tmp_path, os.O_PATH)
    with pytest.raises(CallError, match="not a regular file"):
        resolve(root, "web")
    os.close(root)


def test_a_symlink_to_the_hosts_passwd_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/../../etc/real")
    (tmp_path / "etc/real").write_text("inner:x:5:6::/in:\n")
    root = os.open(tmp_path, os.O_PATH)
    assert resolve(root, "inner").uid == 5
    os.close(root)


def test_a_huge_passwd_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with open(tmp_path / "etc/passwd", "wb") as file:
        file.truncate(5 * 1024 * 1024)
    root = os.open(tmp_path, os.O_PATH)
    with pytest.raises(CallError, match="larger than 4 MiB"):
        resolve(root, "web")
    os.close(root)
