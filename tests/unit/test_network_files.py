"""hosts and resolv.conf as text, and written in place."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orchestrator.drivers.network import files


def test_hosts_names_every_member_of_every_network_once() -> None:
    front = {"web": "10.87.0.2", "web-1": "10.87.0.3"}
    back = {"web-1": "10.87.1.2", "db-1": "10.87.1.3"}
    assert files.Everybody([front, back]).hosts("web-1", "10.87.0.3") == (
        "127.0.0.1 localhost\n10.87.0.3 web-1\n10.87.0.2 web\n10.87.1.2 web-1\n10.87.1.3 db-1\n"
    )


def test_names_of_other_stacks_are_whole_and_bare_where_that_is_free() -> None:
    edge = {"web": "10.87.0.2", "web.infra": "10.87.0.3", "db.infra": "10.87.0.4", "db.other": "10.87.0.5"}
    back = {"db-1": "10.87.1.2", "db-1.other": "10.87.1.3", "db.infra": "10.87.1.4"}
    text = files.Everybody([edge, back]).hosts("own", "10.87.0.2")
    assert text.splitlines()[2:] == [
        "10.87.0.2 web",
        "10.87.0.3 web.infra",
        "10.87.0.4 db.infra db",
        "10.87.0.5 db.other",
        "10.87.1.2 db-1",
        "10.87.1.3 db-1.other",
        "10.87.1.4 db.infra db",
    ]


def test_a_hostname_of_its_own_comes_beside_the_instances_name() -> None:
    text = files.Everybody([{"web-1": "10.87.0.3"}]).hosts("shop.example", "10.87.0.3")
    assert text == "127.0.0.1 localhost\n10.87.0.3 shop.example\n10.87.0.3 web-1\n"


def test_a_hostname_is_nobody_elses_bare_name() -> None:
    everybody = files.Everybody([{"db.infra": "10.87.0.3", "db.other": "10.87.0.4"}])
    assert everybody.hosts("db", "10.87.0.2").splitlines()[1:] == [
        "10.87.0.2 db",
        "10.87.0.3 db.infra",
        "10.87.0.4 db.other",
    ]
    assert everybody.hosts("web", "10.87.0.2").splitlines()[2] == "10.87.0.3 db.infra db"


def test_dns_is_the_users_else_the_hosts_else_the_gateway_else_a_word() -> None:
    assert files.resolv_conf(("192.0.2.1",), ("192.0.2.2",), "10.87.0.1") == "nameserver 192.0.2.1\n"
    assert files.resolv_conf((), ("192.0.2.2", "192.0.2.3"), "10.87.0.1") == (
        "nameserver 192.0.2.2\nnameserver 192.0.2.3\n"
    )
    assert files.resolv_conf((), (), "10.87.0.1") == "nameserver 10.87.0.1\n"
    assert files.resolv_conf((), (), None) == "# no name server: none is reachable from here\n"


def test_the_hosts_name_servers_without_loopback_and_ipv6(tmp_path: Path) -> None:
    stub, upstream = tmp_path / "stub", tmp_path / "upstream"
    stub.write_text("# made by\nnameserver 127.0.0.53\noptions edns0\nsearch example.org\n")
    upstream.write_text("nameserver 192.0.2.53\nnameserver fe80::1\nnameserver nonsense\nnameserver\n")
    assert files.name_servers((str(stub), str(upstream))) == (("192.0.2.53",), None)
    assert files.name_servers((str(stub), str(tmp_path / "none"))) == ((), "127.0.0.53")
    assert files.name_servers((str(tmp_path / "none"),)) == ((), None)


def test_every_user_reads_it_whatever_the_umask_of_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    mask = os.umask(0o077)
    try:
        files.write(path, "one\n")
        assert path.stat().st_mode & 0o777 == 0o644
        path.chmod(0o600)
        files.write(path, "one\n")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_is_written_on_the_same_inode_and_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    files.write(path, "one line\nand another\n")
    inode = path.stat().st_ino
    files.write(path, "one\n")
    assert (path.read_text(), path.stat().st_ino, path.stat().st_mode & 0o777) == ("one\n", inode, 0o644)


def test_an_unchanged_file_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    files.write(path, "one\n")
    before = path.stat().st_mtime_ns
    files.write(path, "one\n")
    assert path.stat().st_mtime_ns == before


def test_without_space_only_what_is_no_longer_is_written_over_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "effect.json"
    files.replace(path, "a long text")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "write_bytes", full)
    files.replace(path, "short")
    assert path.read_text() == "short"
    with pytest.raises(OSError, match="no space"):
        files.replace(path, "longer than that")
    assert [each.name for each in tmp_path.iterdir()] == ["effect.json"]
    assert path.read_text() == "short"
