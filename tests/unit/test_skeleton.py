"""The host rootfs's skeleton, made from a host of the test's own: what is copied, and what never is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.drivers.rootfs import skeleton


@pytest.fixture
def host(tmp_path: Path) -> Path:
    root = tmp_path / "host"
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "lib").mkdir()
    etc = root / "etc"
    for folder in ("alternatives", "ssl/private", "ssl/certs", "ssh", "ld.so.conf.d"):
        (etc / folder).mkdir(parents=True)
    (etc / "alternatives/awk").symlink_to("/usr/bin/mawk")
    for name in (
        "shadow",
        "passwd",
        "machine-id",
        "ssh/ssh_host_key",
        "ssl/private/key.pem",
        "ssl/secret.pem",
    ):
        (etc / name).write_text("SECRET")
    (etc / "ssl/secret.pem").chmod(0o600)
    (etc / "ssl/certs/ca.pem").write_text("cert")
    (etc / "ld.so.cache").write_text("cache")
    (etc / "localtime").symlink_to("/usr/share/zoneinfo/UTC")
    return root


@pytest.fixture
def made(host: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir(mode=0o700)
    old = os.umask(0o077)  # what we make must not depend on it
    try:
        skeleton.fill(str(folder), str(host))
    finally:
        os.umask(old)
    return folder


def test_nothing_secret_of_the_host_is_in_it(made: Path) -> None:
    files = [each for each in made.rglob("*") if each.is_file() and not each.is_symlink()]
    assert not [each for each in files if "SECRET" in each.read_text()]
    assert not (made / "etc/shadow").exists()
    assert not (made / "etc/ssl/private").exists()


def test_alternatives_certificates_and_loader_cache_are_in_it(made: Path) -> None:
    assert os.readlink(made / "etc/alternatives/awk") == "/usr/bin/mawk"
    assert os.readlink(made / "etc/localtime") == "/usr/share/zoneinfo/UTC"
    assert (made / "etc/ssl/certs/ca.pem").read_text() == "cert"
    assert (made / "etc/ld.so.cache").read_text() == "cache"


def test_every_user_gets_in_whatever_the_umask(made: Path) -> None:
    for folder in ("", "etc", "usr", "var", "etc/ssl", "run"):
        assert (made / folder).stat().st_mode & 0o7777 == 0o755
    for folder in ("tmp", "var/tmp"):
        assert (made / folder).stat().st_mode & 0o7777 == 0o1777
    assert (made / "etc/passwd").stat().st_mode & 0o7777 == 0o644


def test_users_are_ours_and_root_comes_first(made: Path) -> None:
    lines = (made / "etc/passwd").read_text().splitlines()
    assert lines[0] == "root:x:0:0:root:/root:/bin/sh"
    assert {"nobody", "www-data"} <= {line.split(":")[0] for line in lines}
    assert all(len(line.split(":")) == 7 for line in lines)


def test_merged_folders_are_links_and_others_are_binds(made: Path, host: Path) -> None:
    assert os.readlink(made / "bin") == "usr/bin"
    assert (made / "lib").is_dir()
    assert skeleton.binds(str(host)) == ((f"{host}/usr", "/usr"), (f"{host}/lib", "/lib"))


def test_key_changes_with_the_hosts_libraries_and_alternatives(host: Path) -> None:
    seen = {skeleton.key(str(host))}
    os.utime(host / "etc/ld.so.cache", ns=(1, 1))
    seen.add(skeleton.key(str(host)))
    (host / "etc/alternatives/vi").symlink_to("/usr/bin/vim")
    os.utime(host / "etc/alternatives", ns=(2, 2))
    seen.add(skeleton.key(str(host)))
    assert len(seen) == 3
    assert skeleton.key(str(host)) in seen
